"""mmp: prototypes, the mixtures that grow from them, and the attention, each in plain numpy."""

from math import erf, sqrt

import numpy as np
import pytest
import torch
from by_hand import Array, Weights, array, count, shuffled, softmax
from toy_fusions import DIMS, TOY_SETTINGS, build_toy, toy_cases

from model.batch import Dims, collate
from model.fusion import build_fusion
from model.fusion.layers_prototypes import fit_mixture, fit_prototypes
from model.fusion.mmp import Mmp

BATCH = collate(toy_cases(12, 2, 7), DIMS)


# --- prototypes -----------------------------------------------------------------------------------


def test_prototypes_are_the_centres_of_separate_groups() -> None:
    torch.manual_seed(0)
    group = torch.tensor([0] * 50 + [1] * 5 + [2] * 20 + [3] * 25)
    patches = 20 * torch.randn(4, 8)[group] + torch.randn(100, 8)
    found = fit_prototypes(torch.chunk(patches, 4), count=4, most=100)
    means = torch.stack([patches[group == kind].mean(dim=0) for kind in range(4)])
    order = [int((found - mean).square().sum(dim=1).argmin()) for mean in means]
    assert sorted(order) == [0, 1, 2, 3]
    assert torch.allclose(found[order], means, atol=1e-4)


def test_prototypes_are_the_same_each_time() -> None:
    bags = torch.chunk(torch.randn(90, 6), 5)
    state = torch.get_rng_state()
    first = fit_prototypes(bags, count=5, most=7)
    assert torch.get_rng_state().equal(state)
    assert fit_prototypes(bags, count=5, most=7).equal(first)


def test_small_bags_count_as_much_as_large_ones() -> None:
    bags = [torch.zeros(5000, 2), torch.ones(3, 2)]
    (mean,) = fit_prototypes(bags, count=1, most=6)  # three patches of each
    assert mean.tolist() == pytest.approx([0.5, 0.5])


def test_fewer_patches_than_prototypes() -> None:
    bag = torch.tensor([[0.0, 1.0], [4.0, 0.0]])
    found = fit_prototypes([bag], count=3, most=10)
    assert {tuple(row) for row in found.tolist()} == {(0.0, 1.0), (4.0, 0.0)}


# --- mixtures -------------------------------------------------------------------------------------


def em_step(bag: Array, prototypes: Array) -> tuple[Array, Array, Array, Array]:
    """Return shares, means, variances and responsibilities as slowly as the definition reads."""
    belongs = np.array([[np.exp(-((x - m) ** 2).sum() / 2) for m in prototypes] for x in bag])
    belongs = belongs.reshape(len(bag), len(prototypes))
    belongs /= belongs.sum(axis=1, keepdims=True)
    shares, means, variances = [], [], []
    for k, m in enumerate(prototypes):
        size = belongs[:, k].sum() + 1
        mean = sum((q * x for q, x in zip(belongs[:, k], bag, strict=True)), start=m) / size
        square = sum((q * x**2 for q, x in zip(belongs[:, k], bag, strict=True)), start=1 + m**2)
        shares.append(size / (len(bag) + len(prototypes)))
        means.append(mean)
        variances.append(square / size - mean**2)
    return np.array(shares), np.array(means), np.array(variances), belongs


def test_a_mixture_is_one_step_of_em() -> None:
    torch.manual_seed(1)
    prototypes = torch.randn(3, DIMS.embedding)
    mixture = fit_mixture(BATCH.bag, BATCH.mask, prototypes)
    for row, mask in enumerate(BATCH.mask):
        expected = em_step(array(BATCH.bag[row][mask]), array(prototypes))
        assert array(mixture.share[row]) == pytest.approx(expected[0], rel=1e-5)
        assert array(mixture.mean[row]) == pytest.approx(expected[1], abs=1e-5)
        assert array(mixture.variance[row]) == pytest.approx(expected[2], abs=1e-5)
        assert array(mixture.belongs[row][mask]) == pytest.approx(expected[3], abs=1e-6)
        assert not mixture.belongs[row][~mask].any()
    assert (mixture.variance > 0).all()


def test_a_mixture_of_no_patches_is_its_prior() -> None:
    prototypes = torch.randn(4, 5)
    mixture = fit_mixture(torch.zeros(1, 1, 5), torch.zeros(1, 1, dtype=torch.bool), prototypes)
    assert mixture.share.tolist() == [[0.25] * 4]
    assert torch.allclose(mixture.mean[0], prototypes)
    assert torch.allclose(mixture.variance, torch.ones(1, 4, 5), atol=1e-6)


