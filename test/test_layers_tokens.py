"""Tokens and the attention between them, each against modules or loops that do it the plain way."""

import math

import numpy as np
import pytest
import torch
from by_hand import array, count, shuffled, softmax
from torch import Tensor, nn
from toy_fusions import DIMS, toy_cases

from model.batch import Modality, collate
from model.fusion.layers import mlp, snn
from model.fusion.layers_attention import (
    QUERIES_AT_ONCE,
    CrossAttention,
    HubAttention,
    attend,
    attention_weights,
    masked_mean,
)
from model.fusion.layers_tokens import GroupedSnn, PatchTokens, TokensConfig

SETS = {"one": (4,), "all": (0, 1, 2, 3, 4, 5), "again": (5, 0, 2), "other": (2, 3)}
WIDTH = 7


def gradient(value: Tensor) -> Tensor:
    assert value.grad is not None
    return value.grad


def as_modules(grouped: GroupedSnn, layers: int = 2) -> list[nn.Sequential]:
    """Build the plain modules, one a set, that have the weights of the grouped one."""
    modules = []
    row = 0
    for index, genes in enumerate(SETS.values()):
        module = snn((len(genes), *[WIDTH] * layers), dropout=0.25)
        first, *further = [layer for layer in module if isinstance(layer, nn.Linear)]
        with torch.no_grad():
            first.weight.copy_(grouped.members[row : row + len(genes)].T)
            first.bias.copy_(grouped.members_bias[index])
            for weight, bias, linear in zip(
                grouped.inner, grouped.inner_bias, further, strict=True
            ):
                linear.weight.copy_(weight[index].T)
                linear.bias.copy_(bias[index])
        row += len(genes)
        modules.append(module.eval())
    return modules


def loop(modules: list[nn.Sequential], rna: Tensor) -> Tensor:
    return torch.stack(
        [module(rna[:, genes]) for module, genes in zip(modules, SETS.values(), strict=True)], dim=1
    )


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_grouped_networks_equal_a_loop_over_modules(layers: int) -> None:
    torch.manual_seed(0)
    grouped = GroupedSnn(SETS, WIDTH, dropout=0.25, layers=layers).eval()
    modules = as_modules(grouped, layers)
    assert count(grouped) == sum(count(module) for module in modules)
    ours, theirs = torch.randn(5, 6, requires_grad=True), torch.randn(5, 6, requires_grad=True)
    theirs.data.copy_(ours.data)
    tokens, expected = grouped(ours), loop(modules, theirs)
    assert tokens.shape == (5, len(SETS), WIDTH)
    assert torch.allclose(tokens, expected, atol=1e-6)

    pull = torch.randn_like(tokens)
    for value in (tokens, expected):
        torch.autograd.backward((value * pull).sum())
    assert torch.allclose(gradient(ours), gradient(theirs), atol=1e-6)
    firsts = [layer for module in modules for layer in module if isinstance(layer, nn.Linear)]
    firsts = firsts[::layers]
    rows = torch.cat([gradient(first.weight).T for first in firsts])
    assert torch.allclose(gradient(grouped.members), rows, atol=1e-6)
    biases = torch.stack([gradient(first.bias) for first in firsts])
    assert torch.allclose(gradient(grouped.members_bias), biases, atol=1e-6)


def test_grouped_networks_start_as_modules_do() -> None:
    torch.manual_seed(1)
    sets = {str(size): tuple(range(size)) for size in (1, 4, 100)}
    grouped = GroupedSnn(sets, width=500, dropout=0.0)
    rows = torch.split(grouped.members, [1, 4, 100])
    for size, row, bias in zip((1, 4, 100), rows, grouped.members_bias, strict=True):
        for drawn in (row, bias):
            assert drawn.abs().max().item() == pytest.approx(size**-0.5, rel=0.02)
            assert drawn.std().item() == pytest.approx((3 * size) ** -0.5, rel=0.1)
    assert grouped.inner[0].std().item() == pytest.approx((3 * 500) ** -0.5, rel=0.02)


def test_grouped_networks_drop_in_training_only() -> None:
    grouped = GroupedSnn(SETS, WIDTH, dropout=0.5)
    rna = torch.randn(2, 6)
    assert not grouped(rna).equal(grouped(rna))
    assert grouped.eval()(rna).equal(grouped(rna))


def test_the_positions_of_genes_are_no_part_of_the_state() -> None:
    assert not {"genes", "starts"} & set(GroupedSnn(SETS, WIDTH, 0.0).state_dict())


