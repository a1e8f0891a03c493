"""Squares out of tiles, and the box kernel."""

import weakref

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.mosaic import MOST_FACTOR, average, average_to, cut_squares, is_of_shape

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (300, 500, 3), dtype=np.uint8)


class Tiles:
    """The picture in tiles, which remembers what was read and what is still held."""

    def __init__(self, width_px: int, height_px: int) -> None:
        self.size = (width_px, height_px)
        self.read: list[tuple[int, int]] = []
        self.held = self.most_held = 0

    def __call__(self, column: int, row: int) -> NDArray[np.uint8]:
        self.read.append((column, row))
        left, top = column * self.size[0], row * self.size[1]
        tile = PICTURE[top : top + self.size[1], left : left + self.size[0]].copy()
        self.held += 1
        self.most_held = max(self.most_held, self.held)
        weakref.finalize(tile, self._forget)
        return tile

    def _forget(self) -> None:
        self.held -= 1


def rows(side_px: int, step_px: int) -> NDArray[np.int64]:
    xs, ys = (np.arange(0, size - side_px + 1, step_px) for size in (500, 300))
    return np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)


class TestAverage:
    @pytest.mark.parametrize("factor", range(1, MOST_FACTOR + 1))
    def test_is_the_rounded_mean(self, factor: int) -> None:
        pixels = RNG.integers(0, 256, (3 * factor, 7 * factor, 3), dtype=np.uint8)
        sums = pixels.astype(int).reshape(3, factor, 7, factor, 3).sum(axis=(1, 3))
        found = average(pixels, factor)
        np.testing.assert_array_equal(found, (sums + factor**2 // 2) // factor**2)
        # Pillow multiplies by a rounded reciprocal, which can be off by one.
        pillow = np.asarray(Image.fromarray(pixels).reduce(factor)).astype(int)
        assert np.abs(found - pillow).max() <= (0 if factor in (1, 2, 4, 8, 16) else 1)

    @pytest.mark.parametrize("value", [0, 254, 255])
    def test_keeps_the_brightest(self, value: int) -> None:
        pixels = np.full((MOST_FACTOR, 2 * MOST_FACTOR, 3), value, dtype=np.uint8)
        assert (average(pixels, MOST_FACTOR) == value).all()

    def test_of_a_part_of_an_array(self) -> None:
        part = PICTURE[10:90, 20:80]
        expected = part.reshape(40, 2, 30, 2, 3).mean(axis=(1, 3))
        assert np.abs(average(part, 2) - expected).max() <= 0.5


class TestAverageTo:
    @pytest.mark.parametrize(
        ("side_px", "size_px"),
        [(24.3, 23), (56.0, 37), (77.24, 32), (99.6, 24), (100.0, 33), (150.0, 10), (299.0, 7)],
    )
    def test_is_the_rounded_mean_of_the_pixels_whose_centres_a_cell_holds(
        self, side_px: float, size_px: int
    ) -> None:
        part = PICTURE[: int(np.ceil(side_px)), : int(np.ceil(side_px))]
        cell_of = ((np.arange(len(part)) + 0.5) * size_px / side_px).astype(int)
        found = average_to(part, side_px, size_px)
        assert found.shape == (size_px, size_px, 3)
        for row in range(size_px):
            for column in range(size_px):
                cell = part[np.ix_(cell_of == row, cell_of == column)].reshape(-1, 3)
                mean = (cell.sum(axis=0, dtype=int) + len(cell) // 2) // len(cell)
                np.testing.assert_array_equal(found[row, column], mean)

    @pytest.mark.parametrize("side_px", [33.7, 56.0, 77.24, 110.08])
    def test_is_within_a_grey_level_of_pillows(self, side_px: float) -> None:
        """Pillow rounds twice, once along each side."""
        part = PICTURE[: int(np.ceil(side_px)), : int(np.ceil(side_px))]
        kernel, box = Image.Resampling.BOX, (0, 0, side_px, side_px)
        pillow = np.asarray(Image.fromarray(part).resize((32, 32), kernel, box=box)).astype(int)
        difference = np.abs(average_to(part, side_px, 32) - pillow)
        assert difference.max() <= 1
        assert difference.mean() < 0.3

    @pytest.mark.parametrize("value", [0, 255])
    def test_keeps_the_brightest(self, value: int) -> None:
        pixels = np.full((275, 275, 3), value, dtype=np.uint8)
        for size_px in (9, 17, 200):  # cells of 31, 17 and 2 pixels a side
            assert (average_to(pixels, 274.5, size_px) == value).all()


class TestCutSquares:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("side_px", "step_px", "tile_px"),
        [
            (50, 50, (50, 50)),
            (56, 56, (64, 64)),  # a patch on up to four tiles
            (112, 112, (32, 48)),  # on many
            (30, 17, (64, 16)),  # overlapping
            (20, 90, (64, 64)),  # with gaps
            (300, 1, (64, 64)),
        ],
    )
    def test_squares_of_a_grid(self, side_px: int, step_px: int, tile_px: tuple[int, int]) -> None:
        tiles, corners = Tiles(*tile_px), rows(side_px, step_px)
        squares = list(cut_squares(corners, side_px, tile_px, tiles))
        for (x, y), square in zip(corners.tolist(), squares, strict=True):
            np.testing.assert_array_equal(square, PICTURE[y : y + side_px, x : x + side_px])
        covered = np.zeros(PICTURE.shape[:2], dtype=bool)
        for x, y in corners:
            covered[y : y + side_px, x : x + side_px] = True
        needed = {(x // tile_px[0], y // tile_px[1]) for y, x in np.argwhere(covered).tolist()}
        assert len(tiles.read) == len(set(tiles.read))
        assert set(tiles.read) == needed
        assert tiles.held == 0

    def test_holds_a_row_of_tiles(self) -> None:
        tiles = Tiles(20, 20)
        for _ in cut_squares(rows(30, 30), 30, (20, 20), tiles):
            pass
        assert len(tiles.read) == 360
        assert tiles.most_held <= 25 + 2 * 2

    def test_any_order(self) -> None:
        corners = RNG.permutation(rows(50, 25))
        tiles = Tiles(64, 64)
        squares = cut_squares(corners, 50, (64, 64), tiles)
        for (x, y), square in zip(corners.tolist(), squares, strict=True):
            np.testing.assert_array_equal(square, PICTURE[y : y + 50, x : x + 50])
        assert len(tiles.read) == len(set(tiles.read)) and tiles.held == 0

    def test_reads_when_asked(self) -> None:
        tiles = Tiles(64, 64)
        squares = cut_squares(rows(50, 50), 50, (64, 64), tiles)
        assert tiles.read == []
        next(squares)
        assert tiles.read == [(0, 0)]

    def test_no_corners(self) -> None:
        assert list(cut_squares(np.empty((0, 2), np.int64), 50, (64, 64), Tiles(64, 64))) == []


def test_small_masks_are_rounded_to_pixels() -> None:
    assert is_of_shape((3, 2), (1200, 900))
    assert not is_of_shape((3, 4), (1200, 900))
    assert not is_of_shape((300, 200), (1200, 900))
