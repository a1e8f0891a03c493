"""Mean pooling: slides alone, every patch counting the same."""

import torch
from pydantic import Field
from torch import nn

from model.batch import Batch, Dims
from model.fusion.base import Fusion
from model.fusion.layers import OneStandIn, mlp
from model.fusion.layers_inputs import SlideConfig


class MeanpoolConfig(SlideConfig):
    """Widths as published: of a patch's projection, and of the layer before the output."""

    width: int = Field(default=256, gt=0)
    hidden: int = Field(default=64, gt=0)


class Meanpool(Fusion):
    """logits = W_2 ReLU(W_1 mean_n ReLU(W_0 x_n)).

    Its authors' code also builds a feed-forward block and a layer normalisation that it never
    calls; they are left out here.
    """

    Config = MeanpoolConfig
    PAPER = "The MLP for pathology that SurvPGC compares with, npj Digital Medicine 2025"
    CODE = "Houjiaxin123/SurvPGC, no licence"

    def __init__(self, config: MeanpoolConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.project = mlp((dims.embedding, config.width), dropout=0.0)
        self.stand_ins = OneStandIn("slide", config.width, config.optional)
        self.head = nn.Sequential(
            *mlp((config.width, config.hidden), dropout=0.0),
            nn.Linear(config.hidden, dims.outputs),
        )

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        patches = self.project(batch.bag)  # (B, N, width)
        pooled = torch.einsum("bn,bnw->bw", self.attention(batch), patches)
        logits: torch.Tensor = self.head(self.stand_ins(pooled, batch))
        return logits

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each patch (B, N): the same for all of a case's."""
        return batch.mask / batch.mask.sum(dim=1, keepdim=True).clamp(min=1)
