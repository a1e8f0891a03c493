"""A fusion whose contributions can be written down."""

import torch
from toy_bundles import CLINICAL, RNA
from toy_fusions import DIMS

from model.batch import Batch
from model.fusion.base import Fusion, FusionConfig
from model.member import Member


class Linear(Fusion):
    """risk = mean of the patches · u + genes · v + clinical · w + 1, and attention to the first."""

    Config = FusionConfig
    PAPER = CODE = ""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(FusionConfig(), DIMS)
        draw = torch.Generator().manual_seed(seed)
        for name, width in (("u", DIMS.embedding), ("v", DIMS.genes), ("w", DIMS.clinical)):
            self.register_parameter(name, torch.nn.Parameter(torch.randn(width, generator=draw)))

    def forward(self, batch: Batch) -> torch.Tensor:
        slide = (batch.bag.mean(dim=1) @ self.u) * batch.slide_present
        return (slide + batch.rna @ self.v + batch.clinical @ self.w + 1)[:, None]

    def attention(self, batch: Batch) -> torch.Tensor:
        return torch.eye(batch.mask.shape[1])[:1]


def member_of(fusion: Fusion, *, risk_mean: float = 0.3, risk_sd: float = 2.0) -> Member:
    return Member(fusion, RNA, CLINICAL, risk_mean, risk_sd)
