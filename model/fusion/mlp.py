"""MLP: RNA or the clinical record alone, through plain layers."""

import torch
from pydantic import Field, PositiveInt
from torch import nn

from model.batch import Batch, Dims
from model.fusion.base import Fusion
from model.fusion.layers import mlp
from model.fusion.layers_inputs import Vectors, VectorsConfig


class MlpConfig(VectorsConfig):
    """Hidden widths as published."""

    widths: tuple[PositiveInt, ...] = Field(default=(32, 32), min_length=1)
    dropout: float = Field(default=0.25, ge=0, lt=1)


class Mlp(Fusion):
    """logits = Linear(ReLU(... ReLU(W_1 x)))."""

    Config = MlpConfig
    PAPER = "The MLP for genes that SurvPGC compares with, npj Digital Medicine 2025"
    CODE = "Houjiaxin123/SurvPGC, no licence"

    def __init__(self, config: MlpConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.vectors = Vectors(config, dims)
        self.layers = nn.Sequential(
            *mlp((self.vectors.width, *config.widths), config.dropout), nn.Dropout(config.dropout)
        )
        self.head = nn.Linear(config.widths[-1], dims.outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        logits: torch.Tensor = self.head(self.layers(self.vectors(batch)))
        return logits
