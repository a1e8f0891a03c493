"""deepattnmisl: its clusters against plain loops, and that nothing but the patches decides them."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from by_hand import Array, array, linear, relu, shuffled, softmax
from toy_fusions import DIMS, build_toy, toy_cases

from model.batch import collate
from model.fusion.deepattnmisl import find_phenotypes


def k_means(bag: Array, clusters: int) -> npt.NDArray[np.int64]:
    """Find clusters (N,) as slowly as the definition reads."""
    centres: list[Array] = []
    while len(centres) < min(clusters, len(bag)):
        known = centres or [bag.mean(axis=0)]
        gaps = [min(float(((x - centre) ** 2).sum()) for centre in known) for x in bag]
        centres.append(bag[int(np.argmax(gaps))])
    found = np.full(len(bag), -1)
    while True:
        before = found.copy()
        for patch, x in enumerate(bag):
            found[patch] = np.argmin([((x - centre) ** 2).sum() for centre in centres])
        if (found == before).all():
            return found
        for cluster in range(len(centres)):
            if (found == cluster).any():
                centres[cluster] = bag[found == cluster].mean(axis=0)


@pytest.mark.parametrize(("patches", "clusters"), [(200, 10), (60, 3), (7, 10), (1, 4), (30, 1)])
def test_phenotypes_equal_plain_k_means(patches: int, clusters: int) -> None:
    torch.manual_seed(patches)
    bag = torch.randn(patches, 5)
    assert find_phenotypes(bag, clusters).tolist() == k_means(array(bag), clusters).tolist()


def test_phenotypes_find_separate_groups() -> None:
    torch.manual_seed(0)
    group = torch.tensor([0] * 50 + [1] * 5 + [2] * 20 + [3] * 1)
    bag = 20 * torch.randn(4, 8)[group] + torch.randn(76, 8)
    found = find_phenotypes(bag, 4)
    pairs = set(zip(group.tolist(), found.tolist(), strict=True))
    assert len(pairs) == 4
    assert len({cluster for _, cluster in pairs}) == 4


def test_phenotypes_do_not_depend_on_the_order_of_patches() -> None:
    torch.manual_seed(1)
    bag = torch.randn(300, 16)
    found = find_phenotypes(bag, 10)
    assert len(set(found.tolist())) == 10
    for _ in range(5):
        order = torch.randperm(300)
        assert find_phenotypes(bag[order], 10).equal(found[order])


def test_equal_patches_are_one_phenotype() -> None:
    assert set(find_phenotypes(torch.ones(6, 3), 4).tolist()) == {0}
    assert find_phenotypes(torch.ones(0, 3), 4).tolist() == []


def test_nothing_random_is_drawn() -> None:
    bag = torch.randn(40, 4)
    state = torch.get_rng_state()
    first = find_phenotypes(bag, 5)
    assert torch.get_rng_state().equal(state)
    assert find_phenotypes(bag, 5).equal(first)


def test_deepattnmisl_equals_its_equations() -> None:
    fusion = build_toy("deepattnmisl", outputs=4)
    weights = shuffled(fusion)
    batch = collate(toy_cases(12, 2, 7), DIMS)
    logits, attention = fusion(batch), fusion.attention(batch)
    for row, mask in enumerate(batch.mask):
        bag = array(batch.bag[row][mask])
        found = k_means(bag, clusters=3)
        kinds = np.unique(found)
        patches = relu(linear(weights, "project.0", bag))
        means = np.stack([patches[found == kind].mean(axis=0) for kind in kinds])
        scores = linear(weights, "score", np.tanh(linear(weights, "value.0", means)))[:, 0]
        shares = softmax(scores)
        expected = linear(weights, "head.3", relu(linear(weights, "head.0", shares @ means)))
        assert logits[row].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)
        size = {kind: int((found == kind).sum()) for kind in kinds}
        of_patch = [shares[list(kinds).index(kind)] / size[kind] for kind in found]
        assert attention[row][mask].tolist() == pytest.approx(of_patch, rel=1e-3)
