"""Bags of other programs that are refused: other settings, damage, code."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_slides import (
    WIDTH,
    coords_of,
    embeddings_of,
    make,
    trident_attributes,
    write_chimera,
    write_h5,
)

from model.errors import CaseError, ConfigError


@pytest.mark.parametrize(
    ("attributes", "found"),
    [
        ({"patch_size": 256}, "found 256 px every 256 px at 0.5 µm/px"),
        ({"target_magnification": 10}, "found 224 px every 224 px at 1 µm/px"),
        ({"overlap": 56}, "found 224 px every 168 px at 0.5 µm/px"),
    ],
)
def test_other_patches_are_refused(tmp_path: Path, attributes: dict[str, Any], found: str) -> None:
    write_h5(
        tmp_path / "C.h5",
        embeddings_of(),
        coords_of(),
        attributes=trident_attributes(**attributes),
    )
    message = f"{tmp_path}/C.h5: expected patches of 224 px every 224 px at 0.5 µm/px, "
    with pytest.raises(ConfigError, match="^" + re.escape(message + found) + "$"):
        make(tmp_path)


def test_other_patches_of_the_organisers_are_refused(tmp_path: Path) -> None:
    write_chimera(tmp_path, "C_HE", embeddings_of(), mpp=0.25)
    with pytest.raises(ConfigError, match=r"found 224 px every 224 px at 0\.25 µm/px$"):
        make(tmp_path)


@pytest.mark.parametrize(
    ("width", "encoder", "found"),
    [
        (WIDTH + 1, None, "found width 7"),
        (WIDTH, "phikon_v2", "found width 6 of phikon_v2"),
        (WIDTH, "musk", "found width 6 of musk"),
    ],
)
def test_another_encoder_is_refused(
    tmp_path: Path, width: int, encoder: str | None, found: str
) -> None:
    attributes = trident_attributes()
    features = embeddings_of(width=width)
    write_h5(tmp_path / "C.h5", features, coords_of(), attributes=attributes, encoder=encoder)
    message = f"{tmp_path}/C.h5: expected embeddings of encoder uni (width 6), {found}"
    with pytest.raises(ConfigError, match="^" + re.escape(message) + "$"):
        make(tmp_path)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.mkdir, (self.path,)


def test_no_code_of_a_foreign_file_is_run(tmp_path: Path) -> None:
    torch.save([Bomb(tmp_path / "bang")], tmp_path / "C.pt")
    with pytest.raises(CaseError, match=r"C\.pt: expected a readable bag, found UnpicklingError"):
        make(tmp_path)
    write_chimera(tmp_path, "C_HE", embeddings_of())
    bomb = np.array([Bomb(tmp_path / "bang")], dtype=object)
    np.save(tmp_path / "coordinates" / "C_HE.npy", bomb, allow_pickle=True)
    with pytest.raises(CaseError, match=r"C_HE\.npy: expected a readable bag, found ValueError"):
        make(tmp_path)
    assert not (tmp_path / "bang").exists()


def test_damaged_files_are_one_line_of_the_case(tmp_path: Path) -> None:
    good, attributes = embeddings_of(), trident_attributes()
    path = tmp_path / "C.h5"
    nan = np.where(np.eye(5, WIDTH) > 0, np.nan, good)
    for features, coords, found in (
        (good, coords_of(4), "expected coordinates of 5 patches, found shape (4, 2)"),
        (good[:0], coords_of(0), "expected one embedding per patch, found shape (0, 6)"),
        (good[0], coords_of(), "expected one embedding per patch, found shape (6,)"),
        (nan, coords_of(), "expected finite embeddings, found NaN or infinity"),
        (None, coords_of(), "expected a readable bag, found KeyError ('features')"),
        (good, np.full((5, 2), np.nan), "expected a readable bag, found ValueError (coordinates "),
        (good, 1e30 * coords_of(), "expected a readable bag, found ValueError (coordinates "),
    ):
        write_h5(path, features, coords, attributes=attributes)
        with pytest.raises(CaseError, match="^" + re.escape(f"{path}: {found}")):
            make(tmp_path)
    write_h5(path, good, coords_of(), attributes=attributes | {"target_magnification": 0})
    with pytest.raises(CaseError, match="expected a readable bag, found ZeroDivisionError"):
        make(tmp_path)
    path.write_bytes(b"no HDF5")
    with pytest.raises(CaseError, match="expected a readable bag, found OSError") as caught:
        make(tmp_path)
    assert "\n" not in str(caught.value)
    path.unlink()
    torch.save({"features": torch.zeros(2, WIDTH)}, tmp_path / "C.pt")
    with pytest.raises(CaseError, match="expected a readable bag, found"):
        make(tmp_path)
    np.save(tmp_path / "x.npy", np.zeros((5, 2)))
    torch.save(torch.from_numpy(good), tmp_path / "C.pt")
    (tmp_path / "coordinates").mkdir()
    (tmp_path / "x.npy").rename(tmp_path / "coordinates" / "C.npy")
    with pytest.raises(CaseError, match=r"C\.npy: expected a readable bag, found"):
        make(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_embeddings_are_finite(tmp_path: Path, value: float) -> None:
    features = embeddings_of()
    features[2, 1] = value
    write_h5(tmp_path / "C.h5", features, coords_of(), attributes=trident_attributes())
    with pytest.raises(CaseError, match="expected finite embeddings, found NaN or infinity"):
        make(tmp_path)
