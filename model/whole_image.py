"""Images without tiles, through SimpleITK: the one place that knows it."""

import math
from pathlib import Path
from typing import Any

import SimpleITK
from numpy.typing import NDArray

from model.errors import CaseError, about_files
from model.meta_image import MetaHeader

# It prints its warnings on stderr, where the platform looks for errors.
SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # type: ignore[no-untyped-call]

WHOLE_SUFFIX = ".mha"
"""The platform delivers some images as MetaImage, which has no tiles and which OpenSlide lacks."""
WHOLE_MOST_PX = 2**28
"""Most pixels of an image without tiles: all of it comes into memory."""


def is_whole(path: Path) -> bool:
    """Say whether a file is of the kind that comes into memory as a whole."""
    return path.suffix.lower() == WHOLE_SUFFIX


def untiled_size(path: Path) -> tuple[int, ...] | None:
    """Return the size in a file's header, without reading pixels; None where there is none."""
    reader = _read_header(path)
    if reader is None:
        return None
    size: tuple[int, ...] = reader.GetSize()
    return size


def _read_header(path: Path) -> Any | None:
    """Return a reader that knows what a file's header says; None where there is none."""
    try:
        str(path).encode()
    except UnicodeEncodeError:  # a name that is not valid UTF-8 ends the process in SimpleITK
        return None
    reader: Any = SimpleITK.ImageFileReader()  # type: ignore[no-untyped-call]
    reader.SetFileName(str(path))
    try:
        if is_whole(path):
            if MetaHeader.read(path) is None:
                return None
            reader.SetImageIO("MetaImageIO")  # of itself it knows the suffix in lower case alone
        reader.ReadImageInformation()
    except (OSError, RuntimeError):
        return None
    return reader


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
    reader = _read_header(path)
    if reader is None:
        raise CaseError(path, expected="an image that SimpleITK reads", found="a foreign file")
    size = reader.GetSize()
    check_whole(path, size)
    try:
        _check_complete(path, reader)
        image = reader.Execute()
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


def _check_complete(path: Path, reader: Any) -> None:
    """Make sure that a file has all its pixels, as far as SimpleITK would not tell.

    Raises:
        CaseError: They lie in other files, or some are missing.
    """
    header = MetaHeader.read(path) if is_whole(path) else None
    if header is None:
        return
    if header.data_file != "LOCAL":
        expected = "pixels in the file itself (ElementDataFile = LOCAL)"
        raise CaseError(path, expected=expected, found=header.data_file)
    # One value alone: a damaged header may tell of billions in each pixel.
    value: Any = SimpleITK.Image([1, 1], reader.GetPixelID(), 1)  # type: ignore[no-untyped-call]
    count = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    if not header.has_all(path, count * value.GetSizeOfPixelComponent()):
        raise CaseError(path, expected="all of the image", found="a damaged file")


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
