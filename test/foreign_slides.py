"""Slides as CHIMERA's organisers, CLAM and TRIDENT embed them, in their own formats."""

from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import torch
from numpy.typing import NDArray
from synthetic import no_warning

from model.batch import Bag
from model.case import Case
from model.encoders import ENCODERS
from model.errors import Warn
from model.foreign_bags import ForeignBags
from model.patches import PatchSpec

WIDTH = 6
UNI = ENCODERS["uni"].model_copy(update={"width": WIDTH})
HALF_MPP = PatchSpec(mpp=0.5, size_px=224, stride_px=224)
COORDINATES = [
    ("x", int),
    ("y", int),
    ("tile_size_resized", int),
    ("tile_level", int),
    ("resize_factor", float),
    ("tile_size_lv0", int),
    ("target_spacing", float),
]


def embeddings_of(n: int = 5, seed: int = 0, width: int = WIDTH) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def coords_of(n: int = 5, step: int = 448) -> NDArray[np.int64]:
    return np.array([[step * i, step * (i % 2)] for i in range(n)])


def write_chimera(
    root: Path, name: str, features: NDArray[np.float32], *, factor: float = 1.0, mpp: float = 0.5
) -> None:
    """Write what the organisers published of a slide, as their program saves it."""
    for folder in ("features", "coordinates"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(features), root / "features" / f"{name}.pt")
    rows = [(x, y, int(224 * factor), 1, factor, 448, mpp) for x, y in coords_of(len(features))]
    np.save(root / "coordinates" / f"{name}.npy", np.array(rows, dtype=COORDINATES))


def write_h5(
    path: Path,
    features: NDArray[Any] | None,
    coords: NDArray[Any] | None = None,
    *,
    attributes: dict[str, Any] | None = None,
    encoder: str | None = None,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        if features is not None:
            file["features"] = features
            if encoder is not None:
                file["features"].attrs["encoder"] = encoder
        if coords is not None:
            file["coords"] = coords
            file["coords"].attrs.update(attributes or {})


def trident_attributes(**changes: Any) -> dict[str, Any]:
    found = {
        "patch_size": 224,
        "patch_size_level0": 448,
        "level0_magnification": 40,
        "target_magnification": 20,
        "overlap": 0,
        "name": "C",
        "savetodir": "/data/20x_224px_0px_overlap",
    }
    return found | changes


def clam_attributes(downsample: float, size_px: int = 224) -> dict[str, Any]:
    return {
        "patch_size": size_px,
        "patch_level": 1,
        "downsample": (downsample, downsample),
        "level_dim": (1000, 1000),
        "name": "C",
    }


def make(
    root: Path, *, case: Case | None = None, spec: PatchSpec = HALF_MPP, warn: Warn = no_warning
) -> Bag:
    bag = ForeignBags(root, UNI, spec).make(case or Case("C"), warn=warn)
    assert bag is not None
    return bag