@pytest.mark.parametrize("width", [3, 8])
def test_attention_equals_its_equation(width: int) -> None:
    torch.manual_seed(2)
    query, key, value = torch.randn(3, 70, width), torch.randn(3, 9, width), torch.randn(3, 9, 4)
    assert query.shape[1] > QUERIES_AT_ONCE
    value = torch.randn(3, 9, width)
    mask = torch.arange(9) < torch.tensor([9, 1, 4])[:, None]
    found = attend(query, key, value, mask)
    weights = attention_weights(query, key, mask)
    for case, size in enumerate((9, 1, 4)):
        shares = np.zeros((70, size))
        for row in range(70):
            scores = array(query[case, row]) @ array(key[case, :size]).T / math.sqrt(width)
            shares[row] = softmax(scores)
            expected = shares[row] @ array(value[case, :size])
            assert found[case, row].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert weights[case, :size].tolist() == pytest.approx(shares.mean(axis=0), rel=1e-4)
        assert not weights[case, size:].any()
    assert torch.allclose(attend(query, key, value)[0], found[0], atol=1e-6)


def test_attention_to_nothing_is_zeros_and_has_a_gradient() -> None:
    query = torch.randn(2, 3, 4, requires_grad=True)
    key = torch.randn(2, 5, 4, requires_grad=True)
    mask = torch.tensor([[True] * 5, [False] * 5])
    found = attend(query, key, key, mask)
    assert found[0].any()
    assert not found[1].any()
    assert not attention_weights(query, key, mask)[1].any()
    torch.autograd.backward(found.sum())
    for value in (query, key):
        assert torch.isfinite(gradient(value)).all()
        assert not gradient(value)[1].any()


@pytest.mark.parametrize("width_in", [6, 4], ids=["narrower", "as wide"])
@pytest.mark.parametrize("asked", [3, 7], ids=["few queries", "many queries"])
def test_cross_attention_equals_its_equation(width_in: int, asked: int) -> None:
    attention = CrossAttention(width_in, 4)
    weights = shuffled(attention)
    queries, tokens = torch.randn(1, asked, width_in), torch.randn(1, 5, width_in)
    mask = torch.tensor([[True, False, True, True, False]])
    real = array(tokens[0, mask[0]])
    q, k, v = (
        x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", np.zeros(4))
        for name, x in (("query", array(queries[0])), ("key", real), ("value", real))
    )
    shares = np.stack([softmax(row) for row in q @ k.T / 2])
    assert array(attention(queries, tokens, mask)[0]) == pytest.approx(shares @ v, rel=1e-4)
    found = attention.weights(queries, tokens, mask)[0]
    assert found[mask[0]].tolist() == pytest.approx(shares.mean(axis=0), rel=1e-4)
    assert "key.bias" not in weights  # the softmax would not see it
    assert not attention(queries, tokens, torch.zeros_like(mask)).any()


@pytest.mark.parametrize("optional", [(), ("slide",)], ids=["needed", "optional"])
def test_patches_in_pieces_are_the_same_tokens(
    optional: tuple[Modality, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.fusion.layers_tokens.piece_size", lambda device: 4)
    tokens = PatchTokens(TokensConfig(optional=optional), mlp((DIMS.embedding, 7, 6), 0.0), 6)
    batch = collate(toy_cases(9, 3), DIMS)
    whole, mask = tokens(batch)
    with torch.no_grad():
        pieces, same_mask = tokens(batch)
    assert pieces.shape == (2, 9, 6)
    assert torch.allclose(pieces, whole, atol=1e-6)
    assert torch.equal(same_mask, mask)


def test_groups_are_a_hub_between_patches() -> None:
    hub = HubAttention(6, 4)
    weights = shuffled(hub)
    groups, patches = torch.randn(2, 3, 6), torch.randn(2, 5, 6)
    mask = torch.arange(5) < torch.tensor([5, 2])[:, None]
    to_groups, to_patches = hub(groups, patches, mask)
    paid = hub.weights(groups, patches, mask)
    for case, size in enumerate((5, 2)):
        tokens = np.concatenate([array(groups[case]), array(patches[case, :size])])
        spread = np.sqrt(tokens.var(axis=1, keepdims=True) + 1e-5)
        tokens = (tokens - tokens.mean(axis=1, keepdims=True)) / spread
        tokens = tokens * weights["norm.weight"] + weights["norm.bias"]
        q, k, v = (tokens @ weights[f"attention.{n}.weight"].T for n in ("query", "key", "value"))
        scores = q @ k.T / 2  # (3 + N, 3 + N)
        from_groups = np.stack([softmax(row) for row in scores[:3]])
        from_patches = np.stack([softmax(row[:3]) for row in scores[3:]])
        assert array(to_groups[case]) == pytest.approx(from_groups @ v, rel=1e-3, abs=1e-5)
        found = array(to_patches[case, :size])
        assert found == pytest.approx(from_patches @ v[:3], rel=1e-3, abs=1e-5)
        share = from_groups[:, 3:].sum(axis=0)
        assert paid[case, :size].tolist() == pytest.approx(share / share.sum(), rel=1e-3)
        assert not paid[case, size:].any()


def test_a_mean_over_real_tokens() -> None:
    tokens = torch.tensor([[[1.0], [5.0], [9.0]], [[3.0], [8.0], [8.0]], [[7.0], [7.0], [7.0]]])
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    assert masked_mean(tokens, mask).tolist() == [[3.0], [3.0], [0.0]]
