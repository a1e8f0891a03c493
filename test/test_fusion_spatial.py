"""patchgcn and hvtsurv: what is near what by plain loops, then each against its equations."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from by_hand import Array, Weights, array, attended, count, linear, relu, shuffled, softmax
from toy_fusions import DIMS, build_toy, toy_cases

from model.batch import Batch, CaseInputs, Dims, collate
from model.fusion import build_fusion
from model.fusion.hvtsurv import Hvtsurv, distance_class
from model.fusion.layers_spatial import (
    cut_windows,
    grid_step,
    nearest_patches,
    reading_order,
    slides_in_order,
)

DRAW = torch.Generator().manual_seed(0)
PLACES = {
    "anywhere": torch.randint(0, 100_000, (700, 2), generator=DRAW),
    "a grid with gaps": torch.cartesian_prod(torch.arange(30), torch.arange(30))[
        torch.randperm(900, generator=DRAW)[:600]
    ]
    * 447,
    "two islands": torch.cat(
        [
            torch.randint(0, 30, (300, 2), generator=DRAW),
            torch.randint(90_000, 90_030, (5, 2), generator=DRAW),
        ]
    ),
    "one place": torch.full((20, 2), 7),
    "few": torch.tensor([[0, 0], [5, 0], [0, 3]]),
    "one": torch.tensor([[4, 4]]),
}
each_place = pytest.mark.parametrize("coords", PLACES.values(), ids=PLACES)


def in_order(coords: torch.Tensor) -> torch.Tensor:
    return torch.tensor(sorted(coords.tolist(), key=lambda place: place[::-1]))


def nearest_by_hand(coords: list[list[int]], most: int) -> list[list[int]]:
    """Return each patch's nearest; of equally far ones the upper, then the left one."""
    found = []
    for own, (x, y) in enumerate(coords):
        others = [i for i in range(len(coords)) if i != own]
        others.sort(key=lambda i: ((coords[i][0] - x) ** 2 + (coords[i][1] - y) ** 2, i))
        found.append(others[:most])
    return found


# --- geometry -------------------------------------------------------------------------------------


def test_reading_order_goes_slide_by_slide_and_row_by_row() -> None:
    batch = replace(
        collate(toy_cases(7), DIMS),
        coords=torch.tensor([[[0, 0], [9, 1], [2, 1], [5, 0], [1, 0], [3, 3], [0, 4]]]),
        slide_index=torch.tensor([[0, 1, 1, 1, 1, 0, 0]]),
        mask=torch.tensor([[False, True, True, True, True, True, True]]),
    )
    assert reading_order(batch).tolist() == [[5, 6, 4, 3, 2, 1, 0]]
    assert [(case, own.tolist()) for case, own in slides_in_order(batch)] == [
        (0, [5, 6]),
        (0, [4, 3, 2, 1]),
    ]


@pytest.mark.parametrize("name", ["patchgcn", "hvtsurv"])
def test_a_slide_knows_nothing_of_where_another_lies(name: str) -> None:
    fusion = build_toy(name)
    (case,) = toy_cases(12)
    assert case.coords is not None
    slides = torch.arange(12) % 2
    moved = case.coords + 1000 * slides[:, None]
    several = [replace(case, coords=coords, slide_index=slides) for coords in (case.coords, moved)]
    before, after = (fusion(collate([each], DIMS)) for each in several)
    assert torch.allclose(before, after, atol=1e-6)
    one = fusion(collate([replace(case, coords=moved)], DIMS))
    assert not torch.allclose(fusion(collate([case], DIMS)), one, atol=1e-6)


@pytest.mark.slow
@each_place
@pytest.mark.parametrize("most", [1, 8])
def test_nearest_patches(coords: torch.Tensor, most: int) -> None:
    coords = in_order(coords)
    found, there = nearest_patches(coords, most)
    listed = [row[real].tolist() for row, real in zip(found, there, strict=True)]
    assert listed == nearest_by_hand(coords.tolist(), most)


@each_place
@pytest.mark.parametrize("size", [1, 4, 49])
def test_windows_are_the_nearest_of_those_left(coords: torch.Tensor, size: int) -> None:
    coords = in_order(coords)
    left, expected = list(range(len(coords))), []
    places = coords.tolist()
    while left:
        x, y = places[left[0]]
        left.sort(key=lambda i: ((places[i][0] - x) ** 2 + (places[i][1] - y) ** 2, i))
        expected.append((left[:size] + [-1] * size)[:size])
        left = sorted(left[size:])
    assert cut_windows(coords, size).tolist() == expected


