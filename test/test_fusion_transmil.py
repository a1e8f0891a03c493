"""Nyström attention and transmil, each against its equations in numpy."""

import math

import numpy as np
import pytest
import torch
from by_hand import Array, Weights, array, count, linear, relu, shuffled, softmax
from toy_fusions import DIMS, TOY_SETTINGS, build_toy, toy_cases

from model.batch import Dims, collate
from model.fusion import build_fusion
from model.fusion.layers_nystrom import KERNEL, NystromAttention, pseudo_inverse

BATCH = collate(toy_cases(5, 1, 3), DIMS)


def norm(weights: Weights, name: str, x: Array) -> Array:
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    y: Array = scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return y


def heads(weights: Weights, name: str, x: Array, number: int) -> list[tuple[Array, Array, Array]]:
    """Return query, key and value (L, w) of each head."""
    query, key, value = np.split(x @ weights[f"{name}qkv.weight"].T, 3, axis=1)
    parts = (np.split(part, number, axis=1) for part in (query, key, value))
    return list(zip(*parts, strict=True))


def inverted(a: Array) -> Array:
    """Take six steps towards the pseudo-inverse of a matrix, in its expanded form."""
    z = a.T / (np.linalg.norm(a, 1) * np.linalg.norm(a, np.inf))
    for _ in range(6):
        z = (13 * z - 15 * z @ a @ z + 7 * z @ a @ z @ a @ z - z @ a @ z @ a @ z @ a @ z) / 4
    return z


def attended(weights: Weights, name: str, x: Array, number: int, landmarks: int) -> Array:
    """Return one case's attention (L, width), by the definition."""
    length = len(x)
    joined = []
    for head, (query, key, value) in enumerate(heads(weights, name, x, number)):
        scale = 1 / np.sqrt(query.shape[1])
        if length <= landmarks:
            seen = np.stack([softmax(q @ key.T * scale) for q in query]) @ value
        else:
            segment = np.arange(length) * landmarks // length
            of = [np.flatnonzero(segment == each) for each in range(landmarks)]
            mean_query = np.stack([query[own].mean(axis=0) for own in of])
            mean_key = np.stack([key[own].mean(axis=0) for own in of])
            first = np.stack([softmax(q @ mean_key.T * scale) for q in query])
            middle = np.stack([softmax(q @ mean_key.T * scale) for q in mean_query])
            last = np.stack([softmax(q @ key.T * scale) for q in mean_query])
            seen = first @ inverted(middle) @ last @ value
        kernel = weights[f"{name}along.weight"][head, 0, :, 0]
        for at in range(length):
            for step in range(KERNEL):
                other = at + step - KERNEL // 2
                if 0 <= other < length:
                    seen[at] = seen[at] + kernel[step] * value[other]
        joined.append(seen)
    return linear(weights, f"{name}out.0", np.concatenate(joined, axis=1))


# --- attention ------------------------------------------------------------------------------------


def build(landmarks: int) -> tuple[NystromAttention, Weights]:
    attention = NystromAttention(8, heads=2, landmarks=landmarks, dropout=0.1).eval()
    return attention, shuffled(attention)


@pytest.mark.parametrize("landmarks", [3, 4, 40, 64])
def test_nystrom_equals_its_equations(landmarks: int) -> None:
    attention, weights = build(landmarks)
    torch.manual_seed(1)
    tokens = torch.randn(3, 40, 8)
    mask = torch.arange(40) < torch.tensor([[40], [3], [17]])
    found = attention(tokens, mask)
    for row, size in enumerate(mask.sum(dim=1).tolist()):
        expected = attended(weights, "", array(tokens[row, :size]), 2, landmarks)
        assert array(found[row, :size]) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_padding_draws_no_attention() -> None:
    attention, _ = build(4)
    torch.manual_seed(2)
    tokens = torch.randn(1, 13, 8)
    alone = attention(tokens, torch.ones(1, 13, dtype=torch.bool))
    longer = torch.cat([tokens, 100 * torch.randn(1, 30, 8)], dim=1)
    padded = attention(longer, torch.arange(43)[None] < 13)
    assert torch.allclose(padded[:, :13], alone, atol=1e-5)


