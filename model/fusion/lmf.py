"""LMF: all products of three modalities' entries, through a weight tensor of low rank."""

from math import prod

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import pad

from model.batch import Batch, Dims
from model.fusion.base import Fusion
from model.fusion.layers import Branches, BranchesConfig, init_xavier


class LmfConfig(BranchesConfig):
    """`rank` of the weight tensor; the paper searches 1, 4, 8 and 16."""

    rank: int = Field(default=4, gt=0)


class Lmf(Fusion):
    """logits = W · (z_slide ⊗ z_rna ⊗ z_clinical) + b, where z = [vector ‖ 1].

    The appended 1 keeps the single entries and the products of two among the products of three.
    With W = Σ_r w_r ⊗_m F_m,r neither the outer product nor W is ever made:
    logits = Σ_r w_r ∏_m (z_m F_m,r) + b.

    Source: Liu et al. 2018, equations 6 to 9. The paper gives the factors a learning rate of their
    own; here all parameters share one.
    """

    Config = LmfConfig
    PAPER = (
        'Liu et al. 2018, "Efficient low-rank multimodal fusion with modality-specific factors", '
        "arXiv:1806.00064"
    )
    CODE = "Justin1904/Low-rank-Multimodal-Fusion, no licence"

    def __init__(self, config: LmfConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.branches = Branches(config, dims)
        init_xavier(self)
        self.factors = nn.ParameterDict(
            {
                name: torch.empty(config.rank, width + 1, dims.outputs)
                for name, width in self.branches.widths.items()
            }
        )
        for factor in self.factors.values():
            for matrix in factor:
                nn.init.xavier_normal_(matrix)
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, config.rank))[0])
        self.bias = nn.Parameter(torch.zeros(dims.outputs))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        projected = [
            torch.einsum("bd,rdt->brt", pad(vector, (0, 1), value=1.0), self.factors[name])
            for name, vector in self.branches(batch).items()
        ]
        return torch.einsum("brt,r->bt", prod(projected[1:], start=projected[0]), self.weight) + (
            self.bias
        )

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each patch (B, N)."""
        return self.branches.attention(batch)
