"""MetaImages whose pixels are not whole: refused, and without a word on stderr."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from synthetic import blobs, no_warning, tissue_slide, write_mha

from model import meta_image
from model.errors import CaseError
from model.slide import Slide, is_placeholder
from model.tissue_mask import find_tissue

PICTURE, _ = tissue_slide(300, 200, seed=2)


def write(path: Path, *, compressed: bool) -> bytes:
    """Write the picture, and return the file's content."""
    image = SimpleITK.GetImageFromArray(PICTURE, isVector=True)
    SimpleITK.WriteImage(image, str(path), compressed)
    return path.read_bytes()


def with_length(content: bytes, change: int) -> bytes:
    """Return a file that says another length of its compressed pixels."""
    said = re.search(rb"CompressedDataSize = (\d+)", content)
    assert said is not None
    return content.replace(said[0], b"CompressedDataSize = %d" % (int(said[1]) + change))


def without_length(content: bytes) -> bytes:
    return re.sub(rb"CompressedDataSize = \d+\n", b"", content)


def with_damage(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x55]) + content[middle + 1 :]


def read(path: Path) -> np.ndarray:
    with Slide.open(path, default_mpp=0.25, warn=lambda _: None) as slide:
        return slide.read_region(0, 0, 0, 300, 200)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("name", ["slide.mha", "SLIDE.MHA"])
@pytest.mark.parametrize("chunk_bytes", [7, 2**20])
def test_whole(
    tmp_path: Path,
    compressed: bool,
    name: str,
    chunk_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meta_image, "CHUNK_BYTES", chunk_bytes)
    content = write(tmp_path / "written.mha", compressed=compressed)
    (tmp_path / name).write_bytes(content + b"and something after it")
    np.testing.assert_array_equal(read(tmp_path / name), PICTURE)


@pytest.mark.parametrize(
    ("damage", "compressed"),
    [
        (with_damage, True),
        (lambda content: with_length(content, -100), True),
        (lambda content: with_length(content, 100), True),
        (without_length, True),
        (lambda content: content[:-100], True),
        (lambda content: content[:-100], False),
        (lambda content: content.replace(b"300 200", b"300 201"), True),
        (lambda content: content.replace(b"300 200", b"300 201"), False),
        (lambda content: content.replace(b"Channels = 3", b"Channels = 2000000000"), False),
    ],
)
def test_damaged(
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
    compressed: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "slide.mha"
    path.write_bytes(damage(write(path, compressed=compressed)))
    with pytest.raises(CaseError) as error:
        read(path)
    assert str(error.value) == f"{path}: expected all of the image, found a damaged file"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", [b"no header", b"NDims = 2\nDimSize = 1 1\nElementDataFi"])
def test_without_a_whole_header(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "slide.mha"
    path.write_bytes(content)
    assert not is_placeholder(path)
    with pytest.raises(CaseError, match="expected an image that SimpleITK reads"):
        read(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("dimensions", ["", "-1", "0", "90", "2.0", "2\nNDims = 90"])
def test_dimensions_of_which_metaio_crashes(
    tmp_path: Path, dimensions: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "slide.mha"
    content = write(path, compressed=False).replace(b"NDims = 2", f"NDims = {dimensions}".encode())
    path.write_bytes(content)
    assert not is_placeholder(path)
    with pytest.raises(CaseError, match="expected an image that SimpleITK reads"):
        read(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("elsewhere", ["pixels.zraw", "LIST"])
def test_pixels_in_other_files(tmp_path: Path, elsewhere: str) -> None:
    """MetaIO takes what a damaged one gives so far, and chance for the rest."""
    path = tmp_path / "slide.mha"
    content = write(path, compressed=True)
    (tmp_path / "pixels.zraw").write_bytes(content[content.index(b"LOCAL\n") + 6 :])
    path.write_bytes(content.replace(b"LOCAL", elsewhere.encode()))
    expected = re.escape("expected pixels in the file itself (ElementDataFile = LOCAL)")
    with pytest.raises(CaseError, match=f"{expected}, found {elsewhere}$"):
        read(path)


@pytest.mark.parametrize("kept", [0.1, 0.9])
def test_a_cut_mask_falls_back(
    tmp_path: Path, slide: Slide, kept: float, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_mha(tmp_path / "mask.mha", blobs(300, 225, seed=9).astype(np.uint8))
    assert not find_tissue(slide, path, warn=no_warning).is_empty
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    warnings: list[str] = []
    assert not find_tissue(slide, path, warn=warnings.append).is_empty
    damaged = "expected all of the image, found a damaged file"
    assert warnings == [f"{path}: {damaged}; tissue is found by its colour instead"]
    assert capfd.readouterr().err == ""


def test_more_pixels_than_the_header_says(tmp_path: Path) -> None:
    path = tmp_path / "slide.mha"
    content = write(path, compressed=True)
    path.write_bytes(content.replace(b"300 200", b"300 199"))
    with pytest.raises(CaseError, match="expected all of the image, found a damaged file"):
        read(path)


@pytest.mark.parametrize("true", [b"True", b"true", b"1"])
def test_true_is_what_metaio_takes_for_it(tmp_path: Path, true: bytes) -> None:
    path = tmp_path / "slide.mha"
    content = write(path, compressed=True)
    content = content.replace(b"CompressedData = True", b"CompressedData = " + true)
    path.write_bytes(content)
    np.testing.assert_array_equal(read(path), PICTURE)
