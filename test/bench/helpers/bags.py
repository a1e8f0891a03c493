"""Slide to bag, as `model/predictor.py` does it once the grid is known."""

from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from model.embedding import embed_patches
from model.patches import PatchSpec, read_patches
from model.slide import Slide


def embed(
    encoder: Any, slide: Slide, coords: NDArray[Any], spec: PatchSpec, batch_size: int
) -> Tensor:
    """Return the bag of the patches at coords."""
    return embed_patches(
        encoder,
        lambda part: read_patches(slide, part, spec),
        coords,
        batch_size=batch_size,
        progress=lambda done, total: None,
    )
