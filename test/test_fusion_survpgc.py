"""survpgc: its equations in numpy, case by case, its cosine loss, its size, what it refuses."""

from typing import Any

import numpy as np
import pytest
import torch
from by_hand import (
    Array,
    Weights,
    array,
    attend,
    count,
    gelu,
    gene_tokens,
    linear,
    norm,
    relu,
    shuffled,
)
from pydantic import ValidationError
from toy_fusions import DIMS, TOY_SETTINGS, toy_cases, without

from model.batch import Batch, Dims, collate
from model.errors import ConfigError
from model.fusion import build_fusion
from model.fusion.base import Labels
from model.fusion.survpgc import Survpgc, SurvpgcConfig

SIZES = (5, 1, 3)
LABELS = Labels(torch.tensor([True, False, True]), torch.tensor([0.1, 0.5, 0.7]))


def build(**settings: Any) -> tuple[Survpgc, Weights, Batch]:
    """Build a toy model of four outputs with arbitrary weights, and a batch for it."""
    dims = DIMS.model_copy(update={"outputs": 4})
    fusion = Survpgc(SurvpgcConfig(**TOY_SETTINGS["survpgc"], **settings), dims).eval()
    return fusion, shuffled(fusion, std=0.3), collate(toy_cases(*SIZES), DIMS)


def path(w: Weights, name: str, tokens: Array, bag: Array) -> tuple[Array, Array]:
    """Return a path's vector (2 · attended,), and the share of attention of each patch (N,)."""

    def feed_forward(x: Array) -> Array:
        hidden = gelu(linear(w, "feed_forward.1", norm(w, "feed_forward.0", x)))
        return norm(w, "feed_forward.5", linear(w, "feed_forward.4", hidden))

    patches = norm(w, f"hubs.{name}.norm", linear(w, "patches.project", bag))
    groups = norm(w, f"hubs.{name}.norm", tokens)
    to_groups, shares = attend(
        w, f"hubs.{name}.attention", groups, np.concatenate([groups, patches])
    )
    to_patches, _ = attend(w, f"hubs.{name}.attention", patches, groups)
    vector = np.concatenate(
        [feed_forward(to_groups).mean(axis=0), feed_forward(to_patches).mean(axis=0)]
    )
    paid = shares[:, len(groups) :].sum(axis=0)
    return vector, paid / paid.sum()


def by_hand(w: Weights, batch: Batch, case: int) -> dict[str, tuple[Array, Array]]:
    bag = array(batch.bag[case, : SIZES[case]])
    sentences = linear(w, "tokens.clinical.project", array(batch.clinical_tokens[case]))
    return {
        "rna": path(w, "rna", gene_tokens(w, array(batch.rna[case]), "tokens.rna"), bag),
        "clinical": path(w, "clinical", sentences, bag),
    }


def test_it_equals_its_equations() -> None:
    fusion, w, batch = build()
    logits, attention = fusion(batch), fusion.attention(batch)
    for case, size in enumerate(SIZES):
        paths = by_hand(w, batch, case)
        vector = np.concatenate([paths["rna"][0], paths["clinical"][0]])
        expected = linear(w, "head.2", relu(linear(w, "head.0", vector)))
        assert logits[case].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)
        shares = (paths["rna"][1] + paths["clinical"][1]) / 2
        assert attention[case, :size].tolist() == pytest.approx(shares, rel=1e-3)


def test_a_path_may_be_left_out() -> None:
    for left, other in (("clinical", "rna"), ("rna", "clinical")):
        fusion, w, batch = build(modalities=("slide", left))
        assert not [name for name in w if f".{other}." in name]
        tokens = (
            gene_tokens(w, array(batch.rna[0]), "tokens.rna")
            if left == "rna"
            else linear(w, "tokens.clinical.project", array(batch.clinical_tokens[0]))
        )
        vector, shares = path(w, left, tokens, array(batch.bag[0]))
        expected = linear(w, "head.2", relu(linear(w, "head.0", vector)))
        assert fusion(batch)[0].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert fusion.attention(batch)[0].tolist() == pytest.approx(shares, rel=1e-3)


def test_the_order_of_the_sentences_does_not_matter() -> None:
    fusion, _, batch = build()
    turned = Batch(**{**vars(batch), "clinical_tokens": batch.clinical_tokens.flip(1)})
    assert not torch.equal(turned.clinical_tokens, batch.clinical_tokens)
    assert torch.allclose(fusion(turned), fusion(batch), atol=1e-5)


# --- the cosine loss ------------------------------------------------------------------------------


