"""Damage to the tags of slides of JPEG tiles."""

from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import tifffile
from jpeg_slides import damage_tile, write

from model.jpeg_tiles import JpegTiles


@pytest.mark.parametrize("content", [b"", b"\xff", b"II*\0", b"II*\0\xff\xff\xff\x7f", b"x" * 999])
def test_no_levels_in_other_files(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.tif"
    path.write_bytes(content)
    tiles = JpegTiles(path)
    assert tiles.levels == {}
    tiles.close()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("seed", range(15))
def test_random_damage_to_the_tags(
    tmp_path: Path, seed: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Never another error than none at all, never a word on stderr, never memory in excess."""
    rng = np.random.default_rng(seed)
    path = write(tmp_path / "slide.tif")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        tags = tiff.pages[0].offset
    for at in rng.integers(tags, tags + 200, 5):
        content[at] = rng.integers(256)
    path.write_bytes(content)
    tiles = JpegTiles(path)
    for found in tiles.levels.values():
        found.read(0, 0)
        found.read(*found.fullest())
    tiles.close()
    assert capfd.readouterr().err == ""


def test_the_file_is_closed_where_its_tags_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    path = write(tmp_path / "slide.tif")
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr("model.jpeg_tiles.tifffile.TiffFile", fail)
    with pytest.raises(MemoryError):
        JpegTiles(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_tile_of_another_size_counts_as_none(tmp_path: Path) -> None:
    path = write(tmp_path / "slide.tif")
    small = simplejpeg.encode_jpeg(np.zeros((64, 64, 3), np.uint8))
    damage_tile(path, 0, lambda stream: small + bytes(len(stream) - len(small)))
    tiles = JpegTiles(path)
    (level,) = tiles.levels.values()
    assert level.read(0, 0) is None
    assert level.read(1, 0) is not None
    tiles.close()
