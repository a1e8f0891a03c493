"""ABMIL_Surv_PG: low-rank bilinear interactions of every pair of modalities.

Source: "Attention-Based Multimodal Survival Prediction with Cross-Modal Bilinear Fusion".
"""

import torch
from torch import nn

from model.batch import Batch, Dims
from model.fusion.base import Fusion
from model.fusion.layers import Branches, Pairs, PairsConfig, init_xavier


class Pairwise(Fusion):
    """logits = Linear([f(slide, rna) ‖ f(slide, clinical) ‖ f(rna, clinical)])."""

    Config = PairsConfig
    PAPER = (
        'ABMIL_Surv_PG of Keshvarikhojasteh, Pluim and Veta 2026, "Attention-based multimodal '
        'survival prediction with cross-modal bilinear fusion", arXiv:2605.13897'
    )
    CODE = "hassancpu/ChimeraChallenge2025_Task_3, MIT"

    def __init__(self, config: PairsConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.branches = Branches(config, dims)
        self.pairs = Pairs(config, self.branches.widths)
        self.head = nn.Linear(self.pairs.width, dims.outputs)
        init_xavier(self)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        logits: torch.Tensor = self.head(self.pairs(self.branches(batch)))
        return logits

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each patch (B, N)."""
        return self.branches.attention(batch)
