"""A tiny encoder whose embeddings can be told from the pixels, and slides without loss."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from synthetic import write_mha
from torch import nn

from model.encoder import Encoder
from model.encoders import EncoderSpec
from model.patches import PatchSpec

SPEC = EncoderSpec(
    id="mean_colour",
    architecture="none",
    pooling="mean",
    width=3,
    interpolation="bilinear",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    weights_sha256="0" * 64,
    licence="none",
    home="none",
    paper="none",
)
PATCHES = PatchSpec(mpp=1.0, size_px=32, stride_px=32)


class _Pixels(nn.Module):
    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return images


def mean_colour() -> Encoder:
    """Return an encoder whose embedding is a patch's mean colour, 0 to 1."""
    return Encoder(SPEC, _Pixels(), Path("none"), torch.device("cpu"))


def write_tissue(path: Path, seed: int, *, side_px: int = 96) -> NDArray[np.uint8]:
    """Write a slide of 1 µm/px that is tissue from edge to edge, and return its pixels."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers((120, 40, 100), (160, 80, 140), (side_px, side_px, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mha(path, pixels, spacing_mm=0.001)
    return pixels
