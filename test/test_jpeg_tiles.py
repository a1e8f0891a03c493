"""JPEG tiles without OpenSlide: the same pixels, and OpenSlide wherever they would differ."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import tifffile
from jpeg_slides import (
    HEIGHT,
    LAYOUT,
    PICTURE,
    WIDTH,
    damage_tile,
    empty_tile,
    write,
    write_with_shared_tables,
)
from numpy.typing import NDArray
from synthetic import SLIDES, no_warning

from model.errors import CaseError
from model.jpeg_tiles import JpegLevel, JpegTiles
from model.patches import PatchSpec, plan_reading, read_patches
from model.pixels import TiledSource
from model.slide import Slide
from train.pyramid import write_pyramid

real = pytest.mark.skipif(not SLIDES.is_dir(), reason="the real slides of ../shared are absent")

SPEC = PatchSpec(size_px=64, stride_px=64)


def grid(slide: Slide, spec: PatchSpec) -> NDArray[np.int64]:
    """Return every place of the slide, those that reach over its edge too."""
    reading = plan_reading(slide, spec)
    step = spec.size_px * reading.downsample
    xs, ys = (np.arange(0, size, step) for size in (slide.width_px, slide.height_px))
    return np.rint(np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)).astype(np.int64)


def patches_of(path: Path, spec: PatchSpec, *, expect_tiles: bool = True) -> NDArray[np.uint8]:
    with Slide.open(path, default_mpp=None, warn=no_warning) as slide:
        tiles = slide._source.tiles(plan_reading(slide, spec).level)
        assert (tiles is not None) == expect_tiles
        return np.stack(list(read_patches(slide, grid(slide, spec), spec)))


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, PatchSpec], NDArray[np.uint8]]:
    """Return what reads patches through OpenSlide alone, one by one."""

    def read(path: Path, spec: PatchSpec) -> NDArray[np.uint8]:
        with monkeypatch.context() as patch:
            patch.setattr(TiledSource, "tiles", lambda *_: None)
            return patches_of(path, spec, expect_tiles=False)

    return read


Plain = Callable[[Path, PatchSpec], NDArray[np.uint8]]


class TestEqualToOpenSlide:
    @pytest.mark.parametrize(
        ("mpp", "levels"),
        [
            (0.25, (1, 4)),  # the level is there
            (0.25, (1,)),  # 4 x 4 pixels averaged, tile by tile
            (0.5, (1,)),
            (1 / 3, (1,)),  # 3 x 3, which do not divide a tile
            (0.0625, (1, 4)),  # 4 x 4 of a coarser level
            (0.7, (1,)),  # no whole number: pixels are split
        ],
    )
    def test_pyramids(
        self, tmp_path: Path, plain: Plain, mpp: float, levels: tuple[int, ...]
    ) -> None:
        path = tmp_path / "slide.tif"
        write_pyramid(path, PICTURE, max(mpp, 0.1), downsamples=levels)
        spec = PatchSpec(mpp=1.0 if mpp >= 0.1 else 1.6, size_px=16, stride_px=16)
        found = patches_of(path, spec)
        assert found.std() > 20
        np.testing.assert_array_equal(found, plain(path, spec))

    @pytest.mark.parametrize(
        "options",
        [
            {"subsampling": (1, 1)},
            {"subsampling": (2, 1)},
            {"subsampling": (2, 2)},
            {"compressionargs": {"outcolorspace": "rgb"}},  # old Aperio files
            {"tile": (64, 256)},
            {"tile": (1024, 1024)},  # larger than the slide
            {"bigtiff": True},
        ],
        ids=str,
    )
    def test_layouts(self, tmp_path: Path, plain: Plain, options: dict[str, Any]) -> None:
        path = write(tmp_path / "slide.tif", **options)
        found = patches_of(path, SPEC)
        assert found.std() > 20
        np.testing.assert_array_equal(found, plain(path, SPEC))

    def test_shared_tables(self, tmp_path: Path, plain: Plain) -> None:
        path = write_with_shared_tables(tmp_path / "slide.tif")
        with tifffile.TiffFile(path) as tiff:
            assert tiff.pages[0].jpegtables
        found = patches_of(path, SPEC)
        assert found.std() > 20
        np.testing.assert_array_equal(found, plain(path, SPEC))

    @pytest.mark.parametrize("index", [0, 9, 47])  # a corner, the middle, the other corner
    def test_empty_tile_is_background(self, tmp_path: Path, plain: Plain, index: int) -> None:
        path = write(tmp_path / "slide.tif")
        empty_tile(path, index)
        found = patches_of(path, SPEC)
        assert (found[0] == 255).all() == (index == 0)
        np.testing.assert_array_equal(found, plain(path, SPEC))

    @pytest.mark.slow
    @real
    @pytest.mark.parametrize(
        ("name", "mpp"),
        [
            ("svs", 0.499),
            ("svs", 0.75),
            ("svs", 1.0),
            ("derived-pyramid.tif", 0.75),
        ],
    )
    def test_real_slides(self, plain: Plain, name: str, mpp: float) -> None:
        """The SVS has both traps: RGB as the tags alone say, and shared tables."""
        path = SLIDES / f"CMU-1-Small-Region.{name}"
        spec = PatchSpec(mpp=mpp)
        np.testing.assert_array_equal(patches_of(path, spec), plain(path, spec))

    @real
    def test_level_that_openslide_blends(self, plain: Plain) -> None:
        """Its downsample is 2.0003: OpenSlide, asked in level-0 pixels, meets it between pixels."""
        path, spec = SLIDES / "CMU-1-Small-Region.derived-pyramid.tif", PatchSpec(mpp=0.998)
        with tifffile.TiffFile(path) as tiff:
            pixels = tiff.pages[1].asarray()
        found = patches_of(path, spec)
        own = np.stack([pixels[y : y + 224, x : x + 224] for y in CORNERS for x in CORNERS])
        np.testing.assert_array_equal(
            found.reshape(7, 5, 224, 224, 3)[:4, :4].reshape(own.shape), own
        )
        assert 0.5 < np.abs(found.astype(int) - plain(path, spec)).mean() < 6


CORNERS = (0, 224, 448, 672)


class TestOpenSlideInstead:
    def test_when_a_tile_differs(
        self, tmp_path: Path, plain: Plain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without Adobe's segment, tiles of RGB come out in the wrong colours."""
        path = write(tmp_path / "slide.tif", compressionargs={"outcolorspace": "rgb"})
        expected = plain(path, SPEC)
        monkeypatch.setattr("model.jpeg_tiles.STORED_AS_RGB", b"")
        monkeypatch.setattr("model.jpeg_tiles.simplejpeg", Shifted())
        np.testing.assert_array_equal(patches_of(path, SPEC, expect_tiles=False), expected)

    @pytest.mark.parametrize(
        "options",
        [
            {"compression": "deflate"},
            {"compression": "lzw"},
            {"compression": "aperio_jp2000_rgb", "description": "Aperio Image |MPP = 1.0"},
        ],
        ids=str,
    )
    def test_when_it_is_not_jpeg(
        self, tmp_path: Path, plain: Plain, options: dict[str, Any]
    ) -> None:
        path = write(tmp_path / "slide.tif", **options)
        found = patches_of(path, SPEC, expect_tiles=False)
        assert found.std() > 20

    @real
    def test_when_the_format_is_another(self) -> None:
        source = TiledSource(SLIDES / "camelyon_HE_lowres.dcm")
        assert source.tiles(0) is None
        source.close()

    def test_when_two_pages_are_of_one_size(self, tmp_path: Path, plain: Plain) -> None:
        """As a copy with drawings on it, which OpenSlide does not show."""
        path = write(tmp_path / "slide.tif")
        drawn = PICTURE.copy()
        drawn[300:420, 100:500] = (0, 160, 60)
        tifffile.imwrite(path, drawn, append=True, **LAYOUT)
        found = patches_of(path, SPEC, expect_tiles=False)
        np.testing.assert_array_equal(found, plain(path, SPEC))

    @pytest.mark.parametrize("tag", ["ImageWidth", "ImageLength", "TileWidth", "TileLength"])
    def test_when_a_page_that_it_does_not_show_is_damaged(
        self, tmp_path: Path, plain: Plain, tag: str
    ) -> None:
        path = write(tmp_path / "slide.tif")
        tifffile.imwrite(path, PICTURE[::2, ::2], append=True, **LAYOUT)
        with tifffile.TiffFile(path, mode="r+") as tiff:
            tiff.pages[1].tags[tag].overwrite(0)
        found = patches_of(path, SPEC, expect_tiles=tag != "TileLength")
        np.testing.assert_array_equal(found, plain(path, SPEC))

    def test_damage_is_told_as_ever(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        path = write(tmp_path / "slide.tif")
        damage_tile(path, 9, lambda stream: bytes(len(stream)))
        with pytest.raises(CaseError) as error:
            patches_of(path, SPEC)
        assert str(error.value).startswith(
            f"{path} (level 0, x 128, y 128): expected readable pixels, found "
        )
        assert capfd.readouterr().err == ""

    def test_damage_of_the_tile_that_would_be_compared(self, tmp_path: Path) -> None:
        path = write(tmp_path / "slide.tif")
        index = JpegTiles(path).levels[WIDTH, HEIGHT].lengths
        damage_tile(path, index.index(max(index)), lambda stream: bytes(len(stream)))
        with pytest.raises(CaseError, match="expected readable pixels, found"):
            patches_of(path, SPEC, expect_tiles=False)


class Shifted:
    """A decoder that is wrong by one grey level."""

    @staticmethod
    def decode_jpeg(stream: bytes, colorspace: str, buffer: object) -> NDArray[np.uint8]:
        tile: NDArray[np.uint8] = simplejpeg.decode_jpeg(stream, colorspace)
        return tile ^ 1


@pytest.fixture
def level(tmp_path: Path) -> Iterator[JpegLevel]:
    tiles = JpegTiles(write(tmp_path / "slide.tif", tile=(128, 256)))
    yield tiles.levels[WIDTH, HEIGHT]
    tiles.close()


class TestLevel:
    def test_grid(self, level: JpegLevel) -> None:
        assert (level.tile_width_px, level.tile_height_px) == (256, 128)
        assert (level.columns, level.count) == (4, 24)

    def test_tile(self, level: JpegLevel) -> None:
        tile = level.read(2, 3)
        assert tile is not None
        assert np.abs(tile.astype(int) - PICTURE[384:512, 512:768]).mean() < 6

    def test_tiles_lie_where_libjpeg_turbo_writes_through_the_cache(self, level: JpegLevel) -> None:
        """Its rows start at no multiple of 32 bytes."""
        kept = [level.read(0, 0) for _ in range(4)]
        assert all(tile is not None and tile.ctypes.data % 2 == 1 for tile in kept)
        memory = level.memory()
        tile = level.read(0, 0, memory)
        assert tile is not None and np.shares_memory(tile, memory)

    def test_fullest(self, level: JpegLevel) -> None:
        column, row = level.fullest()
        assert level.lengths[row * 4 + column] == max(level.lengths)


def test_files_are_closed(tmp_path: Path) -> None:
    path = write(tmp_path / "slide.tif")
    before = len(list(Path("/proc/self/fd").iterdir()))
    patches_of(path, SPEC)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
