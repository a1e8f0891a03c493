"""What a pixel of a slide is, by what its file says of itself."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from synthetic import no_warning, write_tiff

from model.errors import CaseError
from model.pixel_size import find_mpp
from model.slide import Slide


def found(properties: dict[str, str], default_mpp: float | None = None) -> tuple[float, list[str]]:
    """Return the pixel size and what is said of it."""
    said: list[str] = []
    return find_mpp(Path("S.tif"), properties, default_mpp, said.append), said


@pytest.mark.parametrize(
    ("resolution", "unit"),
    [((20_000.0, 20_000.0), "CENTIMETER"), ((50_800.0, 50_800.0), "INCH")],
)
def test_from_resolution_tags(tmp_path: Path, resolution: tuple[float, float], unit: str) -> None:
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
    tmp_path: Path, resolution: tuple[float, float] | None, unit: str, found: str
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


def test_oblong_pixels(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", (20_000.0, 25_000.0), "CENTIMETER")
    warnings: list[str] = []
    with Slide.open(path, default_mpp=None, warn=warnings.append) as slide:
        assert slide.mpp == pytest.approx(0.5)
    assert warnings == [f"{path}: pixels of 0.5 x 0.4 µm are taken for square"]


def test_tags_that_openslide_leaves_alone() -> None:
    """Formats other than generic TIFF pass the tags through, but state no mpp from them."""
    tags = {"tiff.ResolutionUnit": "inch", "tiff.XResolution": "101600"}
    assert found(tags) == (0.25, [])
    assert found({**tags, "openslide.mpp-x": "0.5"}) == (0.5, [])
    assert found({**tags, "openslide.mpp-x": "352.8"}) == (0.25, [])
    with pytest.raises(CaseError, match=r", found none$"):
        found({**tags, "tiff.XResolution": "0"})


# -- OME -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        {"PhysicalSizeX": 0.499, "PhysicalSizeY": 0.499},
        {"PhysicalSizeX": 0.499, "PhysicalSizeXUnit": "µm"},
        {
            "PhysicalSizeX": 499,
            "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 0.000499,
            "PhysicalSizeYUnit": "mm",
        },
    ],
    ids=str,
)
def test_of_ome_tiff(tmp_path: Path, written: dict[str, object]) -> None:
    path = tmp_path / "slide.ome.tif"
    pixels = np.full((64, 64, 3), 240, dtype=np.uint8)
    metadata = {"axes": "YXS", **written}
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", metadata=metadata)
    with Slide.open(path, default_mpp=0.25, warn=no_warning) as slide:
        assert slide.mpp == pytest.approx(0.499)


def ome(attributes: str) -> dict[str, str]:
    """Return what OpenSlide says of a print density with OME's XML beside it."""
    xml = f"<OME:OME><OME:Image>\n<OME:Pixels ID='0' {attributes}>\n<OME:Channel/></OME:Pixels>"
    return {"tiff.ImageDescription": xml, "openslide.mpp-x": "352.8", "openslide.mpp-y": "352.8"}


@pytest.mark.parametrize(
    "attributes",
    [
        "PhysicalSizeX='0.5' PhysicalSizeY='0.5'",
        'PhysicalSizeXUnit = "&#181;m"\nPhysicalSizeX = "0.5"',
        "PhysicalSizeX='5e-07' PhysicalSizeXUnit='m'",
        "PhysicalSizeX='0.5' PhysicalSizeXUnit='\u03bcm'",
        "PhysicalSizeX='0.5' PhysicalSizeXUnit='&#956;m'",
        "PhysicalSizeX='0.5' PhysicalSizeXUnit='um'",
        "PhysicalSizeX='0.5' PhysicalSizeXUnit='micron'",
    ],
)
def test_ome_comes_before_a_print_density(attributes: str) -> None:
    mpp, said = found(ome(attributes))
    assert (mpp, said) == (pytest.approx(0.5), [])


@pytest.mark.parametrize(
    "attributes",
    [
        "",
        "PhysicalSizeX='half'",
        "PhysicalSizeX='nan'",
        "PhysicalSizeX='-0.5'",
        "PhysicalSizeX='0.5' PhysicalSizeXUnit='pixel'",
        "PhysicalSizeX='0.5' PhysicalSizeY='0.5' PhysicalSizeYUnit='reference frame'",
        "PhysicalSizeX='&size;'",
        "PhysicalSizeX='0.5",
    ],
)
def test_ome_that_says_nothing(attributes: str) -> None:
    mpp, (line,) = found(ome(attributes), 0.25)
    assert mpp == 0.25
    assert line.endswith("; 0.25 µm is assumed")


@pytest.mark.parametrize(
    ("written", "shown"),
    [("pixel", "'pixel'"), ("a\nb", r"'a\nb'"), ("x" * 10**6, "'" + "x" * 20 + "'")],
    ids=["word", "lines", "long"],
)
def test_an_unknown_unit_is_named(written: str, shown: str) -> None:
    _, (line,) = found(ome(f"PhysicalSizeX='0.5' PhysicalSizeXUnit='{written}'"), 0.25)
    unit = f"and OME's in an unknown unit, {shown}"
    assert line == f"S.tif: pixel size 352.8 x 352.8, {unit}; 0.25 µm is assumed"


def test_long_descriptions_take_no_time() -> None:
    for text in ("<Pixels " * 10**6, "<" + "a" * 10**6, "<Pixels PhysicalSizeX=" * 10**5):
        with pytest.raises(CaseError):
            found({"tiff.ImageDescription": text})


# -- the objective ---------------------------------------------------------------------------------


def test_an_objective_comes_before_the_challenges_default() -> None:
    objective = {"openslide.objective-power": "20"}
    line = "S.tif: pixel size none; 0.5 µm is assumed from its objective's power, 20"
    assert found(objective, 0.25) == (0.5, [line])
    assert found({**objective, "openslide.mpp-x": "0.46"}, 0.25) == (0.46, [])
    with pytest.raises(CaseError, match=r", found none$"):
        found(objective)


@pytest.mark.parametrize("power", ["0", "-20", "nan", "1000", "twenty"])
def test_an_objective_that_makes_no_sense(power: str) -> None:
    line = "S.tif: pixel size none; 0.25 µm is assumed"
    assert found({"openslide.objective-power": power}, 0.25) == (0.25, [line])


@pytest.mark.parametrize(
    ("size", "unit"), [("0.00005", "cm"), ("5000", "Å"), (repr(0.5 / 25400), "in")]
)
def test_units_of_ome(size: str, unit: str) -> None:
    mpp, said = found(ome(f"PhysicalSizeX='{size}' PhysicalSizeXUnit='{unit}'"))
    assert (mpp, said) == (pytest.approx(0.5), [])


@pytest.mark.parametrize("mpp_y", ["0.48", "0.52"])
def test_pixels_that_are_square_but_for_how_they_were_measured(mpp_y: str) -> None:
    assert found({"openslide.mpp-x": "0.5", "openslide.mpp-y": mpp_y}) == (0.5, [])


def test_oblong_pixels_either_way() -> None:
    mpp, (said,) = found({"openslide.mpp-x": "0.4", "openslide.mpp-y": "0.5"})
    assert mpp == 0.4
    assert "pixels of 0.4 x 0.5 µm are taken for square" in said
    tags = {"tiff.ResolutionUnit": "centimeter"}
    mpp, _ = found(tags | {"tiff.XResolution": "20000", "tiff.YResolution": "25000"})
    assert mpp == pytest.approx(0.5)
