"""The contract of a fusion: a batch in, logits out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import model_validator
from torch import nn

from model.batch import MODALITIES, Batch, Dims, Modality
from model.errors import ConfigError
from model.settings import Settings


class FusionConfig(Settings):
    """What every fusion can be told.

    `optional` modalities may be absent from a case: training drops them at random, and a learned
    stand-in takes their place.
    """

    modalities: tuple[Modality, ...] = MODALITIES
    optional: tuple[Modality, ...] = ()

    @model_validator(mode="after")
    def _optional_are_used(self) -> "FusionConfig":
        if not self.modalities:
            raise ValueError("modalities: expected at least one, found none")
        unused = set(self.optional) - set(self.modalities)
        if unused:
            raise ValueError(f"optional modalities that are not used: {', '.join(sorted(unused))}")
        return self


@dataclass(frozen=True)
class Labels:
    """What happened to B training cases, for a fusion with an objective of its own.

    Attributes:
        event: (B,) bool.
        quantile: (B,) float in (0, 1): how many of the training fold's n events came before the
            case's time, and a half, over n; ⌊K · quantile⌋ is its bin among K of equally many
            events.
    """

    event: torch.Tensor
    quantile: torch.Tensor


class Fusion(nn.Module, ABC):
    """A model that joins modalities.

    Adding one: write a Config and a class in `model/fusion/<name>.py`, and list the name in
    `model/fusion/__init__.py`. The contract tests then apply by themselves.

    Attributes:
        Config: Its settings; the defaults are the paper's.
        PAPER: Who published it, and where; left out for a model of one's own.
        CODE: The authors' code and its licence. The classes here follow the equations, not it.
        READS_TEXT: Whether it is told the clinical record in sentences (`Batch.clinical_tokens`).
    """

    Config: ClassVar[type[FusionConfig]]
    PAPER: ClassVar[str] = "unpublished"
    CODE: ClassVar[str] = "none but this"
    READS_TEXT: ClassVar[bool] = False

    def __init__(self, config: FusionConfig, dims: Dims) -> None:
        super().__init__()
        self.config = config
        self.dims = dims

    @abstractmethod
    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T): T = 1 is a Cox log hazard, T > 1 discrete-time hazards."""

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each patch (B, N): 0 on padding, sums to 1 over real patches.

        Raises:
            ValueError: The model weighs no patches.
        """
        raise ValueError(f"{type(self).__name__} weighs no patches of {len(batch)} cases")

    def fit_unsupervised(self, bags: Iterable[torch.Tensor]) -> None:
        """Fit what is found without labels, from the bags (N, D) of the training fold alone.

        Called once, before the first epoch; the result belongs into buffers. The bags can be gone
        through more than once, and are read anew each time.
        """

    def auxiliary_loss(self, batch: Batch, labels: Labels) -> torch.Tensor | None:
        """Return an objective (scalar, mean over the cases) to add to the loss of the logits.

        None where the model has none. Dropout repeats what it did in `forward`.
        """
        return None

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T).

        Raises:
            ConfigError: The model's are of another shape, which some losses would take.
        """
        logits: torch.Tensor = super().__call__(batch)
        expected, found = (len(batch), self.dims.outputs), tuple(logits.shape)
        if found != expected:
            name = type(self).__name__
            raise ConfigError(f"{name}: expected logits {expected}, found {found}")
        return logits
