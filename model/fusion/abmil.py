"""ABMIL: slides alone, their patches weighed by gated attention."""

import torch
from pydantic import Field, PositiveInt
from torch import nn

from model.batch import Batch, Dims
from model.fusion.base import Fusion
from model.fusion.layers import GatedAttentionPool, OneStandIn, mlp
from model.fusion.layers_inputs import SlideConfig


class AbmilConfig(SlideConfig):
    """Widths as the survival papers set them; `head` lists those between pool and output."""

    width: int = Field(default=256, gt=0)
    attention_width: int = Field(default=256, gt=0)
    head: tuple[PositiveInt, ...] = Field(default=(256,), min_length=1)
    dropout: float = Field(default=0.25, ge=0, lt=1)


class Abmil(Fusion):
    """logits = MLP(Σ_n A_n h_n)."""

    Config = AbmilConfig
    PAPER = (
        'Ilse, Tomczak and Welling 2018, "Attention-based deep multiple instance learning", '
        "arXiv:1802.04712; widths of SurvPGC's comparison"
    )
    CODE = "AMLab-Amsterdam/AttentionDeepMIL, MIT"

    def __init__(self, config: AbmilConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.pool = GatedAttentionPool(
            dims.embedding, config.width, config.attention_width, config.dropout
        )
        self.stand_ins = OneStandIn("slide", config.width, config.optional)
        self.head = nn.Sequential(
            *mlp((config.width, *config.head), config.dropout),
            nn.Dropout(config.dropout),
            nn.Linear(config.head[-1], dims.outputs),
        )

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        pooled, _ = self.pool(batch.bag, batch.mask)
        logits: torch.Tensor = self.head(self.stand_ins(pooled, batch))
        return logits

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each patch (B, N)."""
        weights: torch.Tensor = self.pool(batch.bag, batch.mask)[1]
        return weights
