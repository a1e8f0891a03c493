"""Each fusion's defining property, by value; parameter counts at the papers' widths."""

from typing import Any

import numpy as np
import pytest
import torch
from by_hand import Array, Weights, count, linear, shuffled
from toy_fusions import DIMS, build_toy, toy_cases

from model.batch import Batch, Dims, collate
from model.fusion import build_fusion
from model.fusion.concat import Concat
from model.fusion.pairwise import Pairwise
from model.fusion.pairwise_residual import PairwiseResidual

PAPER = Dims(embedding=1024, genes=19_359, clinical=27)
PAPER_COUNTS: dict[str, tuple[str, dict[str, Any], int]] = {
    "ABMIL_Surv": ("concat", {}, 41_552_413),
    "ABMIL_Surv_PG": ("pairwise", {}, 41_645_954),
    "ABMIL_Surv_PG_Res": ("pairwise_residual", {}, 41_646_621),
    "Img": ("concat", {"modalities": ["slide"]}, 788_226),
    "ImgCli": ("pairwise", {"modalities": ["slide", "clinical"]}, 824_450),
    "ImgRNA": ("pairwise", {"modalities": ["slide", "rna"]}, 41_597_058),
    "RNACli": ("pairwise", {"modalities": ["rna", "clinical"]}, 40_776_193),
}


@pytest.mark.parametrize(("name", "settings", "expected"), PAPER_COUNTS.values(), ids=PAPER_COUNTS)
def test_parameters_at_the_papers_widths(
    name: str, settings: dict[str, Any], expected: int
) -> None:
    with torch.device("meta"):
        fusion = build_fusion(name, settings, PAPER)
    assert count(fusion) == expected


def vectors(fusion: Concat | Pairwise | PairwiseResidual, batch: Batch) -> list[Array]:
    return [value.detach().double().numpy() for value in fusion.branches(batch).values()]


def pair_blocks(weights: Weights, slide: Array, rna: Array, clinical: Array) -> Array:
    """Return [f(slide, rna) ‖ f(slide, clinical) ‖ f(rna, clinical)], from the paper's equation."""
    blocks = []
    for index, (x, y) in enumerate([(slide, rna), (slide, clinical), (rna, clinical)]):
        block = f"pairs.blocks.{index}"
        both = linear(weights, f"{block}.x", x) * linear(weights, f"{block}.y", y)
        blocks.append(linear(weights, f"{block}.out", both))
    return np.concatenate(blocks, axis=1)


@pytest.fixture
def batch() -> Batch:
    return collate(toy_cases(5, 1, 3), DIMS)


def test_concat_is_one_linear_layer(batch: Batch) -> None:
    fusion = build_toy("concat", outputs=4)
    weights = shuffled(fusion)
    assert isinstance(fusion, Concat)
    assert [key for key in weights if key.startswith("head")] == ["head.0.weight", "head.0.bias"]
    expected = linear(weights, "head.0", np.concatenate(vectors(fusion, batch), axis=1))
    assert fusion(batch).detach().numpy() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_concat_with_a_head_is_an_mlp(batch: Batch) -> None:
    fusion = build_fusion("concat", {"head": [6, 3]}, DIMS).eval()
    weights = shuffled(fusion)
    assert isinstance(fusion, Concat)
    joined = np.concatenate(vectors(fusion, batch), axis=1)
    hidden = np.maximum(linear(weights, "head.0", joined), 0)
    hidden = np.maximum(linear(weights, "head.3", hidden), 0)
    expected = linear(weights, "head.5", hidden)
    assert fusion(batch).detach().numpy() == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_pairwise_equals_the_papers_equation(batch: Batch) -> None:
    fusion = build_toy("pairwise", outputs=4)
    weights = shuffled(fusion)
    assert isinstance(fusion, Pairwise)
    expected = linear(weights, "head", pair_blocks(weights, *vectors(fusion, batch)))
    assert fusion(batch).detach().numpy() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_pairwise_residual_adds_the_modalities_own_vectors(batch: Batch) -> None:
    fusion = build_toy("pairwise_residual", outputs=4)
    weights = shuffled(fusion)
    assert isinstance(fusion, PairwiseResidual)
    own = vectors(fusion, batch)
    joined = np.concatenate([pair_blocks(weights, *own), *own], axis=1)
    expected = linear(weights, "head", joined)
    assert fusion(batch).detach().numpy() == pytest.approx(expected, rel=1e-4, abs=1e-4)
