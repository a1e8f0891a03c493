"""Images without tiles, through SimpleITK: the one place that knows it."""

import math
from pathlib import Path
from typing import Any

import SimpleITK
from numpy.typing import NDArray

from model.errors import CaseError, about_files

# It prints its warnings on stderr, where the platform looks for errors.
SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # type: ignore[no-untyped-call]

WHOLE_SUFFIX = ".mha"
"""The platform delivers some images as MetaImage, which has no tiles and which OpenSlide lacks."""
WHOLE_MOST_PX = 2**28
"""Most pixels of an image without tiles: all of it comes into memory."""


def untiled_size(path: Path) -> tuple[int, ...] | None:
    """Return the size in a file's header, without reading pixels; None where there is none."""
    reader: Any = SimpleITK.ImageFileReader()  # type: ignore[no-untyped-call]
    try:
        str(path).encode()
    except UnicodeEncodeError:  # a name that is not valid UTF-8 ends the process in SimpleITK
        return None
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    size: tuple[int, ...] = reader.GetSize()
    return size


@about_files()
def check_file(path: Path) -> None:
    """Make sure that there is a file, and something in it.

    Raises:
        CaseError: There is not, or nobody can tell.
    """
    if not path.is_file():
        raise CaseError(path, expected="an image file", found="no file")
    if path.stat().st_size == 0:
        raise CaseError(path, expected="an image file", found="an empty file")


def read_whole(path: Path) -> tuple[NDArray[Any], dict[str, str]]:
    """Return pixels (H, W, C) and properties, under OpenSlide's names, of an image without tiles.

    Raises:
        CaseError: It is damaged, foreign, empty, too large or of several planes.
    """
    size = untiled_size(path)
    if size is None:
        raise CaseError(path, expected="an image that SimpleITK reads", found="a foreign file")
    check_whole(path, size)
    try:
        image: Any = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise CaseError(path, expected="all of the image", found="a damaged file") from error
    if math.prod(size[2:]) != 1:
        raise CaseError(path, expected="one plane", found=f"size {size}")
    values = SimpleITK.GetArrayFromImage(image)
    mpp_x, mpp_y = (1000 * spacing_mm for spacing_mm in image.GetSpacing()[:2])
    return (
        values.reshape(size[1], size[0], -1),
        {"openslide.mpp-x": str(mpp_x), "openslide.mpp-y": str(mpp_y)},
    )


def check_whole(path: Path, size: tuple[int, ...]) -> None:
    """Make sure that there is an image, all of which may come into memory.

    Raises:
        CaseError: It has no pixels, or too many.
    """
    if min(size) < 1:
        raise CaseError(path, expected="an image", found=f"size {size}")
    if math.prod(size) > WHOLE_MOST_PX:
        expected = f"tiles, or at most {WHOLE_MOST_PX} pixels"
        raise CaseError(path, expected=expected, found=f"{math.prod(size)} pixels without tiles")
