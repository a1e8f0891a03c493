"""Overviews of whole slides, and files that are damaged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from openslide import OpenSlide
from synthetic import HEIGHT, WIDTH, no_warning, tissue_slide, write_mha, write_striped

from model.errors import CaseError
from model.jpeg_tiles import JpegLevel
from model.pixels import TiledSource
from model.slide import Slide
from model.whole_image import WHOLE_MOST_PX
from train.pyramid import write_pyramid


class TestOverview:
    def test_thumbnail_averages(
        self, slide: Slide, picture: tuple[NDArray[np.uint8], NDArray[np.bool_]]
    ) -> None:
        thumbnail = slide.thumbnail(100)
        assert thumbnail.values.shape == (75, 100, 3)
        assert thumbnail.downsample == (12, 12)
        expected = picture[0].reshape(75, 12, 100, 12, 3).mean(axis=(1, 3))
        assert np.abs(thumbnail.values - expected).mean() < 2

    def test_thumbnail_is_never_larger_than_the_slide(self, slide: Slide) -> None:
        assert slide.thumbnail(5000).values.shape == (HEIGHT, WIDTH, 3)

    def test_blocks_of_a_large_level_fit_together(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Blocks that do not divide the level, and a factor that does not divide either."""
        path = tmp_path / "large.tif"
        picture, _ = tissue_slide(1000, 700, seed=0)
        write_pyramid(path, picture, 0.5, downsamples=(1,))
        with Slide.open(path, default_mpp=None, warn=no_warning) as slide:
            whole = slide.thumbnail(150)
            monkeypatch.setattr("model.pixels.BLOCK_PX", 100)
            blocks = slide.thumbnail(150)
        assert whole.values.shape == (100, 143, 3)  # cells of 7 pixels
        np.testing.assert_array_equal(blocks.values, whole.values)

    @pytest.mark.parametrize("most_px", [150, 90, 1000])
    @pytest.mark.parametrize("tile_px", [64, 256])
    def test_tiles_show_what_openslide_shows(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_px: int, tile_px: int
    ) -> None:
        path = tmp_path / "slide.tif"
        picture, _ = tissue_slide(1000, 700, seed=0)
        write_pyramid(path, picture, 0.5, downsamples=(1, 4), tile_px=tile_px)
        with Slide.open(path, default_mpp=None, warn=no_warning) as slide:
            overview = slide.thumbnail(most_px)
            assert slide._source.tiles(0) is not None
            monkeypatch.setattr(TiledSource, "tiles", lambda *_: None)
            expected = slide.thumbnail(most_px)
        np.testing.assert_array_equal(overview.values, expected.values)

    @pytest.mark.slow
    @pytest.mark.parametrize("tile_px", [256, 1024, 2048])
    def test_each_tile_is_decoded_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tile_px: int
    ) -> None:
        path = tmp_path / "slide.tif"
        picture, _ = tissue_slide(2100, 1600, seed=0)
        write_pyramid(path, picture, 0.5, downsamples=(1,), tile_px=tile_px)
        read, original = [], JpegLevel.read
        with Slide.open(path, default_mpp=None, warn=no_warning) as slide:
            tiles = slide._source.tiles(0)
            monkeypatch.setattr(
                JpegLevel, "read", lambda *args: (read.append(args[1:3]), original(*args))[1]
            )
            slide.thumbnail(525)  # cells of 4 pixels, which fill a tile
        assert tiles is not None
        assert len(read) == len(set(read)) == tiles.count

    def test_a_label_that_passes_for_a_level_is_none(self, tmp_path: Path) -> None:
        path = tmp_path / "slide.tif"
        picture, _ = tissue_slide(1000, 700, seed=0)
        write_pyramid(path, picture, 0.5, downsamples=(1, 3), tile_px=64)
        with tifffile.TiffWriter(path, append=True) as tiff:
            label = np.zeros((100, 240, 3), dtype=np.uint8)
            tiff.write(label, photometric="rgb", tile=(64, 64), subfiletype=1, metadata=None)
        with OpenSlide(path) as plain:
            assert plain.level_count == 3
        with Slide.open(path, default_mpp=None, warn=no_warning) as slide:
            assert slide.downsamples == pytest.approx((1, 3), rel=0.01)
            assert slide.thumbnail(100).values.shape == (59, 84, 3)  # cells of 4 pixels of level 1
            assert slide.thumbnail(100).values.mean() > 100


