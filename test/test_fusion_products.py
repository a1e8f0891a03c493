"""lmf, hfb and porpoise: each against its products written out in numpy."""

from itertools import combinations

import numpy as np
import pytest
import torch
from by_hand import Array, Weights, array, attended, count, linear, relu, shuffled, sigmoid, softmax
from toy_fusions import DIMS, TOY_SETTINGS, build_toy, toy_cases

from model.batch import MODALITIES, Dims, collate
from model.errors import ConfigError
from model.fusion import build_fusion, read_settings
from model.fusion.hfb import Hfb
from model.fusion.lmf import Lmf
from model.fusion.porpoise import Porpoise

CASES = toy_cases(5, 1, 3)
BATCH = collate(CASES, DIMS)


def bag_of(row: int) -> Array:
    return array(BATCH.bag[row][BATCH.mask[row]])


# --- lmf ------------------------------------------------------------------------------------------


def test_lmf_is_the_full_tensor_product() -> None:
    fusion = build_toy("lmf", outputs=4)
    weights = shuffled(fusion)
    assert isinstance(fusion, Lmf)
    # W[i, j, k, t], as a product of three vectors is contracted with it
    tensor = np.einsum(
        "r,rit,rjt,rkt->ijkt", weights["weight"], *(weights[f"factors.{m}"] for m in MODALITIES)
    )
    assert tensor.shape == (9, 8, 5, 4)
    vectors = fusion.branches(BATCH)
    for row, found in enumerate(fusion(BATCH).tolist()):
        slide, rna, clinical = (np.append(array(vectors[m][row]), 1.0) for m in MODALITIES)
        outer = slide[:, None, None] * rna[None, :, None] * clinical[None, None, :]
        expected = [float((outer * tensor[..., t]).sum()) + weights["bias"][t] for t in range(4)]
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_lmf_of_one_modality_is_linear() -> None:
    settings = TOY_SETTINGS["lmf"] | {"modalities": ["clinical"]}
    fusion = build_fusion("lmf", settings, DIMS).eval()
    weights = shuffled(fusion)
    matrix = np.einsum("r,rit->it", weights["weight"], weights["factors.clinical"])
    expected = array(BATCH.clinical) @ matrix[:-1] + matrix[-1] + weights["bias"]
    assert array(fusion(BATCH)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_lmf_adds_its_factors_to_the_branches() -> None:
    dims = Dims(embedding=1024, genes=19_359, clinical=27)
    with torch.device("meta"):
        fusion, concat = build_fusion("lmf", {}, dims), build_fusion("concat", {}, dims)
    linear_layer = 667 + 1
    factors = 4 * (513 + 129 + 28)
    assert count(fusion) == count(concat) - linear_layer + factors + 4 + 1


# --- hfb ------------------------------------------------------------------------------------------


def product(x: Array, y: Array, rank: int) -> Array:
    """Return the factorised bilinear product of two projections (width · rank,)."""
    sums = np.array([x[at : at + rank] @ y[at : at + rank] for at in range(0, len(x), rank)])
    rooted = np.sign(sums) * np.sqrt(np.abs(sums))
    scaled: Array = rooted / np.sqrt((rooted**2).sum())
    return scaled


def hfb_by_hand(weights: Weights, row: int, rank: int) -> Array:
    """Return one case's logits before they are bounded."""
    given = {
        "slide": attended(weights, "pool", bag_of(row)),
        "rna": array(BATCH.rna[row]),
        "clinical": array(BATCH.clinical[row]),
    }
    gate, gated = {}, {}
    for name, x in given.items():
        h = np.tanh(linear(weights, f"encoders.{name}.0", x))
        h = np.tanh(linear(weights, f"encoders.{name}.3", h))
        u = linear(weights, f"inner.{name}", h)
        own = np.concatenate([h, product(u, u, rank)])
        gate[name] = float(sigmoid(linear(weights, "gate", own))[0])
        gated[name] = gate[name] * own
    pairs = list(combinations(given, 2))
    scores = [(gate[m] + gate[n]) / (softmax(gated[m]) @ softmax(gated[n]) + 0.5) for m, n in pairs]
    both = np.zeros(weights["between.slide.bias"].shape[0] // rank)
    for share, (m, n) in zip(softmax(np.array(scores)), pairs, strict=True):
        v_m = linear(weights, f"between.{m}", gated[m])
        v_n = linear(weights, f"between.{n}", gated[n])
        both += share * product(v_m, v_n, rank)
    joined = np.concatenate([gated["slide"] + gated["rna"] + gated["clinical"], both])
    joined = (joined - joined.mean()) / np.sqrt(joined.var() + 1e-5)
    joined = joined * weights["head.0.weight"] + weights["head.0.bias"]
    joined = np.tanh(linear(weights, "head.1", joined))
    joined = np.tanh(linear(weights, "head.4", joined))
    return linear(weights, "head.7", joined)


def test_hfb_equals_its_equations() -> None:
    fusion = build_toy("hfb", outputs=4)
    weights = shuffled(fusion)
    for row, found in enumerate(fusion(BATCH).tolist()):
        assert found == pytest.approx(hfb_by_hand(weights, row, rank=3), rel=1e-3, abs=1e-4)


def test_a_cox_log_hazard_of_hfb_is_bounded() -> None:
    fusion = build_toy("hfb")
    weights = shuffled(fusion)
    for row, (found,) in enumerate(fusion(BATCH).tolist()):
        (raw,) = hfb_by_hand(weights, row, rank=3)
        assert found == pytest.approx(6 * sigmoid(raw) - 3, rel=1e-3, abs=1e-4)
    with torch.no_grad():
        weight, bias = list(fusion.parameters())[-2:]
        weight.zero_()
        bias.fill_(50.0)
    assert fusion(BATCH).tolist() == [[pytest.approx(3.0)]] * 3


def test_hfb_learns_from_a_product_that_is_exactly_zero() -> None:
    fusion = build_toy("hfb")
    assert isinstance(fusion, Hfb)
    with torch.no_grad():
        for value in fusion.inner["rna"].parameters():
            value.zero_()  # the square root is infinitely steep there
    torch.autograd.backward(fusion(BATCH).sum())
    assert all(
        value.grad is not None and torch.isfinite(value.grad).all() for value in fusion.parameters()
    )


def test_hfb_of_two_modalities_has_one_pair() -> None:
    settings = TOY_SETTINGS["hfb"] | {"modalities": ["rna", "clinical"]}
    fusion = build_fusion("hfb", settings, DIMS)
    assert fusion(BATCH).shape == (3, 1)
    with pytest.raises(ValueError, match="weighs no patches"):
        fusion.attention(BATCH)
    with pytest.raises(ConfigError, match=r"expected two or more to pair, found rna$"):
        read_settings("hfb", {"modalities": ["rna"]})


def test_hfb_has_the_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        fusion = build_fusion("hfb", {}, Dims(embedding=1024, genes=80, clinical=80))
    assert isinstance(fusion, Hfb)
    # The paper's slides come as 80 features, and its count has the two constants of the bound.
    assert count(fusion) - count(fusion.pool) + 2 == 206_262


# --- porpoise -------------------------------------------------------------------------------------


def self_normalised(weights: Weights, name: str, x: Array) -> Array:
    for layer in (0, 3):
        x = linear(weights, f"{name}.{layer}", x)
        x = np.where(x > 0, x, np.exp(x) - 1)
    return x


def gated(weights: Weights, name: str, own: Array, both: Array) -> Array:
    """Return a gated vector with its 1."""
    h = relu(linear(weights, f"{name}.hidden.0", own))
    z = sigmoid(linear(weights, f"{name}.gate.0", both))
    return np.append(relu(linear(weights, f"{name}.out.0", z * h)), 1.0)


@pytest.mark.parametrize("modalities", [("slide", "rna"), ("slide", "rna", "clinical")])
def test_porpoise_equals_its_equations(modalities: tuple[str, ...]) -> None:
    settings = TOY_SETTINGS["porpoise"] | {"modalities": modalities}
    fusion = build_fusion("porpoise", settings, DIMS.model_copy(update={"outputs": 4})).eval()
    weights = shuffled(fusion)
    for row, found in enumerate(fusion(BATCH).tolist()):
        slide = relu(linear(weights, "slide.0", attended(weights, "pool", bag_of(row))))
        omics = np.concatenate([array(getattr(BATCH, name)[row]) for name in modalities[1:]])
        profile = self_normalised(weights, "profile", omics)
        both = np.concatenate([slide, profile])
        one = gated(weights, "slide_gate", slide, both)
        two = gated(weights, "profile_gate", profile, both)
        outer = np.array([x * y for x in one for y in two])
        joined = np.concatenate([relu(linear(weights, "product.0", outer)), both])
        expected = linear(weights, "head", relu(linear(weights, "fused.0", joined)))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_porpoise_keeps_one_vector_when_the_other_is_zero() -> None:
    fusion = build_toy("porpoise")
    assert isinstance(fusion, Porpoise)
    with torch.no_grad():
        for value in fusion.slide_gate.out.parameters():
            value.zero_()
        weight = fusion.fused.get_parameter("0.weight")
        weight[:, 7:] = 0  # the skip connection
    before = fusion(BATCH)
    redrawn = collate(toy_cases(5, 1, 3, seed=9), DIMS)
    assert not torch.allclose(before, fusion(redrawn))


def test_porpoise_has_the_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        fusion = build_fusion("porpoise", {}, Dims(embedding=1024, genes=2000, outputs=4))
    assert count(fusion) == 2_025_413


@pytest.mark.parametrize("modalities", [["slide"], ["rna", "clinical"], ["slide", "slide"]])
def test_porpoise_needs_a_slide_and_a_profile(modalities: list[str]) -> None:
    message = f"expected slide and rna or clinical, found {', '.join(modalities)}$"
    with pytest.raises(ConfigError, match=message):
        read_settings("porpoise", {"modalities": modalities})
