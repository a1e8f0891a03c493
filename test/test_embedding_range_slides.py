"""Slides made otherwise than those of training are told from new ones of the cohort."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.embedding_range import EmbeddingRange
from model.encoder import Encoder, load_encoder
from model.encoders import ENCODERS
from train.config import EncoderConfig
from train.simulate_slides import GLASS, HAEMATOXYLIN, render

Picture = NDArray[np.uint8]

PATCH_PX, SIDE = 224, 3
"""Of a patch in pixels, and of a slide in patches."""

WARNING = (
    "times as far from the training cohort's as any of its own cases; "
    "another stain, scanner or resolution?"
)


def warnings_of(found: EmbeddingRange, bag: torch.Tensor) -> list[str]:
    warnings: list[str] = []
    found.check(bag, warn=warnings.append)
    return warnings


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    weights = EncoderConfig().weights
    return load_encoder(
        ENCODERS["efficientnet_lite0"], weights_dirs=weights, device=torch.device("cpu")
    )


def draw_slide(seed: int) -> Picture:
    draw = np.random.default_rng([7, seed])
    return render(draw.normal(size=2), SIDE * PATCH_PX, 0.0, draw)[0]


def embed(encoder: Encoder, picture: Picture) -> torch.Tensor:
    """Embed the patches of a slide."""
    starts = range(0, len(picture), PATCH_PX)
    patches = [picture[y : y + PATCH_PX, x : x + PATCH_PX] for y in starts for x in starts]
    return encoder(np.stack(patches))


@pytest.fixture(scope="module")
def range_of_slides(encoder: Encoder) -> EmbeddingRange:
    found = EmbeddingRange.fit([embed(encoder, draw_slide(seed)) for seed in range(20)])
    assert found is not None
    return found


def without_eosin(picture: Picture) -> Picture:
    """Leave of the red channel's density what haematoxylin takes of each channel."""
    red = np.log(GLASS / np.maximum(picture[..., :1], 1.0)) / HAEMATOXYLIN[0]
    return (GLASS * np.exp(-red * HAEMATOXYLIN)).astype(np.uint8)


def tinted_blue(picture: Picture) -> Picture:
    return np.array(picture * (0.4, 0.6, 1.0), dtype=np.uint8)


def twice_as_coarse(picture: Picture) -> Picture:
    size = len(picture)
    half = picture.reshape(size // 2, 2, size // 2, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
    return np.tile(half, (2, 2, 1))


def four_times_as_fine(picture: Picture) -> Picture:
    quarter = len(picture) // 4
    return picture[quarter : 2 * quarter, quarter : 2 * quarter].repeat(4, axis=0).repeat(4, axis=1)


OTHERS: dict[str, Callable[[Picture], Picture]] = {
    "no eosin": without_eosin,
    "tinted blue": tinted_blue,
    "inverted": lambda picture: 255 - picture,
    "grey": lambda picture: picture.mean(axis=2, keepdims=True).astype(np.uint8).repeat(3, axis=2),
    "blank": lambda picture: np.full_like(picture, GLASS),
    "twice as coarse": twice_as_coarse,
    "four times as fine": four_times_as_fine,
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
@pytest.mark.slow
def test_slides_made_otherwise_are_told(
    encoder: Encoder, range_of_slides: EmbeddingRange, change: Callable[[Picture], Picture]
) -> None:
    bag = embed(encoder, change(draw_slide(100)))
    (warning,) = warnings_of(range_of_slides, bag)
    assert warning == f"slide: embeddings are {range_of_slides.distance(bag):.1f} {WARNING}"


@pytest.mark.slow
def test_new_slides_of_the_cohort_are_not(
    encoder: Encoder, range_of_slides: EmbeddingRange
) -> None:
    for seed in range(200, 208):
        assert warnings_of(range_of_slides, embed(encoder, draw_slide(seed))) == []
