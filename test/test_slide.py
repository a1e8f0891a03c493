"""Slides: what they say of themselves, and their pixels."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from synthetic import (
    HEIGHT,
    MPP,
    SLIDES,
    WIDTH,
    no_warning,
    tissue_slide,
    write_mha,
    write_striped,
    write_tiff,
)

from model.errors import CaseError
from model.pixels import TiledSource
from model.slide import Slide, is_placeholder
from train.pyramid import write_pyramid

real = pytest.mark.skipif(not SLIDES.is_dir(), reason="the real slides of ../shared are absent")


def on_green(pixels: NDArray[np.uint8]) -> Slide:
    """Return a slide of RGBA (h, w, 4), whose background is green."""

    class Source(TiledSource):
        def __init__(self) -> None:
            self.level_sizes, self.downsamples = (pixels.shape[1::-1],), (1.0,)
            self.properties = {"openslide.background-color": "00FF00"}

        def read(self, *_: int) -> NDArray[np.uint8]:
            return pixels

    return Slide(Path("x"), Source(), 0.5)


class TestSlide:
    def test_describes_itself(self, slide: Slide, slide_path: Path) -> None:
        assert slide.path == slide_path
        assert (slide.width_px, slide.height_px) == (WIDTH, HEIGHT)
        assert slide.mpp == pytest.approx(MPP)
        assert slide.downsamples == (1, 2, 4)

    def test_reads_what_was_written(
        self, slide: Slide, picture: tuple[NDArray[np.uint8], NDArray[np.bool_]]
    ) -> None:
        region = slide.read_region(200, 100, 0, 150, 120)
        assert region.shape == (120, 150, 3)
        assert region.dtype == np.uint8
        assert region.flags.writeable
        expected = picture[0][100:220, 200:350].astype(int)
        # 4:2:0 JPEG smears colour at nuclei's edges; the picture must still be there, in place.
        assert np.abs(region - expected).mean() < 6

    def test_takes_the_nearest_pixel_of_a_level(self, slide: Slide) -> None:
        """Between two pixels of the level OpenSlide blends; this does not."""
        expected = slide.read_region(200, 100, 2, 60, 60)
        np.testing.assert_array_equal(slide.read_region(201, 99, 2, 60, 60), expected)

    def test_levels_are_the_tiff_pages_pixel_by_pixel(self, tmp_path: Path) -> None:
        """Also where the level's size, rounded down, makes the downsample a crooked number."""
        path = tmp_path / "odd.tif"
        rng = np.random.default_rng(0)
        values = rng.integers(0, 256, (1023, 1411, 3), dtype=np.uint8)
        with tifffile.TiffWriter(path) as tiff:
            for step in (1, 4):
                tiff.write(
                    values[: 1023 // step * step : step, : 1411 // step * step : step],
                    tile=(256, 256),
                    photometric="rgb",
                    subfiletype=int(step > 1),
                    metadata=None,
                )
        with Slide.open(path, default_mpp=0.25, warn=lambda _: None) as slide:
            region = slide.read_region(400, 400, 0, 64, 64)
            np.testing.assert_array_equal(region, values[400:464, 400:464])
            assert slide.downsamples[1] != 4
            region = slide.read_region(0, 0, 1, 64, 64)
            np.testing.assert_array_equal(region, values[:256:4, :256:4])

    def test_outside_is_white(self, slide: Slide) -> None:
        region = slide.read_region(WIDTH - 50, HEIGHT - 30, 0, 100, 100)
        assert (region[30:] == 255).all()
        assert (region[:, 50:] == 255).all()
        assert region[:30, :50].mean() < 250

    def test_half_transparent_pixels_are_mixed_with_the_background(self) -> None:
        pixels = np.array([[[200, 0, 100, 128], [9, 9, 9, 0]]], dtype=np.uint8)
        region = on_green(pixels).read_region(0, 0, 0, 2, 1)
        np.testing.assert_array_equal(region, [[[100, 127, 50], [0, 255, 0]]])

    def test_what_is_transparent_alone_is_not_mixed(self) -> None:
        """It is most of a slide of absent tiles; mixing takes ten times the memory, and time."""
        slide = on_green(np.zeros((200, 300, 4), dtype=np.uint8))
        tracemalloc.start()
        region = slide.read_region(0, 0, 0, 300, 200)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert region.shape == (200, 300, 3)
        assert (region == (0, 255, 0)).all()
        assert region.flags.writeable
        assert most < 1.2 * region.nbytes

    def test_mha(self, tmp_path: Path) -> None:
        picture, _ = tissue_slide(90, 60, seed=1)
        path = write_mha(tmp_path / "slide.mha", picture, spacing_mm=0.0005)
        with Slide.open(path, default_mpp=None, warn=no_warning) as slide:
            assert slide.mpp == pytest.approx(0.5)
            assert (slide.width_px, slide.height_px, slide.downsamples) == (90, 60, (1.0,))
            region = slide.read_region(80, 10, 0, 20, 30)
        np.testing.assert_array_equal(region[:, :10], picture[10:40, 80:])
        assert (region[:, 10:] == 255).all()

    def test_mha_without_spacing_gets_the_default(self, tmp_path: Path) -> None:
        path = write_mha(tmp_path / "slide.mha", np.full((30, 40), 200, dtype=np.uint8))
        warnings: list[str] = []
        with Slide.open(path, default_mpp=0.25, warn=warnings.append) as slide:
            assert slide.mpp == 0.25
            assert (slide.read_region(0, 0, 0, 5, 5) == 200).all()
        assert warnings == [f"{path}: pixel size 1000 x 1000; 0.25 µm is assumed"]


class TestPlaceholder:
    def test_every_format(self, tmp_path: Path, slide_path: Path) -> None:
        pixel = np.zeros((1, 1, 3), dtype=np.uint8)
        write_striped(tmp_path / "striped.tif", pixel)
        write_pyramid(tmp_path / "tiled.tif", pixel, 0.5, downsamples=(1,))
        write_mha(tmp_path / "image.mha", pixel)
        for name in ("striped.tif", "tiled.tif", "image.mha"):
            assert is_placeholder(tmp_path / name), name
        assert not is_placeholder(slide_path)

    def test_odd_tags_are_nothing_to_talk_about(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        path = write_tiff(tmp_path / "small.tif", None, "NONE")
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            tags = tiff.pages.first.tags
            tags["YResolution"].overwrite((2**32 - 1, 0))
            tags["Software"].overwrite("a\0b")
        assert not is_placeholder(path)
        assert capfd.readouterr().err == ""

    def test_small_is_not_a_placeholder(self, tmp_path: Path) -> None:
        assert not is_placeholder(write_tiff(tmp_path / "small.tif", None, "NONE"))

    def test_never_raises(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        rng = np.random.default_rng(0)
        (tmp_path / "noise.tif").write_bytes(rng.bytes(500))
        (tmp_path / "empty.tif").touch()
        for name in ("noise.tif", "empty.tif", "absent.tif", "."):
            assert not is_placeholder(tmp_path / name)
        assert capfd.readouterr().err == ""


@real
class TestRealFiles:
    def test_png(self) -> None:
        path = SLIDES / "ihc_colon_FHL2_DAB_512.png"
        with pytest.raises(CaseError, match=r"\.png: expected a slide that OpenSlide reads"):
            Slide.open(path, default_mpp=0.25, warn=no_warning)
