"""The models of one modality: each against its equation in numpy, and its size as published."""

from typing import Any

import numpy as np
import pytest
import torch
from by_hand import Array, array, attended, count, linear, relu, shuffled
from toy_fusions import DIMS, TOY_SETTINGS, build_toy, toy_cases

from model.batch import CaseInputs, Dims, collate
from model.errors import ConfigError
from model.fusion import build_fusion, read_settings

BATCH = collate(toy_cases(5, 1, 3), DIMS)

PUBLISHED: dict[str, tuple[str, dict[str, Any], Dims, int]] = {
    "MLP, genes": ("mlp", {}, Dims(genes=4999, outputs=4), 161_188),
    "SNN, genes": ("snn", {}, Dims(genes=4999, outputs=4), 1_346_820),
    "SNN, clinical": (
        "snn",
        {"modalities": ["clinical"]},
        Dims(clinical=512, outputs=4),
        198_148,
    ),
    # 1024 → 256, two layers of the attention and its score, 256 → 256 → 4
    "ABMIL": (
        "abmil",
        {},
        Dims(embedding=1024, outputs=4),
        262_400 + 2 * 65_792 + 257 + 65_792 + 1_028,
    ),
    # as published, less the block of two layers and two normalisations that is never called
    "mean": ("meanpool", {}, Dims(embedding=1024, outputs=4), 411_716 - 2 * 65_792 - 2 * 512),
    "DeepAttnMISL": ("deepattnmisl", {}, Dims(embedding=4096), 266_434),
}


@pytest.mark.parametrize(
    ("name", "settings", "dims", "expected"), PUBLISHED.values(), ids=PUBLISHED
)
def test_parameters_as_published(
    name: str, settings: dict[str, Any], dims: Dims, expected: int
) -> None:
    with torch.device("meta"):
        fusion = build_fusion(name, settings, dims)
    assert count(fusion) == expected


# --- vectors --------------------------------------------------------------------------------------

VECTORS = {
    ("rna",): array(BATCH.rna),
    ("clinical",): array(BATCH.clinical),
    ("clinical", "rna"): np.concatenate([array(BATCH.rna), array(BATCH.clinical)], axis=1),
}
each_vector = pytest.mark.parametrize(("modalities", "x"), VECTORS.items(), ids=map(str, VECTORS))


@each_vector
def test_mlp_is_relu_between_layers(modalities: tuple[str, ...], x: Array) -> None:
    fusion = build_fusion("mlp", TOY_SETTINGS["mlp"] | {"modalities": modalities}, DIMS).eval()
    weights = shuffled(fusion)
    hidden = relu(linear(weights, "layers.3", relu(linear(weights, "layers.0", x))))
    assert array(fusion(BATCH)) == pytest.approx(linear(weights, "head", hidden), rel=1e-3)


@each_vector
def test_snn_is_elu_after_each_layer(modalities: tuple[str, ...], x: Array) -> None:
    fusion = build_fusion("snn", TOY_SETTINGS["snn"] | {"modalities": modalities}, DIMS).eval()
    weights = shuffled(fusion)
    for layer in (0, 3):
        x = linear(weights, f"layers.{layer}", x)
        x = np.where(x > 0, x, np.exp(x) - 1)
    assert array(fusion(BATCH)) == pytest.approx(linear(weights, "head", x), rel=1e-3)


def test_snn_keeps_the_variance_of_its_input() -> None:
    torch.manual_seed(0)
    fusion = build_fusion("snn", {"widths": [800, 400]}, Dims(genes=600))
    for layer in fusion.modules():
        if isinstance(layer, torch.nn.Linear):
            assert not layer.bias.any()
            scale = layer.in_features**-0.5
            assert layer.weight.std().item() == pytest.approx(scale, rel=0.1)
    first = next(iter(fusion.parameters()))
    assert (torch.randn(200, 600) @ first.T).std().item() == pytest.approx(1.0, rel=0.05)


def test_snn_drops_by_alpha_dropout_in_training() -> None:
    torch.manual_seed(0)
    fusion = build_fusion("snn", {"dropout": 0.5, "widths": [4]}, DIMS)
    assert any(isinstance(layer, torch.nn.AlphaDropout) for layer in fusion.modules())
    assert not fusion(BATCH).equal(fusion(BATCH))


# --- slides ---------------------------------------------------------------------------------------


def bags() -> list[Array]:
    return [array(bag[mask]) for bag, mask in zip(BATCH.bag, BATCH.mask, strict=True)]


def test_abmil_weighs_by_gated_attention() -> None:
    fusion = build_toy("abmil", outputs=4)
    weights = shuffled(fusion)
    pooled = np.stack([attended(weights, "pool", bag) for bag in bags()])
    expected = linear(weights, "head.3", relu(linear(weights, "head.0", pooled)))
    assert array(fusion(BATCH)) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_meanpool_weighs_evenly() -> None:
    fusion = build_toy("meanpool", outputs=4)
    weights = shuffled(fusion)
    pooled = np.stack([relu(linear(weights, "project.0", bag)).mean(axis=0) for bag in bags()])
    expected = linear(weights, "head.2", relu(linear(weights, "head.0", pooled)))
    assert array(fusion(BATCH)) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert fusion.attention(BATCH)[2].tolist() == pytest.approx([1 / 3] * 3 + [0] * 2)


@pytest.mark.parametrize("name", ["abmil", "meanpool", "deepattnmisl"])
def test_slides_alone_need_no_other_input(name: str) -> None:
    dims = Dims(embedding=DIMS.embedding)
    fusion = build_fusion(name, TOY_SETTINGS[name], dims).eval()
    bag = torch.randn(4, DIMS.embedding)
    found = fusion(
        collate([CaseInputs(bag=bag, coords=torch.zeros(4, 2, dtype=torch.int64))], dims)
    )
    assert torch.isfinite(found).all()


# --- settings -------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, list[str], str]] = {
    "slides in mlp": ("mlp", ["slide"], "fusion mlp: modalities.0: expected 'rna' or"),
    "nothing in snn": ("snn", [], "modalities: expected at least one, found none"),
    "rna in abmil": ("abmil", ["rna"], "fusion abmil: modalities.0: expected 'slide'"),
    "more than slides": ("meanpool", ["slide", "rna"], "fusion meanpool: modalities: Tuple should"),
}


@pytest.mark.parametrize(("name", "modalities", "message"), REFUSED.values(), ids=REFUSED)
def test_modalities_that_do_not_fit(name: str, modalities: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(name, {"modalities": modalities})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