class TestDamage:
    def check(self, path: Path, expected: str, found: str) -> None:
        with pytest.raises(CaseError) as error:
            Slide.open(path, default_mpp=0.25, warn=no_warning)
        assert str(error.value).startswith(f"{path}: expected {expected}, found {found}")
        assert "\n" not in str(error.value)

    def test_absent(self, tmp_path: Path) -> None:
        self.check(tmp_path / "none.tif", "an image file", "no file")

    def test_empty(self, tmp_path: Path) -> None:
        path = tmp_path / "empty.tif"
        path.touch()
        self.check(path, "an image file", "an empty file")

    def test_without_tiles(self, tmp_path: Path) -> None:
        path = tmp_path / "striped.tif"
        write_striped(path, np.zeros((64, 64, 3), dtype=np.uint8))
        self.check(path, "a slide that OpenSlide reads (a TIFF needs tiles)", "Unsupported")

    @pytest.mark.parametrize("kept", [0.02, 0.3, 0.8, 0.99])
    def test_truncated(
        self, tmp_path: Path, slide_path: Path, kept: float, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Wherever it is cut, opening it or reading it whole tells."""
        path = tmp_path / "cut.tif"
        content = slide_path.read_bytes()
        path.write_bytes(content[: int(len(content) * kept)])
        with (
            pytest.raises(CaseError, match=r"cut\.tif.*: expected .*, found "),
            Slide.open(path, default_mpp=0.25, warn=no_warning) as slide,
        ):
            slide.thumbnail(WIDTH)
        assert capfd.readouterr().err == ""

    def test_tiles_for_which_no_machine_has_memory(self, tmp_path: Path, slide_path: Path) -> None:
        """OpenSlide opens such a file, and aborts the process at the first pixel."""
        path = tmp_path / "tiles.tif"
        path.write_bytes(slide_path.read_bytes())
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            for tag in ("TileWidth", "TileLength"):
                tiff.pages[0].tags[tag].overwrite(2**20)
        side = f"{2**20:,}"
        self.check(path, "tiles of at most 1,073,741,824 pixels", f"some of {side} x {side}")

    @pytest.mark.parametrize("compression", ["jpeg", "lzw"])
    def test_fewer_tiles_than_the_size_needs(self, tmp_path: Path, compression: str) -> None:
        """Reading what is not there took half an hour."""
        path = tmp_path / "wide.tif"
        picture, _ = tissue_slide(700, 250, seed=0)
        tifffile.imwrite(path, picture, tile=(128, 128), compression=compression, metadata=None)
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            tiff.pages[0].tags["ImageWidth"].overwrite(700 + 2**23)
        expected = r"tiles for all of 8,389,308 x 250 pixels, found too few of them \(damaged\?\)$"
        with (
            Slide.open(path, default_mpp=0.25, warn=lambda _: None) as slide,
            pytest.raises(CaseError, match=rf"wide\.tif: expected {expected}"),
        ):
            slide.thumbnail(100)

    @pytest.mark.parametrize("is_level", [False, True])
    def test_a_larger_image_after_the_first(self, tmp_path: Path, is_level: bool) -> None:
        """OpenSlide shows the first alone, a label perhaps, or all levels with the first's size."""
        path = tmp_path / "label.tif"
        picture, _ = tissue_slide(700, 250, seed=0)
        options: dict[str, Any] = {"tile": (128, 128), "compression": "lzw", "metadata": None}
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(picture[::2, ::2], **options)
            tiff.write(picture, subfiletype=is_level, **options)
        with (
            Slide.open(path, default_mpp=0.25, warn=lambda _: None) as slide,
            pytest.raises(
                CaseError, match=r"label\.tif: expected .* first, found 350 x 125 pixels"
            ),
        ):
            slide.thumbnail(100)

    def test_damage_that_shows_only_when_read(self, tmp_path: Path, slide_path: Path) -> None:
        path = tmp_path / "scratched.tif"
        content = bytearray(slide_path.read_bytes())
        with tifffile.TiffFile(slide_path) as tiff:
            start, length = (
                tags[0] for tags in (tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts)
            )
        content[start : start + length] = bytes(length)
        path.write_bytes(content)
        with (
            Slide.open(path, default_mpp=None, warn=no_warning) as slide,
            pytest.raises(CaseError) as error,
        ):
            slide.read_region(0, 0, 0, 64, 64)
        message = f"{path} (level 0, x 0, y 0): expected readable pixels, found "
        assert str(error.value).startswith(message)

    @pytest.mark.parametrize(
        ("kept", "expected", "found"),
        [
            (10, "an image that SimpleITK reads", "a foreign file"),
            (400, "all of the image", "a damaged file"),
        ],
    )
    def test_truncated_mha(self, tmp_path: Path, kept: int, expected: str, found: str) -> None:
        path = write_mha(tmp_path / "slide.mha", np.full((30, 40, 3), 200, dtype=np.uint8))
        path.write_bytes(path.read_bytes()[:kept])
        self.check(path, expected, found)

    def test_mha_of_another_kind(self, tmp_path: Path) -> None:
        path = write_mha(tmp_path / "mri.mha", np.zeros((30, 40), dtype=np.int16))
        self.check(path, "8-bit grey or RGB", "int16 with 1 channels")
        path = write_mha(tmp_path / "ct.mha", np.zeros((5, 30, 40), dtype=np.uint8))
        self.check(path, "one plane", "size (40, 30, 5)")

    def test_too_large_without_tiles(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write_mha(tmp_path / "slide.mha", np.zeros((30, 40), dtype=np.uint8))
        assert WHOLE_MOST_PX > 16_000**2
        monkeypatch.setattr("model.whole_image.WHOLE_MOST_PX", 1000)
        self.check(path, "tiles, or at most 1000 pixels", "1200 pixels without tiles")
