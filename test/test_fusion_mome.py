"""mome: its experts by hand, that one expert serves each case, and that the routers learn."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from by_hand import Array, array, count, linear, shuffled
from torch import nn
from toy_fusions import DIMS, TOY_SETTINGS, build_toy, toy_cases

from model.batch import Dims, collate
from model.errors import ConfigError
from model.fusion import build_fusion
from model.fusion.base import Labels
from model.fusion.layers_experts import Added, ExpertLayer, Joined, Narrow, Router, Tokens
from model.fusion.layers_nystrom import NystromAttention, NystromLayer
from model.fusion.mome import Mome

BATCH = collate(toy_cases(5, 1, 3), DIMS)
LABELS = Labels(event=torch.ones(3, dtype=torch.bool), quantile=torch.zeros(3))
WIDTH = 8


def attention(norm: nn.Module) -> NystromLayer:
    return NystromLayer(norm, NystromAttention(WIDTH, heads=2, landmarks=32, dropout=0.1))


def tokens(*sizes: int, seed: int) -> Tokens:
    """Make tokens of as many cases as sizes are given, padded with garbage."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(len(sizes), max(sizes), WIDTH, generator=draw)
    return Tokens(values, torch.arange(max(sizes)) < torch.tensor(sizes)[:, None])


PATCHES, GENES = tokens(6, 1, 4, seed=1), tokens(3, 3, 3, seed=2)


def experts() -> ExpertLayer:
    torch.manual_seed(0)
    return ExpertLayer(WIDTH, 2, attention, 0.25, own_first=False).eval()


def rms(x: Array, scale: Array) -> Array:
    y: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale
    return y


def elu(x: Array) -> Array:
    y: Array = np.where(x > 0, x, np.exp(x) - 1)
    return y


# --- experts --------------------------------------------------------------------------------------


def test_added_is_a_sum_with_the_mean_of_the_other() -> None:
    expert = Added(WIDTH, 0.25).eval()
    weights = shuffled(expert)
    found = expert(GENES, PATCHES)
    for row, real in enumerate(PATCHES.mask):
        own = rms(array(GENES.values[row]), weights["own.0.weight"])
        other = rms(array(PATCHES.values[row][real]), weights["other.0.weight"])
        mean = elu(linear(weights, "other.1", other)).mean(axis=0)
        assert array(found[row]) == pytest.approx(
            elu(linear(weights, "own.1", own)) + mean, rel=1e-4
        )


@pytest.mark.parametrize("own_first", [True, False])
def test_joined_attends_to_real_tokens_of_both(own_first: bool) -> None:
    expert = Joined(WIDTH, attention, own_first=own_first).eval()
    own, other = (GENES, PATCHES) if own_first else (PATCHES, GENES)
    found = expert(own, other)
    for row, (mine, real) in enumerate(zip(own.mask, other.mask, strict=True)):
        one, two = own.values[row][mine], other.values[row][real]
        both = torch.cat([one, two] if own_first else [two, one])[None]
        seen = expert.attend(both, torch.ones(both.shape[:2], dtype=torch.bool))[0]
        expected = seen[: len(one)] if own_first else seen[-len(one) :]
        assert torch.allclose(found[row][mine], expected, atol=1e-5)


def test_narrow_hears_of_the_other_through_its_bottleneck_alone() -> None:
    expert = Narrow(WIDTH, 2, attention).eval()
    for row, (real, genes) in enumerate(zip(PATCHES.mask, GENES.values, strict=True)):
        short = torch.cat([expert.bottleneck, genes])[None]
        distilled = expert.distil(short, torch.ones(1, 5, dtype=torch.bool))[0, :2]
        own = torch.cat([distilled, PATCHES.values[row][real]])[None]
        expected = expert.attend(own, torch.ones(own.shape[:2], dtype=torch.bool))[0, 2:]
        assert torch.allclose(expert(PATCHES, GENES)[row][real], expected, atol=1e-5)


