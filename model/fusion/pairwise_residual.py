"""ABMIL_Surv_PG_Res: the pairs' interactions beside the modalities' own vectors.

Source: "Attention-Based Multimodal Survival Prediction with Cross-Modal Bilinear Fusion". The paper
joins the vectors as they are; its public repository first narrows them to 128 by Linear and ReLU.
"""

import torch
from torch import nn

from model.batch import Batch, Dims
from model.fusion.base import Fusion
from model.fusion.layers import Branches, Pairs, PairsConfig, init_xavier


class PairwiseResidual(Fusion):
    """logits = Linear([pairs ‖ slide ‖ rna ‖ clinical])."""

    Config = PairsConfig
    PAPER = (
        'ABMIL_Surv_PG_Res of Keshvarikhojasteh, Pluim and Veta 2026, "Attention-based multimodal '
        'survival prediction with cross-modal bilinear fusion", arXiv:2605.13897'
    )
    CODE = "hassancpu/ChimeraChallenge2025_Task_3, MIT"

    def __init__(self, config: PairsConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.branches = Branches(config, dims)
        self.pairs = Pairs(config, self.branches.widths)
        width = self.pairs.width + sum(self.branches.widths.values())
        self.head = nn.Linear(width, dims.outputs)
        init_xavier(self)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        vectors = self.branches(batch)
        joined = torch.cat([self.pairs(vectors), *vectors.values()], dim=1)
        logits: torch.Tensor = self.head(joined)
        return logits

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each patch (B, N)."""
        return self.branches.attention(batch)
