"""Masks that are damaged: refused in one line, so that tissue is found by its colour."""

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from synthetic import blobs, write_labels, write_mask_pyramid, write_mha

from model.errors import CaseError
from model.mask_labels import reduce_mask
from model.slide import Slide
from model.tissue_mask import find_tissue

TISSUE = blobs(300, 225, seed=9, size=40)


@pytest.mark.parametrize(
    ("tag", "value", "found"),
    [("TileWidth", 65520, "65520 x 65520"), ("ImageWidth", 100_000, "6 of 4689 tiles")],
)
def test_tags_that_make_no_sense(tmp_path: Path, tag: str, value: int, found: str) -> None:
    path = tmp_path / "mask.tif"
    write_labels(path, np.ones((150, 100), dtype=bool), dtype=np.uint8)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in {tag, tag.replace("TileWidth", "TileLength")}:
            tiff.pages[0].tags[name].overwrite(value)
    with pytest.raises(CaseError, match=rf"mask\.tif: expected .*, found {found}$"):
        reduce_mask(path, 20)


@pytest.mark.parametrize("tag", ["ImageWidth", "ImageLength", "TileWidth", "TileLength"])
def test_tags_of_nothing(tmp_path: Path, tag: str) -> None:
    path = tmp_path / "mask.tif"
    write_labels(path, np.ones((150, 100), dtype=bool), dtype=np.uint8)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags[tag].overwrite(0)
    with pytest.raises(CaseError, match=r"mask\.tif: expected .*, found .*zero$"):
        reduce_mask(path, 20)


@pytest.mark.parametrize("tile", [(64, 64), None], ids=["tiles", "strips"])
def test_cut_jpeg(tmp_path: Path, tile: tuple[int, int] | None) -> None:
    """The decoder fills up with grey, which is tissue."""
    path = tmp_path / "mask.tif"
    values = TISSUE * np.uint8(255)
    write_labels(path, values, dtype=np.uint8, compression="jpeg", tile=tile)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CaseError, match=r"that can be decoded, found a file that is cut$"):
        reduce_mask(path, 300)


def test_a_name_that_is_no_utf_8(tmp_path: Path, slide: Slide) -> None:
    """SimpleITK ends the process there."""
    path = tmp_path / os.fsdecode(b"M\xfcller.mha")
    path.write_bytes(write_mha(tmp_path / "mask.mha", np.ones((9, 12), "u1")).read_bytes())
    warnings: list[str] = []
    assert not find_tissue(slide, path, warn=warnings.append).is_empty
    assert warnings[0].endswith("; tissue is found by its colour instead")


@pytest.mark.parametrize("kept", [0, 20, 300])
def test_unreadable_falls_back(
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


def test_absent_file_falls_back(tmp_path: Path, slide: Slide) -> None:
    warnings: list[str] = []
    find_tissue(slide, tmp_path / "none.tif", warn=warnings.append)
    assert warnings[0].startswith(f"{tmp_path / 'none.tif'}: expected an image file, found no")
