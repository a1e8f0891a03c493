"""The fusions by name."""

from collections.abc import Mapping
from importlib import import_module

from pydantic import ValidationError

from model.batch import Dims
from model.errors import ConfigError, first_problem
from model.fusion.base import Fusion, FusionConfig

__all__ = ["FUSIONS", "Fusion", "FusionConfig", "build_fusion", "read_settings"]

NAMES = (
    "concat",
    "pairwise",
    "pairwise_residual",
    "lmf",
    "hfb",
    "porpoise",
    "mcat",
    "survpath",
    "survpgc",
    "survq",
    "mlp",
    "snn",
    "abmil",
    "meanpool",
    "deepattnmisl",
    "motcat",
    "mmp",
    "pibd",
    "ccl",
    "hsfsurv",
    "mome",
    "transmil",
    "patchgcn",
    "hvtsurv",
)


def _find_class(name: str) -> type[Fusion]:
    """Return the class that a fusion's file is named after: PatchNet of `patch_net.py`."""
    class_name = "".join(word.capitalize() for word in name.split("_"))
    found: type[Fusion] = getattr(import_module(f"model.fusion.{name}"), class_name)
    return found


FUSIONS = {name: _find_class(name) for name in NAMES}


def read_settings(name: str, settings: Mapping[str, object]) -> FusionConfig:
    """Check a fusion's settings.

    Raises:
        ConfigError: No fusion has that name, or a setting is unknown or out of range.
    """
    if name not in FUSIONS:
        raise ConfigError(f"fusion: expected one of {', '.join(FUSIONS)}, found {name!r}")
    try:
        return FUSIONS[name].Config.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"fusion {name}: {first_problem(error)}") from error


def build_fusion(name: str, settings: Mapping[str, object], dims: Dims) -> Fusion:
    """Build a fusion by name.

    Raises:
        ConfigError: As `read_settings`.
    """
    config = read_settings(name, settings)
    return FUSIONS[name](config, dims)
