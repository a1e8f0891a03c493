"""DeepAttnMISL: slides alone, their patches grouped into phenotypes, the phenotypes weighed."""

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import one_hot

from model.batch import Batch, Dims
from model.fusion.base import Fusion
from model.fusion.layers import OneStandIn
from model.fusion.layers_inputs import SlideConfig
from model.fusion.layers_prototypes import k_means

MOST_ROUNDS = 30


class DeepattnmislConfig(SlideConfig):
    """Widths as published.

    Attributes:
        phenotypes: Clusters of each case's patches.
        width: Of a patch's projection, and so of a phenotype.
        hidden: Width inside the attention and of the layer before the output.
    """

    phenotypes: int = Field(default=10, gt=0)
    width: int = Field(default=64, gt=0)
    hidden: int = Field(default=32, gt=0)
    dropout: float = Field(default=0.5, ge=0, lt=1)


class Deepattnmisl(Fusion):
    """logits = MLP(Σ_k A_k p_k), where p_k = the mean of ReLU(W x_n) over the patches of cluster k.

    A = softmax over the clusters that have patches of w·tanh(V p_k).

    Source: Yao et al. 2020. The clusters are found anew in each bag, so nothing is kept between
    training and use; they have no names, as cluster 3 of one case is not cluster 3 of another.
    """

    Config = DeepattnmislConfig
    PAPER = (
        'Yao et al. 2020, "Whole slide images based cancer survival prediction using attention '
        'guided deep multiple instance learning networks", arXiv:2009.11169'
    )
    CODE = "uta-smile/DeepAttnMISL, no licence"

    def __init__(self, config: DeepattnmislConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.phenotypes = config.phenotypes
        self.project = nn.Sequential(nn.Linear(dims.embedding, config.width), nn.ReLU())
        self.value = nn.Sequential(nn.Linear(config.width, config.hidden), nn.Tanh())
        self.score = nn.Linear(config.hidden, 1)
        self.stand_ins = OneStandIn("slide", config.width, config.optional)
        self.head = nn.Sequential(
            nn.Linear(config.width, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, dims.outputs),
        )

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, T)."""
        pooled, _ = self._pool(batch)
        logits: torch.Tensor = self.head(self.stand_ins(pooled, batch))
        return logits

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return the weight of each patch (B, N): its cluster's, shared evenly."""
        return self._pool(batch)[1]

    def _pool(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the pooled vectors (B, width) and each patch's weight (B, N)."""
        share = _shares(batch, self.phenotypes)  # (B, N, K)
        clusters = share.transpose(1, 2) @ self.project(batch.bag)  # (B, K, width)
        scores = self.score(self.value(clusters)).squeeze(-1)  # (B, K)
        filled = share.sum(dim=1) > 0
        lowest = torch.finfo(scores.dtype).min
        weights = torch.softmax(scores.masked_fill(~filled, lowest), dim=1) * filled
        pooled = torch.einsum("bk,bkw->bw", weights, clusters)
        return pooled, torch.einsum("bnk,bk->bn", share, weights)


def _shares(batch: Batch, phenotypes: int) -> torch.Tensor:
    """Return (B, N, K): 1 / size of the cluster for its own patches, 0 for all others."""
    shares = torch.zeros(*batch.mask.shape, phenotypes, device=batch.bag.device)
    for share, bag, mask in zip(shares, batch.bag, batch.mask, strict=True):
        members = one_hot(find_phenotypes(bag[mask], phenotypes), phenotypes).float()
        share[mask] = members / members.sum(dim=0).clamp(min=1)
    return shares


@torch.no_grad()
def find_phenotypes(bag: torch.Tensor, phenotypes: int) -> torch.Tensor:
    """Return the cluster (N,) of each patch by k-means, 0 … phenotypes - 1; some may be empty.

    Nothing is drawn: the first centre is the patch farthest from the mean, each next one the patch
    farthest from all centres so far. So the clusters do not depend on the order of the patches.
    """
    if len(bag) == 0:
        return torch.zeros(0, dtype=torch.int64, device=bag.device)
    bag = bag - bag.mean(dim=0)  # products of small numbers lose less than those of large ones
    return k_means(bag, _farthest(bag, phenotypes), MOST_ROUNDS).members


def _farthest(bag: torch.Tensor, most: int) -> torch.Tensor:
    """Return up to `most` patches (K, D) of a bag that lie far from its mean, 0, and each other."""
    lengths = bag.square().sum(dim=1)
    gaps = lengths  # (N,) squared distance to the mean, then to the nearest centre
    centres: list[torch.Tensor] = []
    for _ in range(min(most, len(bag))):
        farthest = gaps.argmax()
        to_centre = lengths - 2 * (bag @ bag[farthest]) + lengths[farthest]
        gaps = torch.minimum(gaps, to_centre) if centres else to_centre
        centres.append(bag[farthest])
    return torch.stack(centres)
