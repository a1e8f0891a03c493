"""Where patches lie: their order, and which are near each other."""

from collections.abc import Iterator

import torch
from torch.nn.functional import pad

from model.batch import Batch

ROWS_AT_ONCE = 256
"""Patches whose neighbours are looked for together."""


def reading_order(batch: Batch) -> torch.Tensor:
    """Return each case's patches (B, N) slide by slide, row by row, column by column.

    Padding is last.
    """
    place = batch.coords[..., 1] * 2**32 + batch.coords[..., 0]
    order = place.argsort(dim=1, stable=True)
    slide = batch.slide_index.masked_fill(~batch.mask, torch.iinfo(torch.int64).max)
    return order.gather(1, slide.gather(1, order).argsort(dim=1, stable=True))


def slides_in_order(batch: Batch) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the case of each slide, and the positions of its patches (n,) in reading order.

    A case without patches has one slide of none.
    """
    order = reading_order(batch)
    for case, size in enumerate(batch.mask.sum(dim=1).tolist()):
        own = order[case, :size]
        sizes = torch.bincount(batch.slide_index[case, own])
        for patches in torch.split(own, sizes[sizes > 0].tolist() or [0]):
            yield case, patches


@torch.no_grad()
def nearest_patches(coords: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the patches nearest to each of N patches of one slide, itself not among them.

    Of several equally far away, those that come first in `coords` are taken. Distances are exact
    up to 2⁵³ / N pixels squared: 300,000 pixels for 100,000 patches.

    Args:
        coords: (N, 2) int64, level-0 pixels, in reading order.
        most: How many to find.

    Returns:
        Their positions in `coords` (N, K), and whether they are there: in a small bag there are
        fewer than asked for.
    """
    if (coords == coords[0]).all():  # as in bags without coordinates
        return _first_patches(coords, most)
    places = coords.double()
    area = (places.amax(dim=0) - places.amin(dim=0) + 1).prod()
    reach = 2 * float((area / len(places)).sqrt())  # two steps of a full grid
    found = [
        _nearest_in_strip(places, start, most, reach)
        for start in range(0, len(places), ROWS_AT_ONCE)
    ]
    positions, there = zip(*found, strict=True)
    return torch.cat(positions), torch.cat(there)


def _first_patches(coords: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what is nearest where all are at one place."""
    own = torch.arange(len(coords), device=coords.device)[:, None]
    positions = own[: min(most, len(coords) - 1)].T.repeat(len(coords), 1)
    positions += positions >= own
    return positions, torch.ones_like(positions, dtype=torch.bool)


def _nearest_in_strip(
    places: torch.Tensor, start: int, most: int, reach: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the nearest to some patches from `start` on, among those that are at their height.

    The patches are in reading order, so the candidates lie side by side in memory. What is not
    among them is farther away than `reach`, which grows till that is farther than what was found.
    """
    count = len(places)
    some = places[start : start + ROWS_AT_ONCE]
    height = places[:, 1].contiguous()
    while True:
        low = int(torch.searchsorted(height, height[start] - reach))
        high = int(torch.searchsorted(height, some[-1, 1] + reach, right=True))
        near = places[low:high]
        gaps = (some[:, None, 0] - near[:, 0]) ** 2 + (some[:, None, 1] - near[:, 1]) ** 2
        # Whole numbers, all different: topk itself takes any of several that are equal.
        keys = gaps * count + torch.arange(low, high, device=places.device)
        keys.diagonal(start - low).fill_(torch.inf)  # each patch to itself
        best = keys.topk(min(most, high - low), dim=1, largest=False)
        complete = high - low == count
        if complete or float(best.values.max()) <= reach**2 * count:
            return best.indices + low, best.values.isfinite()
        reach *= 2


@torch.no_grad()
def cut_windows(coords: torch.Tensor, size: int) -> torch.Tensor:
    """Cut the N patches of one slide into windows of neighbours, one after another.

    A window is the first patch left and the nearest of those left, by distance; of several equally
    far away, those that come first in `coords`.

    Args:
        coords: (N, 2) int64, level-0 pixels, in reading order.
        size: Patches of a window.

    Returns:
        Positions in `coords` (⌈N / size⌉, size); the last window is filled up with -1.
    """
    left = torch.arange(len(coords), device=coords.device)
    windows = [left.new_empty(0)]
    while len(left):
        gaps = (coords[left] - coords[left[0]]).square().sum(dim=1)
        keys = gaps * len(left) + torch.arange(len(left), device=coords.device)  # all different
        window = keys.topk(min(size, len(left)), largest=False).indices
        windows.append(left[window])
        rest = torch.ones_like(left, dtype=torch.bool)
        rest[window] = False
        left = left[rest]
    return pad(torch.cat(windows), (0, -len(coords) % size), value=-1).view(-1, size)


@torch.no_grad()
def grid_step(coords: torch.Tensor) -> float:
    """Return the least distance between two columns, or two rows, of patches (N, 2), in pixels."""
    gaps = torch.diff(coords.sort(dim=0).values, dim=0)
    gaps = gaps[gaps > 0]
    return float(gaps.min()) if len(gaps) else 1.0
