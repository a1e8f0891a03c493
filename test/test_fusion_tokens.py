"""survpath, survq and mcat: their equations in numpy, case by case, and their sizes."""

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
    sigmoid,
    softmax,
)
from toy_fusions import DIMS, TOY_SETTINGS, toy_cases, without

from model.batch import Batch, Dims, collate
from model.errors import ConfigError
from model.fusion import Fusion, build_fusion
from model.fusion.survq import Survq
from train.models import PATHWAYS

SIZES = (5, 1, 3)


def build(name: str, **settings: Any) -> tuple[Fusion, Weights, Batch]:
    """Build a toy fusion of four outputs with arbitrary weights, and a batch for it."""
    dims = DIMS.model_copy(update={"outputs": 4})
    fusion = build_fusion(name, TOY_SETTINGS[name] | settings, dims).eval()
    return fusion, shuffled(fusion, std=0.3), collate(toy_cases(*SIZES), DIMS)


def test_survpath_equals_its_equations() -> None:
    fusion, w, batch = build("survpath")
    logits, attention = fusion(batch), fusion.attention(batch)

    def feed_forward(x: Array) -> Array:
        hidden = gelu(linear(w, "feed_forward.1", norm(w, "feed_forward.0", x)))
        return norm(w, "feed_forward.5", linear(w, "feed_forward.4", hidden))

    for case, size in enumerate(SIZES):
        groups = norm(w, "hub.norm", gene_tokens(w, array(batch.rna[case])))
        bag = linear(w, "patches.project", array(batch.bag[case, :size]))
        patches = norm(w, "hub.norm", bag)
        together = np.concatenate([groups, patches])
        to_groups, shares = attend(w, "hub.attention", groups, together)
        to_patches, _ = attend(w, "hub.attention", patches, groups)
        vector = np.concatenate(
            [feed_forward(to_groups).mean(axis=0), feed_forward(to_patches).mean(axis=0)]
        )
        expected = linear(w, "head.2", relu(linear(w, "head.0", vector)))
        assert logits[case].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)
        paid = shares[:, len(groups) :].sum(axis=0)
        assert attention[case, :size].tolist() == pytest.approx(paid / paid.sum(), rel=1e-3)


@pytest.mark.parametrize("queries", ["learned", "fixed"])
def test_survq_equals_its_equations(queries: str) -> None:
    fusion, w, batch = build("survq", queries=queries)
    w |= {name: array(value) for name, value in fusion.named_buffers()}
    logits, attention = fusion(batch), fusion.attention(batch)
    for case, size in enumerate(SIZES):
        hidden = relu(linear(w, "patches.project.0", array(batch.bag[case, :size])))
        patches = relu(linear(w, "patches.project.3", hidden))
        genes = gene_tokens(w, array(batch.rna[case]))
        asked = w["ask_patches.vectors"]
        from_patches, shares = attend(w, "ask_patches.attention", asked, patches)
        from_genes, _ = attend(w, "ask_genes.attention", w["ask_genes.vectors"], genes)
        tokens = np.concatenate([from_patches, from_genes])
        mixed, _ = attend(w, "mix", tokens, tokens)
        expected = linear(w, "head", mixed.mean(axis=0))
        assert logits[case].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert attention[case, :size].tolist() == pytest.approx(shares.mean(axis=0), rel=1e-3)


def test_fixed_queries_stay_as_they_were_drawn() -> None:
    fusion, _, batch = build("survq", queries="fixed")
    assert isinstance(fusion, Survq)
    before = {name: value.clone() for name, value in fusion.state_dict().items()}
    optimiser = torch.optim.SGD(fusion.parameters(), lr=0.1)
    torch.autograd.backward(fusion(batch).square().sum())
    optimiser.step()
    same = {name for name, value in fusion.state_dict().items() if value.equal(before[name])}
    assert same == {"ask_patches.vectors", "ask_genes.vectors"}
    assert fusion.ask_patches.vectors.std().item() == pytest.approx(0.02, rel=0.3)


def pooled(w: Weights, name: str, tokens: Array) -> Array:
    gated = np.tanh(linear(w, f"{name}.pool.value.0", tokens)) * sigmoid(
        linear(w, f"{name}.pool.gate.0", tokens)
    )
    vector = softmax(linear(w, f"{name}.pool.score", gated)[:, 0]) @ tokens
    return relu(linear(w, f"{name}.out.0", vector))


