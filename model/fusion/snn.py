"""SNN: RNA or the clinical record alone, through self-normalising layers."""

import torch
from pydantic import Field, PositiveInt
from torch import nn

from model.batch import Batch, Dims
from model.fusion.base import Fusion
from model.fusion.layers import snn
from model.fusion.layers_inputs import Vectors, VectorsConfig


class SnnConfig(VectorsConfig):
    """Hidden widths as published."""

    widths: tuple[PositiveInt, ...] = Field(default=(256, 256), min_length=1)
    dropout: float = Field(default=0.25, ge=0, lt=1)


class Snn(Fusion):
    """logits = Linear(ELU(W_2 ELU(W_1 x))), drawn so that variance is kept from layer to layer.

    Source: Klambauer et al. 2017, with ELU and the widths of the survival papers.
    """

    Config = SnnConfig
    PAPER = (
        'Klambauer et al. 2017, "Self-normalizing neural networks", arXiv:1706.02515; '
        "widths of the survival papers since PORPOISE"
    )
    CODE = "mahmoodlab/PORPOISE, GPL-3.0, not for commercial use"

    def __init__(self, config: SnnConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.vectors = Vectors(config, dims)
        self.layers = snn((self.vectors.width, *config.widths), config.dropout)
        self.head = nn.Linear(config.widths[-1], dims.outputs)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.zeros_(layer.bias)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        logits: torch.Tensor = self.head(self.layers(self.vectors(batch)))
        return logits
