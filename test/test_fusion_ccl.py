"""ccl: its clusters and their memory, its components, and its objective, each written out."""

import numpy as np
import pytest
import torch
from by_hand import Array, array, count, linear, relu, shuffled
from scipy.optimize import linear_sum_assignment
from toy_fusions import DIMS, build_toy, toy_cases

from model.batch import CaseInputs, Dims, collate
from model.fusion import build_fusion
from model.fusion.base import Labels
from model.fusion.ccl import Ccl, Interaction, Merge, match
from model.fusion.layers_prototypes import fit_prototypes

BATCH = collate(toy_cases(9, 1, 5), DIMS)
LABELS = Labels(torch.tensor([True, False, True]), torch.tensor([0.3, 0.3, 0.8]))


def toy() -> Ccl:
    fusion = build_toy("ccl", outputs=4)
    assert isinstance(fusion, Ccl)
    return fusion


# --- clusters -------------------------------------------------------------------------------------


@pytest.mark.parametrize("clusters", [1, 3, 6])
def test_clusters_are_matched_as_by_the_hungarian_method(clusters: int) -> None:
    torch.manual_seed(clusters)
    for _ in range(5):
        memory, centres = torch.randn(clusters, 4), torch.randn(clusters, 4)
        cost = [[(m - c).abs().sum().item() for c in centres] for m in memory]
        _, order = linear_sum_assignment(cost)
        assert match(centres, memory).equal(centres[order])


def test_shuffled_centres_are_put_in_order() -> None:
    memory = 10 * torch.randn(6, 4)
    assert torch.allclose(match(memory[torch.randperm(6)] + 0.01, memory), memory + 0.01)


def test_clusters_grow_from_the_memory() -> None:
    fusion = toy()
    bag = torch.cat([fusion.memory[kind] + 0.1 * torch.randn(4, 6) for kind in range(3)])
    batch = collate([CaseInputs(bag=bag, coords=torch.zeros(12, 2))], DIMS)
    seen: list[torch.Tensor] = []
    fusion.project.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    fusion(batch)
    expected = bag.view(3, 4, 6).mean(dim=1)
    assert torch.allclose(seen[0][0], expected, atol=1e-5)


def test_the_memory_starts_at_the_centres_of_the_training_fold() -> None:
    fusion = toy()
    bags = [torch.randn(20, DIMS.embedding) for _ in range(4)]
    fusion.fit_unsupervised(bags)
    assert fusion.state_dict()["memory"].equal(fit_prototypes(bags, 3, 20_000))


# --- components -----------------------------------------------------------------------------------


def test_an_interaction_equals_its_co_attention_matrix() -> None:
    interaction = Interaction(5)
    weights = shuffled(interaction)
    slide, genes = torch.randn(3, 5), torch.randn(3, 5)
    found = array(interaction(slide, genes))

    def aligned(name: str, vector: Array) -> Array:
        x = linear(weights, f"{name}.0", vector)
        normed = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        return relu(weights[f"{name}.1.weight"] * normed + weights[f"{name}.1.bias"])

    for row, (p, g) in enumerate(zip(array(slide), array(genes), strict=True)):
        u, v = aligned("slide", p), aligned("genes", g)
        matrix = np.outer(u, v)
        of_slide = 1 / (1 + np.exp(-linear(weights, "weigh_slide", matrix)[:, 0]))
        of_genes = 1 / (1 + np.exp(-linear(weights, "weigh_genes", matrix.T)[:, 0]))
        assert found[row] == pytest.approx(of_slide * u + of_genes * v, rel=1e-4, abs=1e-5)


def test_merged_tokens_are_normalised() -> None:
    merge = Merge(3)
    weights = shuffled(merge)
    tokens = torch.randn(2, 3, 7)
    for found, case in zip(merge(tokens), array(tokens), strict=True):
        total = sum(w * token for w, token in zip(weights["weight.weight"][0], case, strict=True))
        expected = relu((total - total.mean()) / np.sqrt(total.var() + 1e-5))
        assert array(found) == pytest.approx(expected, rel=1e-4, abs=1e-5)


# --- objective ------------------------------------------------------------------------------------


def seen_in(fusion: Ccl) -> dict[str, torch.Tensor]:
    """Return what passes through a fusion when the batch does, in evaluation mode."""
    seen: dict[str, torch.Tensor] = {}
    watched = {
        "p": fusion.merge_patches,
        "g": fusion.merge_genes,
        "common": fusion.common,
        "synergy": fusion.synergy,
        "slide": fusion.of_slide,
        "genes": fusion.of_genes,
        "case": fusion.norm,
    }
    hooks = [
        module.register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: output.detach()})
        )
        for name, module in watched.items()
    ]
    hooks.append(
        fusion.project.register_forward_pre_hook(
            lambda _, inputs: seen.update({"clusters": inputs[0]})
        )
    )
    fusion(BATCH)
    for hook in hooks:
        hook.remove()
    return seen


