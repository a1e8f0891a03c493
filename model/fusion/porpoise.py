"""PORPOISE: the gated outer product of a slide's vector and a molecular profile's."""

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import pad

from model.batch import Batch, Dims, Modality
from model.fusion.base import Fusion
from model.fusion.layers import GatedAttentionPool, OneStandIn, mlp, snn
from model.fusion.layers_inputs import SlideAndProfileConfig, Vectors


class PorpoiseConfig(SlideAndProfileConfig):
    """Widths as published.

    The paper's profile is RNA beside copy numbers and mutations; here it is RNA, or the clinical
    record, or both side by side.

    Attributes:
        width: Of the slide's vector, the profile's and their fusion.
        gated: Width of the two vectors whose outer product is taken.
        bag_dropout: Dropout of the embeddings; `dropout` that of all else.
    """

    modalities: tuple[Modality, ...] = ("slide", "rna")
    slide_width: int = Field(default=512, gt=0)
    attention_width: int = Field(default=256, gt=0)
    width: int = Field(default=256, gt=0)
    gated: int = Field(default=32, gt=0)
    bag_dropout: float = Field(default=0.1, ge=0, lt=1)
    dropout: float = Field(default=0.25, ge=0, lt=1)


class Gate(nn.Module):
    """o_m = ReLU(W_o (σ(W_z [v_1 ‖ v_2]) ⊙ ReLU(W_h v_m))): the partner has a say."""

    def __init__(self, width: int, gated: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(width, gated), nn.ReLU())
        self.gate = nn.Sequential(nn.Linear(2 * width, gated), nn.Sigmoid())
        self.out = nn.Sequential(nn.Linear(gated, gated), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, own: torch.Tensor, both: torch.Tensor) -> torch.Tensor:
        """Return (B, gated) of a vector (B, width) and the two side by side (B, 2 · width)."""
        gated: torch.Tensor = self.out(self.gate(both) * self.hidden(own))
        return gated


class Porpoise(Fusion):
    """logits = Linear(ReLU(W_2 [ReLU(W_1 vec([o_1 ‖ 1] ⊗ [o_2 ‖ 1])) ‖ v_1 ‖ v_2])).

    v_1 is the attention-pooled slide, v_2 the profile through self-normalising layers, o_1 and o_2
    their gated forms.

    Source: Chen et al. 2022; the gated outer product is from "Pathomic Fusion", arXiv:1912.08937.
    """

    Config = PorpoiseConfig
    PAPER = (
        'Chen et al. 2022, "Pan-cancer integrative histology-genomic analysis via multimodal deep '
        'learning", doi:10.1016/j.ccell.2022.07.004'
    )
    CODE = "mahmoodlab/PORPOISE, GPL-3.0, not for commercial use"

    def __init__(self, config: PorpoiseConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        width, dropout = config.width, config.dropout
        self.bag_dropout = nn.Dropout(config.bag_dropout)
        self.pool = GatedAttentionPool(
            dims.embedding, config.slide_width, config.attention_width, dropout
        )
        self.slide = nn.Sequential(*mlp((config.slide_width, width), dropout), nn.Dropout(dropout))
        self.stand_ins = OneStandIn("slide", width, config.optional)
        self.vectors = Vectors(config, dims)
        self.profile = snn((self.vectors.width, width, width), dropout)
        self.slide_gate = Gate(width, config.gated, dropout)
        self.profile_gate = Gate(width, config.gated, dropout)
        self.dropout = nn.Dropout(dropout)
        self.product = mlp(((config.gated + 1) ** 2, width), dropout)
        self.fused = mlp((3 * width, width), dropout)
        self.head = nn.Linear(width, dims.outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        pooled, _ = self.pool(self.bag_dropout(batch.bag), batch.mask)
        slide = self.stand_ins(self.slide(pooled), batch)
        profile = self.profile(self.vectors(batch))
        both = torch.cat([slide, profile], dim=1)
        outer = torch.einsum(
            "bi,bj->bij",
            pad(self.slide_gate(slide, both), (0, 1), value=1.0),
            pad(self.profile_gate(profile, both), (0, 1), value=1.0),
        )
        product = self.product(self.dropout(outer.flatten(1)))
        logits: torch.Tensor = self.head(self.fused(torch.cat([product, both], dim=1)))
        return logits

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each patch (B, N)."""
        weights: torch.Tensor = self.pool(batch.bag, batch.mask)[1]
        return weights
