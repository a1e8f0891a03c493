"""hsfsurv: its pseudo-bags, its four parts, and its objective, each written out."""

import numpy as np
import pytest
import torch
from by_hand import array, count, linear, relu, shuffled, sigmoid, softmax
from toy_fusions import DIMS, build_toy, toy_cases

from model.batch import Dims, collate
from model.fusion import build_fusion
from model.fusion.base import Labels
from model.fusion.hsfsurv import Hsfsurv, cut

BATCH = collate(toy_cases(8, 1, 5), DIMS)
LABELS = Labels(torch.tensor([True, True, False]), torch.tensor([0.3, 0.8, 0.3]))
BINS = [1, 3, 1]


def toy(seed: int = 0) -> Hsfsurv:
    fusion = build_toy("hsfsurv", outputs=4, seed=seed)
    assert isinstance(fusion, Hsfsurv)
    return fusion


def parts_of(fusion: Hsfsurv) -> list[list[torch.Tensor]]:
    """Return each case's four vectors by its own equations."""
    weights = {name: array(value) for name, value in fusion.named_parameters()}
    found = []
    for row, mask in enumerate(BATCH.mask):
        bag = array(BATCH.bag[row][mask])
        order = np.argsort(bag @ array(fusion.direction))
        genes = array(fusion.genes(BATCH)[row])
        slide = np.zeros_like(genes)
        for part in range(len(genes)):
            own = [int(p) for rank, p in enumerate(order) if rank * len(genes) // len(bag) == part]
            if own:
                patches = relu(linear(weights, "patches.project.0", bag[own]))
                value = np.tanh(linear(weights, "pool.value.0", patches))
                gate = sigmoid(linear(weights, "pool.gate.0", patches))
                shares = softmax(linear(weights, "pool.score", value * gate)[:, 0])
                slide[part] = shares @ patches
        agreed = sigmoid(slide * genes)
        sets = [agreed * slide, agreed * genes, slide - agreed * slide, genes - agreed * genes]
        tokens = [torch.from_numpy(part).float()[None] for part in sets]
        found.append([encode(x)[0] for encode, x in zip(fusion.encoders, tokens, strict=True)])
    return found


def test_a_bag_is_cut_into_equal_parts_by_position() -> None:
    position = torch.tensor([[5.0, -1.0, 3.0, 0.0, 9.0, 7.0, 0.0, 0.0], [2.0, 1.0] + [-9.0] * 6])
    mask = torch.arange(8) < torch.tensor([[7], [2]])
    position[0, 6] = 4.0
    within = cut(position, mask, 3)
    assert [part.nonzero()[:, 0].tolist() for part in within[0]] == [[1, 2, 3], [0, 6], [4, 5]]
    assert [part.nonzero()[:, 0].tolist() for part in within[1]] == [[1], [0], []]


@pytest.mark.parametrize("size", range(12))
def test_parts_differ_by_one_patch_at_most(size: int) -> None:
    mask = torch.arange(12)[None] < size
    within = cut(torch.randn(1, 12), mask, 5)
    assert within.sum(dim=1).equal(mask.long())
    sizes = within.sum(dim=2)
    assert sizes.max() - sizes.min() <= 1


def test_hsfsurv_equals_its_equations() -> None:
    fusion = toy()
    shuffled(fusion)
    logits, attention = fusion(BATCH), fusion.attention(BATCH)
    for row, parts in enumerate(parts_of(fusion)):
        expected = fusion.head(fusion.fused(torch.cat(parts)))
        assert logits[row].tolist() == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-4)
    assert attention[1, 0] == 1
    # of 5 patches in 3 parts, the two parts of two patches share as much as the one of one
    order = (BATCH.bag[2][:5] @ fusion.direction).argsort()
    shares = [attention[2, order[at]].sum().item() for at in ([0, 1], [2, 3], [4])]
    assert shares == pytest.approx([1 / 3] * 3)


def test_the_first_cases_of_a_bin_are_its_memory() -> None:
    fusion = toy().train()
    fusion.auxiliary_loss(BATCH, LABELS)
    assert fusion.met.tolist() == [False, True, False, True]
    parts = torch.tensor([[vector.tolist() for vector in case] for case in parts_of(fusion)])
    assert torch.allclose(fusion.memory[:, [1, 3]], parts[:2].transpose(0, 1), atol=1e-5)
    assert not fusion.memory[:, [0, 2]].any()
    with torch.no_grad():
        fusion.head.weight.zero_()
        fusion.encoders[0].get_parameter("out.0.bias").add_(1.0)
    later = torch.tensor([[vector.tolist() for vector in case] for case in parts_of(fusion)])
    fusion.auxiliary_loss(BATCH, LABELS)
    expected = 0.9 * parts[0] + 0.1 * later[0]
    assert torch.allclose(fusion.memory[:, 1], expected, atol=1e-5)


def test_the_objective_equals_its_terms() -> None:
    fusion = toy()
    shuffled(fusion)
    fusion.train().auxiliary_loss(BATCH, LABELS)
    with torch.no_grad():
        fusion.memory.add_(torch.randn_like(fusion.memory))
    loss = fusion.eval().auxiliary_loss(BATCH, LABELS).item()
    memory = array(fusion.memory)
    contrast = uncertainty = 0.0
    for row, case in enumerate(parts_of(fusion)):
        parts = [array(part) for part in case]
        predicted = [softmax(array(fusion.predict(part))) for part in case]
        mean = np.mean(predicted, axis=0)
        uncertainty -= (mean * np.log(mean)).sum() / 3
        if LABELS.event[row]:
            uncertainty -= np.mean([np.log(p[BINS[row]]) for p in predicted]) / 3
            for part, kinds in zip(parts, memory, strict=True):
                near = [
                    part @ kinds[k] / np.sqrt((part @ part) * (kinds[k] @ kinds[k])) for k in (1, 3)
                ]
                shares = softmax(np.array(near) / 0.1)
                contrast -= np.log(shares[[1, 3].index(BINS[row])]) / (4 * 3)
    assert loss == pytest.approx(0.1 * contrast + 0.1 * uncertainty, rel=1e-3)


def test_hsfsurv_is_made_of_motcats_parts() -> None:
    positions = range(3_523)
    sets = {str(part): tuple(positions[part::6]) for part in range(6)}
    dims = Dims(embedding=1024, genes=3_523, outputs=4, gene_sets=sets)
    with torch.device("meta"):
        fusion = build_fusion("hsfsurv", {}, dims)
    square = 256 * 256 + 256
    encoder = 2 * 527_104 + 2 * square + 257 + square
    # MOTCat's, two encoders more, a pool of patches, a wider joint layer, the prediction of bins.
    # The published 8,429,713 is of eight families and of patches cut along their features, with
    # layers of their own for these parts; how large the families are is not known.
    more = 2 * encoder + (2 * square + 257) + 2 * 256 * 256 + (256 * 4 + 4)
    assert count(fusion) == 4_262_406 + more
