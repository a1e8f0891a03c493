"""What several test files share, made once a run: small bundles and a slide to score with them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

if TYPE_CHECKING:
    from model.encoder import Encoder
    from model.predictor import Predictor
    from model.slide import Slide

Picture = tuple[NDArray[np.uint8], NDArray[np.bool_]]


@pytest.fixture(scope="session")
def strict_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle that needs every modality."""
    from small_bundles import build_bundle

    path = tmp_path_factory.mktemp("strict") / "bundle.safetensors"
    build_bundle().save(path)
    return path


@pytest.fixture(scope="session")
def lenient_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle that can do without any modality, as long as it has one."""
    from small_bundles import build_bundle

    path = tmp_path_factory.mktemp("lenient") / "bundle.safetensors"
    build_bundle(optional=("slide", "rna", "clinical")).save(path)
    return path


@pytest.fixture(scope="session")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Return what a whole job holds, by slug: a slide, its mask, RNA and a clinical record."""
    from jobs import record_contents, slide_contents

    return {**slide_contents(tmp_path_factory.mktemp("slide")), **record_contents()}


@pytest.fixture(scope="session")
def lenient_predictor(lenient_bundle: Path) -> "Predictor":
    """Return the lenient bundle, ready to score."""
    import torch

    from model.bundle import Bundle
    from model.predictor import Predictor

    return Predictor(Bundle.load(lenient_bundle), weights_dirs=[], device=torch.device("cpu"))


@pytest.fixture(scope="session")
def lite0() -> "Encoder":
    """Return the embedded encoder."""
    from encoder_stand_ins import load

    from model.encoders import ENCODERS

    return load(ENCODERS["efficientnet_lite0"])


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> "Encoder":
    """Return UNI's architecture, narrow: fast enough for tests of threads."""
    from encoder_stand_ins import load, save_weights, stand_in

    folder = tmp_path_factory.mktemp("small")
    save_weights(stand_in("uni"), folder / "model.safetensors")
    return load(stand_in("uni"), folder)


@pytest.fixture(scope="module")
def quick_training() -> Iterator[None]:
    """Make training quick, as `quick_train` says."""
    from quick_train import quicken

    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        yield


@pytest.fixture(scope="module")
def quick_page() -> Iterator[None]:
    """Leave the figures out of a cohort's page: they cost more than a small cohort."""
    from quick_train import undrawn

    from model import cohort_figures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cohort_figures, "to_svg", undrawn)
        yield


@pytest.fixture(scope="session")
def picture() -> Picture:
    """Return the pixels of a small slide, and where they are tissue."""
    from synthetic import HEIGHT, WIDTH, tissue_slide

    return tissue_slide(WIDTH, HEIGHT, seed=3)


@pytest.fixture(scope="session")
def slide_path(tmp_path_factory: pytest.TempPathFactory, picture: Picture) -> Path:
    """Return the picture as a pyramid of three levels."""
    from synthetic import MPP

    from train.pyramid import write_pyramid

    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    write_pyramid(path, picture[0], MPP, downsamples=(1, 2, 4), quality=95)
    return path


@pytest.fixture
def slide(slide_path: Path) -> "Iterator[Slide]":
    """Open the pyramid."""
    from synthetic import no_warning

    from model.slide import Slide

    with Slide.open(slide_path, default_mpp=None, warn=no_warning) as opened:
        yield opened