def cosine(x: torch.Tensor, y: torch.Tensor) -> float:
    return float(x @ y / (x.norm() * y.norm()))


def test_the_objective_equals_its_terms() -> None:
    fusion = toy()
    shuffled(fusion)
    fusion.bank.copy_(torch.nn.functional.normalize(torch.randn_like(fusion.bank), dim=2))
    fusion.filled.copy_(torch.tensor([0, 10, 4, 0]))  # of the third case's bin none is remembered
    loss = fusion.auxiliary_loss(BATCH, LABELS).item()
    seen = seen_in(fusion)
    wanted = {"common": (1, 1), "synergy": (0, 0), "slide": (1, 0), "genes": (0, 1)}
    gaps = [
        abs(cosine(seen[name][row], seen[vector][row]) - target)
        for row in range(3)
        for name, targets in wanted.items()
        for vector, target in zip("pg", targets, strict=True)
    ]
    near = [
        np.exp([cosine(seen["case"][0], one) / 0.1 for one in fusion.bank[at, :filled]]).sum()
        for at, filled in ((1, 10), (2, 4))
    ]
    contrast = -np.log(near[0] / (near[0] + near[1])) / 3
    assert loss == pytest.approx(np.mean(gaps) + contrast, rel=1e-4)


def test_training_cases_enter_the_memory_and_the_bank() -> None:
    fusion = toy()
    before = fusion.memory.clone()
    seen = seen_in(fusion)
    fusion.train()
    for _ in range(12):
        torch.autograd.backward(fusion.auxiliary_loss(BATCH, LABELS))
        if fusion.filled.sum() == 2:
            expected = before
            for case in seen["clusters"]:
                expected = 0.9 * expected + 0.1 * case
            assert torch.allclose(fusion.memory, expected, atol=1e-5)
            newest = torch.nn.functional.normalize(seen["case"], dim=1)
            assert torch.allclose(fusion.bank[1, 0], newest[0], atol=1e-5)
            assert torch.allclose(fusion.bank[3, 0], newest[2], atol=1e-5)
            assert not fusion.bank[:, 1:].any()
    assert fusion.filled.tolist() == [0, 10, 0, 10]
    assert not fusion.bank[[0, 2]].any()
    assert (fusion.bank[[1, 3]].norm(dim=2) > 0.99).all()


def test_a_case_without_a_slide_leaves_the_memory_as_it_is() -> None:
    fusion = toy().train()
    before = fusion.memory.clone()
    absent = collate([CaseInputs(rna=case.rna) for case in toy_cases(3, 4, 5)], DIMS)
    fusion.auxiliary_loss(absent, LABELS)
    assert fusion.memory.equal(before)
    assert fusion.filled.tolist() == [0, 1, 0, 1]


def test_gene_tokens_are_self_normalising_layers_of_which_sets_share_the_second() -> None:
    fusion = toy()
    weights = shuffled(fusion.genes)
    found = array(fusion.genes(BATCH))

    def selu(x: Array) -> Array:
        scale, alpha = 1.0507009873554805, 1.6732632423543772
        return scale * np.where(x > 0, x, alpha * (np.exp(np.minimum(x, 0)) - 1))

    at = 0
    for number, genes in enumerate(DIMS.gene_sets.values()):
        own = weights["0.encode.members"][at : at + len(genes)]
        at += len(genes)
        bias = weights["0.encode.members_bias"][number]
        hidden = selu(array(BATCH.rna)[:, genes] @ own + bias)
        expected = selu(linear(weights, "1.0", hidden))
        assert found[:, number] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_ccl_has_the_parameters_of_the_paper() -> None:
    sizes = (94, 334, 521, 468, 1496, 479)  # of the families, for BLCA
    ends = np.cumsum(sizes)
    sets = {
        str(end): tuple(range(end - size, end))
        for size, end in zip(sizes, ends.tolist(), strict=True)
    }
    dims = Dims(embedding=1024, genes=sum(sizes), outputs=4, gene_sets=sets)
    with torch.device("meta"):
        fusion = build_fusion("ccl", {}, dims)
    # The authors count the memory, and convolutions that see nothing; and two biases of the merges,
    # which are normalised away.
    memory, unused = 6 * 1024, 256 * (7 * 7 + 5 * 5 + 3 * 3 + 3)
    assert count(fusion) == 2_153_254 - memory - unused - 2
