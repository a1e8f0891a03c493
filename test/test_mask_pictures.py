"""Tissue masks as plain pictures, whose labels count and not their looks."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageColor
from synthetic import blobs

from model.errors import CaseError
from model.mask_labels import reduce_mask

SIZE = (300, 225)
TISSUE = blobs(*SIZE, seed=9, size=40)


def labelled(labels: NDArray[np.integer], *colours: str) -> Image.Image:
    """Return a picture of labels, which looks as the palette says."""
    picture = Image.fromarray(labels.astype(np.uint8)).convert("P")
    picture.putpalette([value for colour in colours for value in ImageColor.getrgb(colour)])
    return picture


def check(path: Path) -> None:
    np.testing.assert_array_equal(reduce_mask(path, max(SIZE)).values, 255 * TISSUE)


@pytest.mark.parametrize("suffix", ["png", "bmp"])
@pytest.mark.parametrize("zero", ["white", "black"])
@pytest.mark.parametrize("one", ["red", "black"])
def test_of_a_palette_the_indices(tmp_path: Path, suffix: str, zero: str, one: str) -> None:
    """As QuPath's labelled export has them."""
    labelled(TISSUE, zero, one).save(tmp_path / f"mask.{suffix}")
    check(tmp_path / f"mask.{suffix}")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_grey_and_colours(tmp_path: Path, mode: str) -> None:
    Image.fromarray(TISSUE * np.uint8(255)).convert(mode).save(tmp_path / "mask.png")
    check(tmp_path / "mask.png")


@pytest.mark.parametrize("kept", [20, 100, 200, 1000])
def test_damaged(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "mask.png"
    labelled(np.random.default_rng(0).integers(0, 3, (64, 64)), "white", "red", "blue").save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CaseError, match=r"mask\.png: expected .*, found "):
        reduce_mask(path, 20)


@pytest.mark.parametrize("suffix", ["png", "bmp", "jpg"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_cut(tmp_path: Path, suffix: str, mode: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"mask.{suffix}"
    Image.fromarray(TISSUE * np.uint8(255)).convert(mode).save(path)
    assert reduce_mask(path, max(SIZE)).values.mean() > 50
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CaseError, match=r"expected a mask that can be decoded, found .*truncated"):
        reduce_mask(path, max(SIZE))
    assert capfd.readouterr().err == ""


def test_huge(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    labelled(TISSUE, "white", "red").save(path)
    written = path.read_bytes()
    head = written[12:16] + (2**29).to_bytes(4, "big") + written[20:29]
    path.write_bytes(written[:12] + head + zlib.crc32(head).to_bytes(4, "big") + written[33:])
    with pytest.raises(CaseError, match=r"found \d+ pixels without tiles$"):
        reduce_mask(path, 20)


def test_of_no_pixels(tmp_path: Path) -> None:
    path = tmp_path / "mask.bmp"
    head = struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54)
    path.write_bytes(head + struct.pack("<IiiHHIIiiII", 40, 0, 0, 1, 24, 0, 0, 1, 1, 0, 0))
    with pytest.raises(CaseError, match=r"expected an image, found size \(0, 0\)$"):
        reduce_mask(path, 20)