def test_mcat_equals_its_equations() -> None:
    fusion, w, batch = build("mcat")
    logits, attention = fusion(batch), fusion.attention(batch)
    for case, size in enumerate(SIZES):
        patches = relu(linear(w, "patches.project.0", array(batch.bag[case, :size])))
        genes = gene_tokens(w, array(batch.rna[case]))
        attended, shares = attend(w, "co_attention", genes, patches)
        seen = linear(w, "co_attended", attended)
        vector = np.concatenate(
            [
                pooled(w, name, transformer(w, f"{name}.transformer", tokens))
                for name, tokens in (("encode_slide", seen), ("encode_genes", genes))
            ]
        )
        hidden = relu(linear(w, "fused.3", relu(linear(w, "fused.0", vector))))
        expected = linear(w, "head", hidden)
        assert logits[case].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert attention[case, :size].tolist() == pytest.approx(shares.mean(axis=0), rel=1e-3)


def transformer(w: Weights, name: str, tokens: Array, heads: int = 2) -> Array:
    """Return tokens after two layers that normalise after each residual."""
    for layer in (f"{name}.layers.0", f"{name}.layers.1"):
        mapped = tokens @ w[f"{layer}.self_attn.in_proj_weight"].T
        q, k, v = np.split(mapped + w[f"{layer}.self_attn.in_proj_bias"], 3, axis=1)
        parts = []
        for qh, kh, vh in zip(*(np.split(x, heads, axis=1) for x in (q, k, v)), strict=True):
            shares = np.stack([softmax(row) for row in qh @ kh.T / np.sqrt(qh.shape[1])])
            parts.append(shares @ vh)
        attended = linear(w, f"{layer}.self_attn.out_proj", np.concatenate(parts, axis=1))
        tokens = norm(w, f"{layer}.norm1", tokens + attended)
        hidden = relu(linear(w, f"{layer}.linear1", tokens))
        tokens = norm(w, f"{layer}.norm2", tokens + linear(w, f"{layer}.linear2", hidden))
    return tokens


UNI = {"embedding": 1024, "outputs": 4}
FAMILIES = Dims(**UNI, genes=3523, gene_sets={str(i): tuple(range(i, 3523, 6)) for i in range(6)})
PUBLISHED = {
    "survpath": (Dims(**UNI, genes=4999, gene_sets=PATHWAYS.make()), 24_768_068),
    # No bias of the keys, which a softmax does not see, in each of three attentions.
    "survq": (Dims(**UNI, genes=4999, gene_sets=PATHWAYS.make()), 25_715_460 - 3 * 256),
    # Six families with 3,523 members, as for breast cancer. No bias of the keys, once.
    "mcat": (FAMILIES, 4_525_574 - 256),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_of_the_papers(name: str) -> None:
    dims, expected = PUBLISHED[name]
    with torch.device("meta"):
        assert count(build_fusion(name, {}, dims)) == expected


def test_survpath_on_other_embeddings_has_its_published_size_too() -> None:
    dims = PUBLISHED["survpath"][0].model_copy(update={"embedding": 768})
    with torch.device("meta"):
        assert count(build_fusion("survpath", {}, dims)) == 24_702_532


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_clinical_record_may_join(name: str) -> None:
    settings = {"modalities": ["slide", "rna", "clinical"], "optional": ["clinical"]}
    fusion, _, batch = build(name, **settings)
    logits = fusion(batch)
    cases = toy_cases(*SIZES)
    changed = fusion(collate([*toy_cases(*SIZES, seed=9)[:1], *cases[1:]], DIMS))
    assert not torch.allclose(changed[0], logits[0])
    assert torch.allclose(changed[1:], logits[1:], atol=1e-6)
    absent = [without(case, "clinical") for case in cases]
    assert not torch.allclose(fusion(collate(absent, DIMS)), logits, atol=1e-4)
    torch.autograd.backward(fusion(collate([*cases, *absent], DIMS)).square().sum())
    stand_in = fusion.get_parameter("clinical.stand_ins.clinical.vector")
    assert stand_in.grad is not None
    assert stand_in.grad.any()


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_they_need_is_said_in_a_line(name: str) -> None:
    with pytest.raises(ConfigError) as no_sets:
        build_fusion(name, {}, DIMS.model_copy(update={"gene_sets": {}}))
    message = f"fusion {name}: expected gene sets ([rna] gene_sets), found none"
    assert str(no_sets.value) == message
    with pytest.raises(ConfigError, match=r"modalities: expected slide and rna, found no slide$"):
        build_fusion(name, {"modalities": ["rna", "clinical"]}, DIMS)
