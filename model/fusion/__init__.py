"""The fusions by name."""

from collections.abc import Mapping

from pydantic import ValidationError

from model.batch import Dims
from model.errors import ConfigError, first_problem
from model.fusion.abmil import Abmil
from model.fusion.base import Fusion, FusionConfig
from model.fusion.concat import Concat
from model.fusion.deepattnmisl import Deepattnmisl
from model.fusion.hfb import Hfb
from model.fusion.lmf import Lmf
from model.fusion.meanpool import Meanpool
from model.fusion.mlp import Mlp
from model.fusion.pairwise import Pairwise
from model.fusion.pairwise_residual import PairwiseResidual
from model.fusion.porpoise import Porpoise
from model.fusion.snn import Snn

__all__ = ["FUSIONS", "Fusion", "FusionConfig", "build_fusion", "read_settings"]

FUSIONS: dict[str, type[Fusion]] = {
    "concat": Concat,
    "pairwise": Pairwise,
    "pairwise_residual": PairwiseResidual,
    "lmf": Lmf,
    "hfb": Hfb,
    "porpoise": Porpoise,
    "mlp": Mlp,
    "snn": Snn,
    "abmil": Abmil,
    "meanpool": Meanpool,
    "deepattnmisl": Deepattnmisl,
}


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
