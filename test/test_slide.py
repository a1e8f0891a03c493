"""Slides of every kind, and the tissue on them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation's name
import tifffile
from numpy.typing import NDArray

from model.errors import CaseError
from model.pixels import WHOLE_MOST_PX, TiledSource, reduce_whole
from model.slide import Slide, TissueMask, find_tissue, is_placeholder
from model.tissue import box_blur, otsu_threshold, tissue_pixels
from synthetic import GLASS, blobs, tissue_slide, write_mask_pyramid, write_pyramid, write_striped
from train.pyramid import Painting

SLIDES = Path(__file__).parents[2] / "shared" / "data" / "slides"
real = pytest.mark.skipif(not SLIDES.is_dir(), reason="the real slides of ../shared are absent")

WIDTH, HEIGHT, MPP = 1200, 900, 0.5


def no_warning(text: str) -> None:
    """Fail on any warning."""
    raise AssertionError(text)


@pytest.fixture(scope="module")
def picture() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    return tissue_slide(WIDTH, HEIGHT, seed=3)


@pytest.fixture(scope="module")
def slide_path(
    tmp_path_factory: pytest.TempPathFactory, picture: tuple[NDArray[np.uint8], NDArray[np.bool_]]
) -> Path:
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    write_pyramid(path, picture[0], MPP, downsamples=(1, 2, 4), quality=95)
    return path


@pytest.fixture
def slide(slide_path: Path) -> Iterator[Slide]:
    with Slide.open(slide_path, default_mpp=None, warn=no_warning) as opened:
        yield opened


def write_tiff(path: Path, resolution: tuple[float, float] | None, unit: str) -> Path:
    """Write a small tiled TIFF with any resolution tags."""
    tifffile.imwrite(
        path,
        np.full((64, 64, 3), 240, dtype=np.uint8),
        tile=(64, 64),
        photometric="rgb",
        resolution=resolution,
        resolutionunit=unit,
        metadata=None,
    )
    return path


def write_mha(path: Path, values: NDArray[np.generic], spacing_mm: float | None = None) -> Path:
    image = sitk.GetImageFromArray(values, isVector=values.ndim == 3 and values.shape[2] == 3)
    if spacing_mm is not None:
        image.SetSpacing([spacing_mm] * image.GetDimension())
    sitk.WriteImage(image, str(path))
    return path


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
        class Source(TiledSource):
            def __init__(self) -> None:
                self.level_sizes, self.downsamples = ((2, 1),), (1.0,)
                self.properties = {"openslide.background-color": "00FF00"}

            def read(self, *_: int) -> NDArray[np.uint8]:
                return np.array([[[200, 0, 100, 128], [9, 9, 9, 0]]], dtype=np.uint8)

        region = Slide(Path("x"), Source(), 0.5).read_region(0, 0, 0, 2, 1)
        np.testing.assert_array_equal(region, [[[100, 127, 50], [0, 255, 0]]])

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


class TestPixelSize:
    @pytest.mark.parametrize(
        ("resolution", "unit"),
        [((20_000.0, 20_000.0), "CENTIMETER"), ((50_800.0, 50_800.0), "INCH")],
    )
    def test_from_resolution_tags(
        self, tmp_path: Path, resolution: tuple[float, float], unit: str
    ) -> None:
        path = write_tiff(tmp_path / "slide.tif", resolution, unit)
        with Slide.open(path, default_mpp=None, warn=no_warning) as slide:
            assert slide.mpp == pytest.approx(0.5)

    @pytest.mark.parametrize(
        ("resolution", "unit", "found"),
        [
            (None, "NONE", "none"),
            ((40_000.0, 40_000.0), "NONE", "none"),
            ((72.0, 72.0), "INCH", "352.8 x 352.8"),
            ((600.0, 600.0), "INCH", "42.33 x 42.33"),
        ],
    )
    def test_absent_or_absurd(
        self, tmp_path: Path, resolution: tuple[float, float] | None, unit: str, found: str
    ) -> None:
        path = write_tiff(tmp_path / "slide.tif", resolution, unit)
        warnings: list[str] = []
        with Slide.open(path, default_mpp=0.25, warn=warnings.append) as slide:
            assert slide.mpp == 0.25
        assert warnings == [f"{path}: pixel size {found}; 0.25 µm is assumed"]
        message = f"{path}: expected a pixel size of 0.1 to 40.0 µm, found {found}"
        with pytest.raises(CaseError) as error:
            Slide.open(path, default_mpp=None, warn=no_warning)
        assert str(error.value) == message

    def test_oblong_pixels(self, tmp_path: Path) -> None:
        path = write_tiff(tmp_path / "slide.tif", (20_000.0, 25_000.0), "CENTIMETER")
        warnings: list[str] = []
        with Slide.open(path, default_mpp=None, warn=warnings.append) as slide:
            assert slide.mpp == pytest.approx(0.5)
        assert warnings == [f"{path}: pixels of 0.5 x 0.4 µm are taken for square"]

    def test_tags_that_openslide_leaves_alone(self) -> None:
        """Formats other than generic TIFF pass the tags through, but state no mpp from them."""
        from model.slide import _stated_mpp

        tags = {"tiff.ResolutionUnit": "inch", "tiff.XResolution": "101600"}
        assert _stated_mpp(tags) == (0.25, 0.25)
        assert _stated_mpp({**tags, "openslide.mpp-x": "0.5"}) == (0.5, 0.5)
        assert _stated_mpp({**tags, "tiff.XResolution": "0"}) is None


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
        monkeypatch.setattr("model.pixels.WHOLE_MOST_PX", 1000)
        self.check(path, "tiles, or at most 1000 pixels", "1200 pixels without tiles")


class TestPlaceholder:
    def test_every_format(self, tmp_path: Path, slide_path: Path) -> None:
        pixel = np.zeros((1, 1, 3), dtype=np.uint8)
        write_striped(tmp_path / "striped.tif", pixel)
        write_pyramid(tmp_path / "tiled.tif", pixel, 0.5, downsamples=(1,))
        write_mha(tmp_path / "image.mha", pixel)
        for name in ("striped.tif", "tiled.tif", "image.mha"):
            assert is_placeholder(tmp_path / name), name
        assert not is_placeholder(slide_path)

    def test_small_is_not_a_placeholder(self, tmp_path: Path) -> None:
        assert not is_placeholder(write_tiff(tmp_path / "small.tif", None, "NONE"))

    def test_never_raises(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        rng = np.random.default_rng(0)
        (tmp_path / "noise.tif").write_bytes(rng.bytes(500))
        (tmp_path / "empty.tif").touch()
        for name in ("noise.tif", "empty.tif", "absent.tif", "."):
            assert not is_placeholder(tmp_path / name)
        assert capfd.readouterr().err == ""


class TestFraction:
    def test_against_counting(self) -> None:
        rng = np.random.default_rng(0)
        tissue = rng.uniform(size=(40, 60)) < 0.3
        mask = TissueMask(coverage=tissue.astype(np.float32), downsample=(4.0, 4.0))
        pixels = np.repeat(np.repeat(tissue, 4, axis=0), 4, axis=1)
        coords = rng.integers(0, 120, (50, 2))
        expected = [pixels[y : y + 37, x : x + 37].mean() for x, y in coords]
        np.testing.assert_allclose(mask.fraction(coords, 37), expected, atol=1e-6)

    def test_outside_there_is_none(self) -> None:
        mask = TissueMask(coverage=np.ones((10, 10), dtype=np.float32), downsample=(8.0, 8.0))
        coords = np.array([[0, 0], [40, 0], [40, 40], [80, 80], [500, 0], [-40, 0]])
        expected = [1, 0.5, 0.25, 0, 0, 0.5]
        np.testing.assert_allclose(mask.fraction(coords, 80), expected)

    def test_axes_have_their_own_downsample(self) -> None:
        coverage = np.zeros((10, 20), dtype=np.float32)
        coverage[:, :10] = 1
        mask = TissueMask(coverage=coverage, downsample=(5.0, 20.0))
        coords = np.array([[0, 0], [25, 100], [40, 0], [50, 0]])
        np.testing.assert_allclose(mask.fraction(coords, 20), [1, 1, 0.5, 0])

    def test_no_coords(self) -> None:
        mask = TissueMask(coverage=np.ones((4, 4), dtype=np.float32), downsample=(2.0, 2.0))
        assert mask.fraction(np.zeros((0, 2), dtype=np.int64), 3).shape == (0,)


class TestDetect:
    def test_finds_the_tissue(
        self, slide: Slide, picture: tuple[NDArray[np.uint8], NDArray[np.bool_]]
    ) -> None:
        mask = find_tissue(slide, None, warn=no_warning)
        assert not mask.is_empty
        rows, columns = np.indices(mask.coverage.shape)
        along_x, along_y = mask.downsample
        y = ((rows + 0.5) * along_y).astype(int).clip(0, HEIGHT - 1)
        x = ((columns + 0.5) * along_x).astype(int).clip(0, WIDTH - 1)
        truth = picture[1][y, x]
        found = mask.coverage > 0
        assert (found & truth).sum() / (found | truth).sum() > 0.93

    def test_blank_slide(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        glass = np.clip(GLASS + rng.normal(0, 3, (600, 800, 3)), 0, 255).astype(np.uint8)
        write_pyramid(tmp_path / "blank.tif", glass, 0.5)
        with Slide.open(tmp_path / "blank.tif", default_mpp=None, warn=no_warning) as slide:
            assert TissueMask.detect(slide).is_empty

    def test_slide_full_of_tissue(self) -> None:
        """Otsu alone would keep the darker half."""
        picture, _ = tissue_slide(300, 300, seed=0)
        nuclei = blobs(300, 300, seed=5, size=30)
        picture[:] = np.where(nuclei[..., None], (104, 62, 138), (226, 150, 186))
        assert tissue_pixels(picture).all()

    def test_grey_dirt_is_not_tissue(self) -> None:
        picture = np.full((100, 100, 3), GLASS, dtype=np.uint8)
        picture[20:40, 20:40] = 30
        assert not tissue_pixels(picture).any()

    @pytest.mark.parametrize("seed", range(5))
    def test_otsu_against_trying_all(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        means, sizes = rng.integers(20, 235, 2), rng.integers(50, 500, 2)
        parts = [rng.normal(mean, 15, size) for mean, size in zip(means, sizes, strict=True)]
        values = np.concatenate(parts).clip(0, 255).astype(np.uint8)

        def within(threshold: int) -> float:
            low, high = values[values <= threshold], values[values > threshold]
            return sum(part.var() * part.size for part in (low, high) if part.size)

        best = min(within(threshold) for threshold in range(256))
        assert within(otsu_threshold(values)) == pytest.approx(best)

    def test_otsu_of_one_value(self) -> None:
        assert otsu_threshold(np.full((5, 5), 77, dtype=np.uint8)) == 0

    def test_blur_against_counting(self) -> None:
        values = np.random.default_rng(0).integers(0, 256, (9, 14), dtype=np.uint8)
        padded = np.pad(values.astype(float), 2, mode="edge")
        expected = [[padded[y : y + 5, x : x + 5].mean() for x in range(14)] for y in range(9)]
        np.testing.assert_allclose(box_blur(values, 2), expected, atol=0.5)


class TestReadMask:
    @pytest.fixture
    def tissue(self) -> NDArray[np.bool_]:
        return blobs(WIDTH // 4, HEIGHT // 4, seed=9, size=40)

    def check(self, path: Path, slide: Slide, tissue: NDArray[np.bool_]) -> None:
        mask = find_tissue(slide, path, warn=no_warning)
        coords = np.random.default_rng(0).integers(0, 700, (40, 2))
        expected = [tissue[y // 4 : y // 4 + 50, x // 4 : x // 4 + 50].mean() for x, y in coords]
        np.testing.assert_allclose(mask.fraction(coords, 200), expected, atol=0.02)

    @pytest.mark.parametrize("value", [1, 255])
    @pytest.mark.parametrize("levels", [(1,), (1, 2, 4)])
    def test_tiled(
        self, tmp_path: Path, slide: Slide, tissue: NDArray[np.bool_], value: int, levels: tuple
    ) -> None:
        values = tissue * np.uint8(value)
        write_mask_pyramid(tmp_path / "mask.tif", values, 2.0, downsamples=levels, tile_px=64)
        self.check(tmp_path / "mask.tif", slide, tissue)

    def test_three_channels_of_which_the_first_counts(
        self, tmp_path: Path, slide: Slide, tissue: NDArray[np.bool_]
    ) -> None:
        values = np.stack([tissue, np.ones_like(tissue), ~tissue], axis=-1)
        write_mask_pyramid(tmp_path / "mask.tif", values, 2.0)
        self.check(tmp_path / "mask.tif", slide, tissue)

    @pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.bool_, np.float32])
    def test_without_tiles(
        self, tmp_path: Path, slide: Slide, tissue: NDArray[np.bool_], kind: type
    ) -> None:
        write_striped(tmp_path / "mask.tif", tissue.astype(kind))
        self.check(tmp_path / "mask.tif", slide, tissue)

    def test_mha(self, tmp_path: Path, slide: Slide, tissue: NDArray[np.bool_]) -> None:
        path = write_mha(tmp_path / "mask.mha", tissue.astype(np.int16))
        self.check(path, slide, tissue)
        path = write_mha(tmp_path / "plane.mha", tissue[None].astype(np.uint8))
        self.check(path, slide, tissue)

    @pytest.mark.parametrize("scale", [1, 3, 8])
    def test_any_resolution(
        self, tmp_path: Path, slide: Slide, tissue: NDArray[np.bool_], scale: int
    ) -> None:
        values = np.repeat(np.repeat(tissue, scale, axis=0), scale, axis=1)
        write_mask_pyramid(tmp_path / "mask.tif", values, 2.0 / scale, downsamples=(1,))
        self.check(tmp_path / "mask.tif", slide, tissue)

    def test_holes_without_tiles_are_no_tissue(self, tmp_path: Path) -> None:
        """OpenSlide hands out absent pixels as transparent, not as 0."""
        path = tmp_path / "mask.tif"
        write_mask_pyramid(path, np.ones((70, 50), dtype=bool), 4.0, downsamples=(1,), tile_px=64)
        source = TiledSource(path)
        from model.slide import _mask_pixels

        overview = reduce_whole(source, 10, _mask_pixels)
        source.close()
        assert overview.values.shape == (10, 8)  # cells of 7 pixels; 50 is 7 cells and a bit
        assert (overview.values[:, :7] == 255).all()
        assert (overview.values[:, 7] == round(255 / 7)).all()

    def test_another_shape_warns(
        self, tmp_path: Path, slide: Slide, tissue: NDArray[np.bool_]
    ) -> None:
        path = tmp_path / "mask.tif"
        write_mask_pyramid(path, tissue.T, 2.0)
        warnings: list[str] = []
        assert not find_tissue(slide, path, warn=warnings.append).is_empty
        shape = "225 x 300 pixels, stretched over a slide of 1200 x 900"
        assert warnings == [f"{path}: {shape}"]

    def test_empty_falls_back(self, tmp_path: Path, slide: Slide) -> None:
        path = tmp_path / "mask.tif"
        write_mask_pyramid(path, np.zeros((225, 300), dtype=bool), 2.0)
        warnings: list[str] = []
        mask = find_tissue(slide, path, warn=warnings.append)
        detected = TissueMask.detect(slide)
        np.testing.assert_array_equal(mask.coverage, detected.coverage)
        assert warnings == [f"{path}: no tissue in this mask; it is found by its colour instead"]

    def test_one_pixel_falls_back(self, tmp_path: Path, slide: Slide) -> None:
        path = write_mha(tmp_path / "mask.mha", np.ones((1, 1), dtype=np.uint8))
        warnings: list[str] = []
        mask = find_tissue(slide, path, warn=warnings.append)
        assert mask.coverage.size > 1
        assert warnings[-1].endswith("it is found by its colour instead")

    @pytest.mark.parametrize("kept", [0, 20, 300])
    def test_unreadable_falls_back(
        self,
        tmp_path: Path,
        slide: Slide,
        kept: int,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        path = tmp_path / "mask.tif"
        write_mask_pyramid(path, blobs(300, 225, seed=0), 2.0)
        path.write_bytes(path.read_bytes()[:kept])
        warnings: list[str] = []
        assert not find_tissue(slide, path, warn=warnings.append).is_empty
        (warning,) = warnings
        assert warning.startswith(f"{path}: expected ")
        assert warning.endswith("; tissue is found by its colour instead")
        assert "\n" not in warning
        assert capfd.readouterr().err == ""

    def test_absent_file_falls_back(self, tmp_path: Path, slide: Slide) -> None:
        warnings: list[str] = []
        find_tissue(slide, tmp_path / "none.tif", warn=warnings.append)
        assert warnings[0].startswith(f"{tmp_path / 'none.tif'}: expected an image file, found no")


class TestPyramid:
    def test_painted_like_in_memory(self, tmp_path: Path) -> None:
        picture, _ = tissue_slide(700, 500, seed=2)
        levels = {1: picture, 4: np.ascontiguousarray(picture[::4, ::4])}

        def paint(x: int, y: int, side_px: int, downsample: int) -> NDArray[np.uint8]:
            tile = np.zeros((side_px, side_px, 3), dtype=np.uint8)
            part = levels[downsample][y : y + side_px, x : x + side_px]
            tile[: part.shape[0], : part.shape[1]] = part
            return tile

        write_pyramid(tmp_path / "painted.tif", Painting(700, 500, paint), 0.25, downsamples=(1, 4))
        write_pyramid(tmp_path / "memory.tif", picture, 0.25, downsamples=(1, 4))
        regions = []
        for name in ("painted.tif", "memory.tif"):
            with Slide.open(tmp_path / name, default_mpp=None, warn=no_warning) as slide:
                assert slide.downsamples == (1, 4)
                assert slide.mpp == pytest.approx(0.25)
                regions.append(slide.read_region(0, 0, 0, 700, 500))
        np.testing.assert_array_equal(*regions)


@real
class TestRealFiles:
    def test_detected_tissue_agrees_with_the_derived_mask(self) -> None:
        path = SLIDES / "CMU-1-Small-Region.derived-pyramid.tif"
        with Slide.open(path, default_mpp=None, warn=no_warning) as slide:
            mask_path = SLIDES / "CMU-1-Small-Region.derived-mask.tif"
            supplied = find_tissue(slide, mask_path, warn=no_warning)
            detected = find_tissue(slide, None, warn=no_warning)
        squares = np.indices((20, 15)).reshape(2, -1).T[:, ::-1] * 140
        difference = supplied.fraction(squares, 140) - detected.fraction(squares, 140)
        assert np.abs(difference).mean() < 0.05

    def test_label_mask_of_another_slide_warns(self) -> None:
        warnings: list[str] = []
        path = SLIDES / "CMU-1-Small-Region.svs"
        with Slide.open(path, default_mpp=None, warn=no_warning) as slide:
            mask_path = SLIDES / "diag_labelmask_pyramid.tif"
            mask = find_tissue(slide, mask_path, warn=warnings.append)
        assert len(warnings) == 1
        with tifffile.TiffFile(mask_path) as tiff:
            share = (tiff.pages[0].asarray() > 0).mean()
        assert mask.coverage.mean() == pytest.approx(share, abs=0.01)

    def test_png(self) -> None:
        path = SLIDES / "ihc_colon_FHL2_DAB_512.png"
        with pytest.raises(CaseError, match=r"\.png: expected a slide that OpenSlide reads"):
            Slide.open(path, default_mpp=0.25, warn=no_warning)