def cosines(w: Weights, batch: Batch) -> list[float]:
    found = []
    for case in range(len(SIZES)):
        genes, clinical = (vector for vector, _ in by_hand(w, batch, case).values())
        norms = np.linalg.norm(genes) * np.linalg.norm(clinical)
        found.append(float(genes @ clinical / norms))
    return found


def test_the_cosine_loss_is_off_unless_asked_for() -> None:
    fusion, _, batch = build()
    assert fusion.auxiliary_loss(batch, LABELS) is None


@pytest.mark.parametrize("margin", [-1.0, -0.2, 0.2])
def test_the_cosine_loss_by_hand(margin: float) -> None:
    fusion, w, batch = build(beta=0.3, margin=margin)
    loss = fusion.auxiliary_loss(batch, LABELS)
    assert loss is not None
    over = np.maximum(np.array(cosines(w, batch)) - margin, 0)
    assert loss.item() == pytest.approx(0.3 / 0.7 * over.mean(), rel=1e-3, abs=1e-6)


def test_the_cosine_loss_drives_the_paths_apart() -> None:
    fusion, _, batch = build(beta=0.5, margin=-1.0)
    optimiser = torch.optim.SGD(fusion.parameters(), lr=0.05)
    losses = []
    for _ in range(20):
        loss = fusion.auxiliary_loss(batch, LABELS)
        assert loss is not None
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


# --- sizes and refusals ---------------------------------------------------------------------------

PAPER = Dims(
    embedding=1024,
    genes=4 * 768,
    outputs=4,
    gene_sets={f"vector{i}": tuple(range(768 * i, 768 * (i + 1))) for i in range(4)},
    clinical_tokens=(6, 512),
)


def test_its_size_is_the_papers() -> None:
    with torch.device("meta"):
        assert count(build_fusion("survpgc", {"gene_vectors": True}, PAPER)) == 854_852


def test_gene_vectors_share_one_layer() -> None:
    vectors = {"first": (4, 1, 0), "second": (5, 2, 3)}
    dims = DIMS.model_copy(update={"outputs": 4, "gene_sets": vectors})
    settings = TOY_SETTINGS["survpgc"] | {"gene_vectors": True}
    fusion = Survpgc(SurvpgcConfig(**settings), dims).eval()
    weights, batch = shuffled(fusion), collate(toy_cases(*SIZES), DIMS)
    expected = [
        [linear(weights, "tokens.rna.encode.project", rna[list(of)]) for of in vectors.values()]
        for rna in array(batch.rna)
    ]
    assert array(fusion.tokens["rna"](batch)) == pytest.approx(np.array(expected), rel=1e-5)
    assert fusion(batch).shape == (3, 4)


def test_its_size_without_genes_is_the_papers() -> None:
    with torch.device("meta"):
        fusion = build_fusion("survpgc", {"modalities": ["slide", "clinical"]}, PAPER)
    assert count(fusion) == 542_788


REFUSED = {
    "no slide": ({"modalities": ["rna", "clinical"]}, "modalities: expected slide and rna or clin"),
    "slide alone": ({"modalities": ["slide"]}, "expected slide and rna or clinical, found slide"),
    "nothing to compare": (
        {"modalities": ["slide", "rna"], "beta": 0.3},
        "beta: expected slide, rna and clinical to compare the two paths",
    ),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SurvpgcConfig.model_validate(settings)


def test_what_it_needs_is_said_in_a_line() -> None:
    with pytest.raises(ConfigError) as no_sentences:
        build_fusion("survpgc", {}, DIMS.model_copy(update={"clinical_tokens": (0, 0)}))
    expected = "expected clinical sentences ([clinical_text] encoder), found none"
    assert str(no_sentences.value) == f"fusion survpgc: {expected}"
    with pytest.raises(ConfigError, match="gene vectors: expected one length, found 1 and 2"):
        uneven = DIMS.model_copy(update={"gene_sets": {"a": (0, 1), "b": (2,)}})
        build_fusion("survpgc", {"gene_vectors": True}, uneven)
    with pytest.raises(ConfigError, match=r"^fusion survpgc: expected gene sets \(\[rna\] gene_s"):
        build_fusion("survpgc", {}, DIMS.model_copy(update={"gene_sets": {}}))


def test_one_learned_token_stands_in_for_absent_sentences() -> None:
    fusion, _, _ = build(optional=("clinical",))
    absent = collate([without(case, "clinical") for case in toy_cases(*SIZES)], DIMS)
    tokens = fusion.tokens["clinical"](absent)
    stand_in = fusion.get_parameter("tokens.clinical.stand_in")
    assert tokens.equal(stand_in.expand(len(SIZES), DIMS.clinical_tokens[0], -1))
