"""What several test files share, made once a run: small bundles and a slide to score with them."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from model.predictor import Predictor


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
