"""MOTCat: patches carried to gene sets by optimal transport."""

import numpy as np
import torch
from pydantic import Field

from model.batch import Batch, Dims
from model.fusion.layers_sets import TwoSets, TwoSetsConfig


class MotcatConfig(TwoSetsConfig):
    """Widths as published.

    Attributes:
        entropy: Weight of the plan's entropy; the paper takes 0.05 for bladder cancer.
        mass: Weight of the marginals, from which the plan's mass may differ.
        normalise: Whether the patches that a gene set receives count as their mean. In the
            authors' code they do not, which leaves H' some twelve times too small.
    """

    entropy: float = Field(default=0.1, gt=0)
    mass: float = Field(default=0.5, gt=0)
    normalise: bool = True


class Motcat(TwoSets):
    """logits = Linear(MLP([encode(H') ‖ encode(G)])), where H' = A H.

    H are the patches' tokens, G the gene sets', A (P, N) the unbalanced optimal transport plan
    between them, without a gradient of its own. It minimises Σ A_pn C_pn + entropy · KL(A ‖ a bᵀ)
    + mass · (KL(A 1 ‖ a) + KL(Aᵀ 1 ‖ b)) with uniform a and b and the cost C of squared distances,
    the largest of which is 1. Scaling A by a number, as another reference measure than a bᵀ does,
    changes nothing once its rows are normalised.

    The whole bag is transported at once; the paper splits large ones to save memory. The clinical
    record, which the paper does not use, may join as a third vector.

    Source: Xu and Chen 2023, equations 5 to 9.
    """

    Config = MotcatConfig
    PAPER = (
        'Xu and Chen 2023, "Multimodal optimal transport-based co-attention transformer with '
        'global structure consistency for survival prediction", arXiv:2306.08330'
    )
    CODE = "Innse/MOTCat, not for commercial use"

    def __init__(self, config: MotcatConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.transport = config

    def see(self, genes: torch.Tensor, patches: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return what the plan carries to the gene sets (B, P, width)."""
        return self._plans(patches, mask, genes) @ patches

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each patch (B, N): its share of what the gene sets receive."""
        patches, mask = self.patches(batch)
        plans = self._plans(patches, mask, self.genes(batch))
        paid = plans / plans.sum(dim=2, keepdim=True)
        return paid.mean(dim=1) * batch.mask

    @torch.no_grad()
    def _plans(
        self, patches: torch.Tensor, mask: torch.Tensor, genes: torch.Tensor
    ) -> torch.Tensor:
        """Return each case's plan (B, P, N), 0 on padding."""
        plans = genes.new_zeros(*genes.shape[:2], patches.shape[1])
        for plan, bag, real, sets in zip(plans, patches, mask, genes, strict=True):
            plan[:, real] = transport(sets, bag[real], self.transport).to(plan)
        return plans


def transport(genes: torch.Tensor, patches: torch.Tensor, config: MotcatConfig) -> torch.Tensor:
    """Return the plan (P, N) from gene sets (P, width) to patches (N, width), float64 on the CPU.

    Source: Chizat et al. 2018, "Scaling algorithms for unbalanced optimal transport problems".
    """
    # Here, as it takes seconds which no other model should wait for.
    from ot.unbalanced import sinkhorn_knopp_unbalanced  # type: ignore[import-untyped]  # noqa: PLC0415

    cost = torch.cdist(_from_zero(genes), _from_zero(patches)).square()
    plan = torch.from_numpy(
        sinkhorn_knopp_unbalanced(
            np.full(len(genes), 1 / len(genes)),
            np.full(len(patches), 1 / len(patches)),
            (cost / cost.max()).cpu().numpy(),
            reg=config.entropy,
            reg_m=config.mass,
            reg_type="kl",
        )
    )
    return plan / plan.sum(dim=1, keepdim=True) if config.normalise else plan


def _from_zero(tokens: torch.Tensor) -> torch.Tensor:
    """Return tokens as float64, each with 0 as its smallest element."""
    tokens = tokens.double()
    return tokens - tokens.amin(dim=1, keepdim=True)