def test_a_router_weighs_the_means_of_real_tokens() -> None:
    router = Router(WIDTH)
    weights = shuffled(router)
    found = router(PATCHES, GENES)
    for row in range(3):
        means = []
        for name, side in (("own", PATCHES), ("other", GENES)):
            x = linear(weights, f"{name}.0", array(side.values[row][side.mask[row]]))
            x = rms(x, weights[f"{name}.1.weight"])
            means.append(array(nn.functional.gelu(torch.from_numpy(x))).mean(axis=0))
        expected = linear(weights, "choose", means[0] + means[1])
        assert found[row].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


# --- one expert for each case ---------------------------------------------------------------------

SCORES = torch.tensor([[0.1, 2.0, 0.3, 0.2], [0.0, 0.1, 0.2, 3.0], [1.0, 0.5, 0.4, 0.2]])
CHOSEN = (1, 3, 0)


@pytest.mark.parametrize("graph", [True, False])
def test_the_best_scored_expert_serves_a_case(graph: bool) -> None:
    layer = experts()
    with torch.set_grad_enabled(graph):
        found = layer(PATCHES, GENES, SCORES).values
    for row, expert in enumerate(CHOSEN):
        expected = layer.experts[expert](PATCHES, GENES)[row]
        real = PATCHES.mask[row]
        assert torch.allclose(found[row][real], expected[real], atol=1e-6)


def test_the_gradient_is_that_of_the_experts_mean() -> None:
    layer = experts()
    scores = SCORES.clone().requires_grad_()
    direction = torch.randn(3, 6, WIDTH)
    torch.autograd.backward((layer(PATCHES, GENES, scores).values * direction).sum())
    found = {name: value.grad for name, value in layer.named_parameters()}
    assert scores.grad is not None

    again = SCORES.clone().requires_grad_()
    layer.zero_grad()
    shares = again.softmax(dim=1)
    mean = sum(shares[:, e, None, None] * layer.experts[e](PATCHES, GENES) for e in range(4))
    torch.autograd.backward((mean * direction).sum())
    assert again.grad is not None
    assert torch.allclose(scores.grad, again.grad, atol=1e-5)
    assert (scores.grad.abs() > 1e-4).all()
    for name, value in layer.named_parameters():
        grad = found[name]
        assert grad is not None
        assert value.grad is not None
        assert torch.allclose(grad, value.grad, atol=1e-4)


def test_in_training_experts_are_drawn_by_the_softmax_of_their_scores() -> None:
    layer = experts().train()
    cases = 4000
    scores = torch.tensor([[1.0, 0.0, 0.5, -1.0]]).expand(cases, -1)
    values = torch.zeros(cases, 1, WIDTH)
    layer.experts = nn.ModuleList(_Marked(float(mark)) for mark in range(4))
    torch.manual_seed(3)
    drawn = layer(_alone(values), _alone(values), scores).values[:, 0, 0].round().long()
    shares = torch.bincount(drawn, minlength=4) / cases
    assert shares.tolist() == pytest.approx(scores[0].softmax(0).tolist(), abs=0.03)


class _Marked(nn.Module):
    def __init__(self, mark: float) -> None:
        super().__init__()
        self.mark = mark

    def forward(self, own: Tokens, other: Tokens) -> torch.Tensor:
        return torch.full_like(own.values, self.mark)


def _alone(values: torch.Tensor) -> Tokens:
    return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))


# --- the whole ------------------------------------------------------------------------------------


@contextmanager
def recorded(fusion: Mome) -> Iterator[list[torch.Tensor]]:
    """List the scores of each case (B, E), router by router, as the fusion runs."""
    found: list[torch.Tensor] = []
    hooks = [
        router.register_forward_hook(lambda _, __, scores: found.append(scores.detach()))
        for router in fusion.routers
    ]
    yield found
    for hook in hooks:
        hook.remove()


def test_patches_and_gene_sets_take_turns() -> None:
    fusion = build_fusion("mome", TOY_SETTINGS["mome"] | {"rounds": 2}, DIMS).eval()
    assert isinstance(fusion, Mome)
    shuffled(fusion)
    with recorded(fusion) as scores:
        found = fusion(BATCH)
    assert len(scores) == 4
    for row in range(3):
        real = BATCH.mask[row]
        order = sorted(range(int(real.sum())), key=lambda i: BATCH.coords[row][i].tolist()[::-1])
        patches = _alone(fusion.patches(BATCH)[0][row][order][None])
        genes = _alone(fusion.genes(BATCH)[row][None])
        for turn, (layer, score) in enumerate(zip(fusion.layers, scores, strict=True)):
            assert isinstance(layer, ExpertLayer)
            expert = layer.experts[int(score[row].argmax())]
            if turn % 2 == 0:
                patches = _alone(expert(patches, genes))
            else:
                genes = _alone(expert(genes, patches))
        sequence = torch.cat([fusion.summary[None], genes.values, patches.values], dim=1)
        expected = fusion.head(fusion.last(*_alone(sequence))[:, 0])
        assert torch.allclose(found[row], expected[0], rtol=1e-3, atol=1e-4)