def test_a_mixture_is_in_float32_whatever_the_training_step_is_in() -> None:
    bag, mask = 100 + torch.randn(1, 50, 6), torch.ones(1, 50, dtype=torch.bool)
    prototypes = 100 + torch.randn(3, 6)
    expected = fit_mixture(bag, mask, prototypes)
    with torch.autocast("cpu", torch.bfloat16):
        found = fit_mixture(bag, mask, prototypes)
    assert found.variance.equal(expected.variance)


# --- mmp ------------------------------------------------------------------------------------------


def normed(x: Array, gain: Array, shift: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled: Array = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return scaled * gain + shift


def gelu(x: Array) -> Array:
    cumulative: Array = np.array([1 + erf(value / sqrt(2)) for value in x]) / 2
    return x * cumulative


def mmp_by_hand(fusion: Mmp, weights: Weights, row: int) -> tuple[Array, Array]:
    """Return one case's logits and the weight of each of its patches."""
    bag = array(BATCH.bag[row][BATCH.mask[row]])
    share, mean, variance, belongs = em_step(bag, array(fusion.prototypes))
    slide = np.concatenate([share[:, None], mean, variance], axis=1)
    slide = slide @ weights["project.weight"].T + weights["project.bias"]
    genes = array(fusion.genes(BATCH)[row])
    tokens = np.concatenate([np.concatenate([slide, genes]), weights["codes"]], axis=1)
    tokens = normed(tokens, weights["norm.weight"], weights["norm.bias"])
    query, key, value = (
        tokens @ weights[f"attend.{x}.weight"].T for x in ("query", "key", "value")
    )
    paid = np.array([softmax(q @ key.T / np.sqrt(key.shape[1])) for q in query])
    attended = paid @ value
    layers = {name.split(".")[1]: w for name, w in weights.items() if name.startswith("layers.")}
    out = []
    for index, x in enumerate(attended):
        own = {name: w[index % len(w)] for name, w in layers.items()}
        hidden = gelu(normed(x, own["gain"], own["shift"]) @ own["inner"] + own["inner_bias"])
        fed = hidden @ own["outer"] + own["outer_bias"]
        out.append(normed(fed, weights["norm_out.weight"], weights["norm_out.bias"]))
    joined = np.concatenate(
        [np.mean(out[: len(slide)], axis=0), np.mean(out[len(slide) :], axis=0)]
    )
    per_prototype = paid.mean(axis=0)[: len(slide)] / belongs.sum(axis=0)
    of_patch = belongs @ per_prototype
    return weights["head.weight"] @ joined, of_patch / of_patch.sum()


@pytest.mark.parametrize("own_layers", [True, False])
def test_mmp_equals_its_equations(own_layers: bool) -> None:
    settings = TOY_SETTINGS["mmp"] | {"own_layers": own_layers}
    fusion = build_fusion("mmp", settings, DIMS.model_copy(update={"outputs": 4})).eval()
    assert isinstance(fusion, Mmp)
    weights = shuffled(fusion)
    logits, attention = fusion(BATCH), fusion.attention(BATCH)
    for row, mask in enumerate(BATCH.mask):
        expected, of_patch = mmp_by_hand(fusion, weights, row)
        assert array(logits[row]) == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert array(attention[row][mask]) == pytest.approx(of_patch, rel=1e-3)


def test_mmp_keeps_the_prototypes_of_the_training_fold() -> None:
    fusion = build_toy("mmp")
    bags = [torch.randn(20, DIMS.embedding) for _ in range(4)]
    before = fusion(BATCH)
    fusion.fit_unsupervised(bags)
    assert fusion.state_dict()["prototypes"].equal(fit_prototypes(bags, 3, 20_000))
    assert not torch.allclose(fusion(BATCH), before)


def test_mmp_has_the_parameters_of_the_paper() -> None:
    positions = range(7_110)  # of the Hallmarks, in which a gene counts once a set
    sets = {str(part): tuple(positions[part::50]) for part in range(50)}
    dims = Dims(embedding=1024, genes=7_110, gene_sets=sets)
    with torch.device("meta"):
        one = build_fusion("mmp", {"own_layers": False}, dims)
        each = build_fusion("mmp", {}, dims)
    assert count(one) == 5_817_088
    # The published count has one normalisation of width 144 more; no equation has a place for it.
    assert count(each) == 8_550_496 - 2 * 144