def test_no_patches_make_no_windows() -> None:
    nothing = torch.zeros(0, 2, dtype=torch.int64)
    assert cut_windows(nothing, 4).shape == (0, 4)
    assert grid_step(nothing) == 1


def test_the_step_of_a_grid_is_found_where_patches_are_missing() -> None:
    assert grid_step(PLACES["a grid with gaps"]) == 447
    assert grid_step(torch.tensor([[3, 10], [3, 10]])) == 1


def test_distances_far_apart_share_a_class() -> None:
    alpha, beta, gamma = 1.9, 4 * 1.9, 6 * 1.9
    expected = [0, 1, 1, 1]
    for steps in range(4, 100):
        scaled = math.log(steps / alpha) / math.log(gamma / alpha) * (beta - 2 * alpha)
        expected.append(min(7, round(scaled)))
    assert distance_class(torch.arange(100.0), 7).tolist() == expected
    assert set(expected) == set(range(8))


# --- patchgcn -------------------------------------------------------------------------------------


def layer_norm(weights: Weights, name: str, x: Array) -> Array:
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    y: Array = scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return y


def heard(weights: Weights, name: str, x: Array, neighbours: list[list[int]]) -> Array:
    """Return patches (N, width) after one layer of the graph."""
    total = x.copy()
    for own, others in enumerate(neighbours):
        for channel in range(x.shape[1]):
            messages = np.array([max(x[other, channel], 0) + 1e-7 for other in others])
            if others:
                shares = softmax(weights[f"{name}.temperature"] * messages)
                total[own, channel] += shares @ messages
    inner = relu(
        layer_norm(weights, f"{name}.update.1", total @ weights[f"{name}.update.0.weight"].T)
    )
    update = layer_norm(weights, f"{name}.update.4", inner @ weights[f"{name}.update.3.weight"].T)
    y: Array = x + relu(update)
    return y


def test_patchgcn_equals_its_equations() -> None:
    batch = collate(toy_cases(12, 1, 2), DIMS)
    fusion = build_toy("patchgcn", outputs=4)
    weights = shuffled(fusion)
    for row, found in enumerate(fusion(batch).tolist()):
        mask = batch.mask[row]
        coords = batch.coords[row][mask]
        order = sorted(range(len(coords)), key=lambda i: coords[i].tolist()[::-1])
        neighbours = nearest_by_hand(coords[order].tolist(), 2)
        stages = [relu(linear(weights, "project.0", array(batch.bag[row][mask][order])))]
        for layer in range(3):
            stages.append(heard(weights, f"layers.{layer}", stages[-1], neighbours))
        pooled = attended(weights, "pool", np.concatenate(stages, axis=1))
        expected = linear(weights, "head", relu(linear(weights, "slide.0", pooled)))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_patchgcn_sees_where_patches_lie() -> None:
    (case,) = toy_cases(9)
    assert case.coords is not None
    fusion = build_toy("patchgcn")
    moved = replace(case, coords=case.coords.roll(1, dims=0))
    grown = replace(case, coords=3 * case.coords + 50)
    before = fusion(collate([case], DIMS))
    assert not torch.allclose(fusion(collate([moved], DIMS)), before, atol=1e-5)
    assert fusion(collate([grown], DIMS)).equal(before)


def test_patchgcn_has_the_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        fusion = build_fusion("patchgcn", {}, Dims(embedding=1024, outputs=4))
    assert count(fusion) == 1_383_304


# --- hvtsurv --------------------------------------------------------------------------------------


