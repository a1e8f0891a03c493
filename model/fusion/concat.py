"""ABMIL_Surv: the modalities' vectors side by side, and one layer on top.

Source: "Attention-Based Multimodal Survival Prediction with Cross-Modal Bilinear Fusion".
"""

import torch
from pydantic import PositiveInt
from torch import nn

from model.batch import Batch, Dims
from model.fusion.base import Fusion
from model.fusion.layers import Branches, BranchesConfig, init_xavier, mlp


class ConcatConfig(BranchesConfig):
    """`head` lists hidden widths between the joined vector and the output; empty in the paper."""

    head: tuple[PositiveInt, ...] = ()


class Concat(Fusion):
    """logits = Linear([slide ‖ rna ‖ clinical]), or an MLP in its place."""

    Config = ConcatConfig
    PAPER = (
        'ABMIL_Surv of Keshvarikhojasteh, Pluim and Veta 2026, "Attention-based multimodal '
        'survival prediction with cross-modal bilinear fusion", arXiv:2605.13897'
    )
    CODE = "hassancpu/ChimeraChallenge2025_Task_3, MIT"

    def __init__(self, config: ConcatConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.branches = Branches(config, dims)
        hidden = (sum(self.branches.widths.values()), *config.head)
        self.head = nn.Sequential(*mlp(hidden, config.dropout), nn.Linear(hidden[-1], dims.outputs))
        init_xavier(self)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        vectors = self.branches(batch)
        logits: torch.Tensor = self.head(torch.cat(list(vectors.values()), dim=1))
        return logits

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each patch (B, N)."""
        return self.branches.attention(batch)