@pytest.mark.parametrize("size", [1, 5, 64])
def test_the_pseudo_inverse_of_sharp_attention(size: int) -> None:
    torch.manual_seed(size)
    matrices = torch.softmax(8 * torch.eye(size) + torch.randn(3, 2, size, size), dim=-1)
    expected = np.linalg.pinv(array(matrices))
    assert array(pseudo_inverse(matrices)) == pytest.approx(expected, abs=1e-3)
    # one matrix knows nothing of the others
    many = pseudo_inverse(torch.cat([matrices, 1000 * matrices]))
    assert torch.allclose(many[:3], pseudo_inverse(matrices), atol=1e-5)


# --- transmil -------------------------------------------------------------------------------------


def positioned(weights: Weights, x: Array) -> Array:
    """Add the depth-wise convolutions of a square (s², width)."""
    side = math.isqrt(len(x))
    square = x.reshape(side, side, -1)
    total = square.copy()
    for layer, reach in enumerate((3, 2, 1)):
        kernel = weights[f"convolve.{layer}.weight"][:, 0]  # (width, k, k)
        total += weights[f"convolve.{layer}.bias"]
        for row, column in np.ndindex(side, side):
            for down, right in np.ndindex(2 * reach + 1, 2 * reach + 1):
                y, x_ = row + down - reach, column + right - reach
                if 0 <= y < side and 0 <= x_ < side:
                    total[row, column] += kernel[:, down, right] * square[y, x_]
    return total.reshape(len(x), -1)


@pytest.mark.parametrize("landmarks", [4, 64])
def test_transmil_equals_its_equations(landmarks: int) -> None:
    settings = TOY_SETTINGS["transmil"] | {"landmarks": landmarks}
    fusion = build_fusion("transmil", settings, DIMS.model_copy(update={"outputs": 4})).eval()
    weights = shuffled(fusion, std=0.7)
    logits, shares = fusion(BATCH), fusion.attention(BATCH)
    for row, square in enumerate([[0, 1, 2, 3, 4, 0, 1, 2, 3], [0], [0, 1, 2, 0]]):
        size = max(square) + 1
        patches = relu(linear(weights, "project.0", array(BATCH.bag[row, :size])))
        x = np.concatenate([weights["summary"][None], patches[square]])
        x = x + attended(weights, "first.attention.", norm(weights, "first.norm", x), 2, landmarks)
        x[1:] = positioned(weights, x[1:])
        normed = norm(weights, "second.norm", x)
        y = x + attended(weights, "second.attention.", normed, 2, landmarks)
        expected = linear(weights, "head", norm(weights, "norm", y[0]))
        assert logits[row].tolist() == pytest.approx(expected, rel=1e-2, abs=1e-2)

        exact = np.mean(
            [
                softmax(query[0] @ key.T / np.sqrt(query.shape[1]))
                for query, key, _ in heads(weights, "second.attention.", normed, 2)
            ],
            axis=0,
        )[1:]
        of_patches = np.bincount(square, weights=exact)
        expected = of_patches / of_patches.sum()
        assert shares[row, :size].tolist() == pytest.approx(expected, rel=1e-2, abs=1e-3)


def test_transmil_reads_the_sequence_and_no_coordinates() -> None:
    fusion = build_toy("transmil")
    case, *_ = toy_cases(9)
    assert case.bag is not None
    assert case.coords is not None
    turned = collate([type(case)(bag=case.bag.flip(0), coords=case.coords)], DIMS)
    moved = collate([type(case)(bag=case.bag, coords=3 * case.coords.flip(0))], DIMS)
    before = fusion(collate([case], DIMS))
    assert not torch.allclose(fusion(turned), before, atol=1e-4)
    assert fusion(moved).equal(before)


def test_transmil_has_the_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        fusion = build_fusion("transmil", {}, Dims(embedding=1024, outputs=4))
    assert count(fusion) == 2_673_172