def on_a_grid(size: int) -> CaseInputs:
    """Return a case whose patches lie on a grid of 8 columns, 100 pixels apart."""
    (case,) = toy_cases(size, seed=size)
    places = torch.arange(size)
    return replace(case, coords=100 * torch.stack([places % 8, places // 8], dim=1))


def window_attention(weights: Weights, name: str, x: Array, bias: Array) -> Array:
    """Return one window's attention (n, width), of two heads; `bias` is (n, n, heads)."""
    parts = np.split(linear(weights, f"{name}.qkv", x), 3, axis=1)
    joined = []
    for head in range(2):
        query, key, value = (np.split(part, 2, axis=1)[head] for part in parts)
        scores = query @ key.T / math.sqrt(query.shape[1]) + bias[:, :, head]
        joined.append(np.stack([softmax(row) for row in scores]) @ value)
    return linear(weights, f"{name}.out.0", np.concatenate(joined, axis=1))


def gelu(x: Array) -> Array:
    return array(torch.nn.functional.gelu(torch.from_numpy(x)))


def hvtsurv_by_hand(weights: Weights, batch: Batch, row: int, size: int) -> tuple[Array, Array]:
    """Return one case's logits (T,) and the weights of its patches (N,), in windows of `size`."""
    bag, coords = array(batch.bag[row][batch.mask[row]]), batch.coords[row][batch.mask[row]]
    x = relu(linear(weights, "project.0", bag))
    windows = [[i for i in window if i >= 0] for window in cut_windows(coords, size).tolist()]
    for window in windows:
        steps = (coords[window][:, None] - coords[window]).abs() / 100
        bias = weights["bias"][distance_class(steps, math.isqrt(size)).sum(-1).numpy()]
        normed = layer_norm(weights, "local_norm", x[window])
        x[window] = gelu(x[window] + window_attention(weights, "local", normed, bias))
    places = [i for window in windows for i in window]
    seen = x.copy()
    for first in range(len(windows)):
        far = places[first :: len(windows)]
        normed = layer_norm(weights, "shuffled_norm", x[far])
        none = np.zeros((len(far), len(far), 2))
        seen[far] += window_attention(weights, "shuffled", normed, none)
    inner = gelu(linear(weights, "mlp.1", layer_norm(weights, "mlp.0", seen)))
    x = layer_norm(weights, "norm", seen + linear(weights, "mlp.4", inner))
    shares = softmax(linear(weights, "score", np.tanh(linear(weights, "value.0", x)))[:, 0])
    return linear(weights, "head", shares @ x), shares


def test_hvtsurv_equals_its_equations() -> None:
    batch = collate([on_a_grid(size) for size in (23, 1, 4, 5, 8)], DIMS)
    fusion = build_toy("hvtsurv", outputs=4)
    weights = shuffled(fusion)
    logits, attention = fusion(batch), fusion.attention(batch)
    for row, mask in enumerate(batch.mask):
        expected, shares = hvtsurv_by_hand(weights, batch, row, size=4)
        assert logits[row].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-3)
        assert attention[row][mask].tolist() == pytest.approx(shares, rel=1e-3, abs=1e-5)


def test_hvtsurv_reads_random_halves_in_training() -> None:
    batch = collate([on_a_grid(64), on_a_grid(3)], DIMS)
    fusion = build_toy("hvtsurv").train()
    torch.manual_seed(1)
    first, again = fusion.attention(batch), fusion.attention(batch)
    torch.manual_seed(1)
    assert fusion.attention(batch).equal(first)
    for weights in (first, again):
        assert weights.sum(dim=1).tolist() == pytest.approx([1, 1])
        seen = (weights[0] > 0).sum().item()
        assert 32 <= seen < 64  # two draws of 8 of the 16 windows
        assert (weights[1, :3] > 0).all()  # the only window is never left out
    assert not (first > 0).equal(again > 0)
    assert (fusion.eval().attention(batch)[0] > 0).all()


def test_hvtsurv_works_without_coordinates() -> None:
    (case,) = toy_cases(30)
    assert torch.isfinite(build_toy("hvtsurv")(collate([replace(case, coords=None)], DIMS))).all()


@pytest.mark.parametrize(("columns", "rows"), [*product((1, 7, 20), (1, 9))])
def test_windows_cover_each_patch_once(columns: int, rows: int) -> None:
    coords = 512 * torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(1)
    windows = cut_windows(coords, 49)
    assert sorted(windows[windows >= 0].tolist()) == list(range(rows * columns))
    assert (windows[:-1] >= 0).all()


def test_hvtsurv_has_the_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        fusion = build_fusion("hvtsurv", {}, Dims(embedding=1024, outputs=4))
    assert isinstance(fusion, Hvtsurv)
    assert count(fusion) == 3_289_213
