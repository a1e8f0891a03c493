"""How many micrometres a pixel of a slide is, by what its file says of itself."""

import html
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from model.cells import to_number
from model.errors import CaseError, Warn

MPP_RANGE = (0.1, 40.0)
"""Coarser than any slide are the print densities (72 to 600 dpi) that image tools leave behind."""
SQUARE_TOLERANCE = 0.05
UM_PER_UNIT = {"centimeter": 10_000.0, "inch": 25_400.0}

# A parser of XML would follow what a stranger's file tells it to; these stop at the next bracket.
_OME_PIXELS = re.compile(r"<(?:\w+:)?Pixels\s([^<>]*)>")
_OME_SIZES = re.compile(r"\b(PhysicalSize[XY](?:Unit)?)\s*=\s*[\"']([^\"']*)[\"']")
OME_UM_PER_UNIT = {
    **{"m": 1e6, "cm": 1e4, "mm": 1e3, "nm": 1e-3, "Å": 1e-4, "in": 25_400.0},
    # The standard's micro sign, and what others write: the Greek letter mu, and no such letter.
    **dict.fromkeys(("\u00b5m", "\u03bcm", "um", "micron", "microns"), 1.0),
}
MOST_UNIT_LETTERS = 20
OBJECTIVE_UM = 10.0
"""Micrometres per pixel times the objective's power: about 0.5 at 20 x, 0.25 at 40 x."""


def find_mpp(
    path: Path, properties: Mapping[str, str], default_mpp: float | None, warn: Warn
) -> float:
    """Return the pixel size in µm that a slide states, else what its objective or the default says.

    Args:
        path: The file.
        properties: What it says of itself, under OpenSlide's names.
        default_mpp: What is assumed, with a warning, of a slide that states neither size nor
            objective; None to refuse any that states no size.
        warn: Told when the size is assumed or doubtful.

    Raises:
        CaseError: There is no size.
    """
    all_stated = list(_stated_mpp(properties))
    for mpp_x, mpp_y in all_stated:
        if _is_sensible(mpp_x) and _is_sensible(mpp_y):
            if abs(mpp_x - mpp_y) > SQUARE_TOLERANCE * mpp_x:
                warn(f"{path}: pixels of {mpp_x:.4g} x {mpp_y:.4g} µm are taken for square")
            return mpp_x
    found = " x ".join(f"{mpp:.4g}" for mpp in all_stated[0]) if all_stated else "none"
    for unit in _unknown_units(properties):
        found += f", and OME's in an unknown unit, {unit[:MOST_UNIT_LETTERS]!r}"
    if default_mpp is None:
        least, most = MPP_RANGE
        raise CaseError(path, expected=f"a pixel size of {least} to {most} µm", found=found)
    mpp, reason = default_mpp, ""
    power = to_number(properties.get("openslide.objective-power", ""))
    if power > 0 and _is_sensible(OBJECTIVE_UM / power):
        mpp, reason = OBJECTIVE_UM / power, f" from its objective's power, {power:g}"
    warn(f"{path}: pixel size {found}; {mpp:.4g} µm is assumed{reason}")
    return mpp


def _is_sensible(mpp: float) -> bool:
    least, most = MPP_RANGE
    return least <= mpp <= most


def _stated_mpp(properties: Mapping[str, str]) -> Iterator[tuple[float, float]]:
    """Yield each pixel size in µm along x and y that a file states, the most trustworthy first.

    They are OME's XML, OpenSlide's own and TIFF's tags, which may be left of a print density.
    """
    sizes = _ome_sizes(properties)
    ome_x = _ome_um(sizes, "X")
    if ome_x > 0:
        yield ome_x, _ome_um(sizes, "Y") if "PhysicalSizeY" in sizes else ome_x
    mpp_x = float(properties.get("openslide.mpp-x", "nan"))
    if mpp_x > 0:
        yield mpp_x, float(properties.get("openslide.mpp-y", mpp_x))
    unit_um = UM_PER_UNIT.get(properties.get("tiff.ResolutionUnit", ""))
    per_unit_x = float(properties.get("tiff.XResolution", "0"))
    per_unit_y = float(properties.get("tiff.YResolution", per_unit_x))
    if unit_um is not None and per_unit_x > 0 and per_unit_y > 0:
        yield unit_um / per_unit_x, unit_um / per_unit_y


def _ome_sizes(properties: Mapping[str, str]) -> dict[str, str]:
    """Return OME's attributes of the pixel size."""
    ome = _OME_PIXELS.search(properties.get("tiff.ImageDescription", ""))
    return dict(_OME_SIZES.findall(ome[1])) if ome else {}


def _ome_unit(sizes: Mapping[str, str], axis: str) -> str:
    return html.unescape(sizes.get(f"PhysicalSize{axis}Unit", "µm"))


def _unknown_units(properties: Mapping[str, str]) -> list[str]:
    """Return the units of OME's pixel size that are not known."""
    sizes = _ome_sizes(properties)
    return sorted({_ome_unit(sizes, axis) for axis in "XY"} - OME_UM_PER_UNIT.keys())


def _ome_um(sizes: Mapping[str, str], axis: str) -> float:
    """Return the pixel size in µm along an axis of OME's attributes; NaN where there is none."""
    um_per_unit = OME_UM_PER_UNIT.get(_ome_unit(sizes, axis), float("nan"))
    return to_number(sizes.get(f"PhysicalSize{axis}", "")) * um_per_unit
