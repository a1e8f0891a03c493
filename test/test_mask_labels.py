"""Masks as labels: which values are tissue, in cells of which size, up to which edge."""

from pathlib import Path

import numpy as np
import tifffile
from synthetic import blobs, write_labels, write_mha

from model.mask_labels import reduce_mask


def test_a_label_below_0_is_no_tissue(tmp_path: Path) -> None:
    labels = np.full((64, 64), -1, dtype=np.int16)
    labels[:32] = 2
    for tile in ((64, 64), None):
        write_labels(tmp_path / "mask.tif", labels, dtype=np.int16, tile=tile)
        assert reduce_mask(tmp_path / "mask.tif", 2).values.tolist() == [[255, 255], [0, 0]]
    write_mha(tmp_path / "mask.mha", labels)
    assert reduce_mask(tmp_path / "mask.mha", 2).values.tolist() == [[255, 255], [0, 0]]


def test_a_cell_divides_both_sides_of_a_tile(tmp_path: Path) -> None:
    tissue = blobs(300, 225, seed=9, size=40)
    write_labels(tmp_path / "mask.tif", tissue, dtype=np.uint8, tile=(80, 48))
    found = reduce_mask(tmp_path / "mask.tif", 60)  # wanted: cells of 5 pixels, as 80 allows
    assert found.downsample == (4, 4)
    padded = np.pad(tissue, [(0, -n % 4) for n in tissue.shape])
    cells = padded.reshape(-(-225 // 4), 4, 75, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(found.values / 255, cells, atol=0.51 / 255)


def test_what_a_tile_holds_beyond_the_level_is_no_tissue(tmp_path: Path) -> None:
    """Some writers repeat the last pixel there."""
    path = tmp_path / "mask.tif"
    write_labels(path, np.ones((128, 128), dtype=bool), dtype=np.uint8)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for tag in ("ImageWidth", "ImageLength"):
            tiff.pages[0].tags[tag].overwrite(100)
    cells = reduce_mask(path, 13).values  # of 8 pixels, the last of which are half outside
    assert cells.shape == (13, 13)
    assert (cells[:12, 12] == round(255 / 2)).all()