def test_more_tokens_than_landmarks_are_approximated() -> None:
    few = build_fusion("mome", TOY_SETTINGS["mome"] | {"landmarks": 2}, DIMS).eval()
    many = build_fusion("mome", TOY_SETTINGS["mome"], DIMS).eval()
    many.load_state_dict(few.state_dict())
    assert torch.isfinite(few(BATCH)).all()
    assert not torch.allclose(few(BATCH), many(BATCH), atol=1e-5)
    singles = torch.cat([few(collate([case], DIMS)) for case in toy_cases(5, 1, 3)])
    assert torch.allclose(few(BATCH), singles, rtol=1e-4, atol=1e-5)


def test_the_clinical_record_may_join_as_a_token() -> None:
    settings = TOY_SETTINGS["mome"] | {"modalities": ["slide", "rna", "clinical"]}
    fusion = build_fusion("mome", settings, DIMS).eval()
    other = collate(toy_cases(5, 1, 3, seed=9), DIMS)
    before = fusion(BATCH)
    after = fusion(replace(BATCH, clinical=other.clinical))
    assert not torch.allclose(after, before, atol=1e-6)


def test_balance_is_lowest_where_experts_are_used_evenly() -> None:
    fusion = build_toy("mome").train()
    assert isinstance(fusion, Mome)
    weight = 0.01
    even = fusion.auxiliary_loss(BATCH, LABELS)
    assert even.item() == pytest.approx(weight * len(fusion.routers), rel=0.05)

    usage = torch.tensor([0.7, 0.1, 0.1, 0.1]).expand(len(fusion.routers), 4)
    fusion.usage = usage.clone()
    with recorded(fusion) as scores:
        loss = fusion.auxiliary_loss(BATCH, LABELS)
    expected = 0.0
    for score in scores:
        best = nn.functional.one_hot(score.argmax(dim=1), 4).float().mean(dim=0)
        recent = 0.99**3 * usage[0] + (1 - 0.99**3) * best
        expected += weight * 4 * (score.softmax(dim=1) @ recent).mean().item()
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_balance_trains_the_routers_alone_and_away_from_what_is_overused() -> None:
    fusion = build_toy("mome")
    assert isinstance(fusion, Mome)
    fusion.usage = torch.tensor([0.7, 0.1, 0.1, 0.1]).repeat(len(fusion.routers), 1)
    torch.autograd.backward(fusion.auxiliary_loss(BATCH, LABELS))
    for name, value in fusion.named_parameters():
        assert (value.grad is not None and value.grad.any()) == name.startswith("routers.")
    for router in fusion.routers:
        slope = router.get_parameter("choose.bias").grad
        assert slope is not None
        assert slope[0] > 0
        assert (slope[1:] < 0).all()


def test_mome_has_the_parameters_of_the_paper() -> None:
    sets = {"five": tuple(range(5)), **{str(n): tuple(range(n)) for n in (500, 600, 700, 800, 918)}}
    dims = Dims(embedding=1024, genes=918, outputs=4, gene_sets=sets)
    with torch.device("meta"):
        fusion = build_fusion("mome", {}, dims)
    assert sum(map(len, sets.values())) == 3523  # as the published families of breast cancer
    unused_norms = 4 * 512  # in the code, of each narrow expert; never called
    untrained_there = 4 * 2 * 512 + 512  # bottlenecks and the class token
    assert count(fusion) == 21_783_420 - unused_norms + untrained_there


def test_mome_needs_gene_sets() -> None:
    with pytest.raises(ConfigError, match="expected gene sets"):
        build_fusion("mome", {}, DIMS.model_copy(update={"gene_sets": {}}))
