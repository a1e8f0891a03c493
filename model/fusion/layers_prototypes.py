"""Clusters of patches: k-means, and PANTHER's mixture around prototypes."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch.nn.functional import one_hot

STARTS = 3
"""How often k-means over a training fold starts anew; the tightest clusters are kept."""


class Clusters(NamedTuple):
    """K clusters of N patches.

    Attributes:
        centres: (K, D) mean of each cluster's patches; where it has none, where it started.
        members: (N,) each patch's cluster.
    """

    centres: torch.Tensor
    members: torch.Tensor


@torch.no_grad()
def k_means(patches: torch.Tensor, centres: torch.Tensor, rounds: int) -> Clusters:
    """Move centres (K, D) to the means of the patches (N, D) nearest to them, till none moves."""
    with torch.autocast(patches.device.type, enabled=False):
        members = nearest(patches, centres)
        for _ in range(rounds):
            belongs = one_hot(members, len(centres)).to(patches)  # (N, K)
            sizes = belongs.sum(dim=0)[:, None]  # (K, 1)
            centres = torch.where(sizes > 0, belongs.T @ patches / sizes.clamp(min=1), centres)
            before, members = members, nearest(patches, centres)
            if members.equal(before):
                break
    return Clusters(centres, members)


def nearest(patches: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Return the nearest centre (N,): |x - c|² is smallest where x·c - |c|²/2 is largest."""
    return (patches @ centres.T - centres.square().sum(dim=1) / 2).argmax(dim=1)


@torch.no_grad()
def fit_prototypes(bags: Iterable[torch.Tensor], count: int, most: int) -> torch.Tensor:
    """Return prototypes (count, D): the k-means centres of patches drawn from all bags (N, D).

    About `most` patches for each prototype are drawn, evenly from the bags; where they have no
    more, all are taken. The draw is seeded, so the same bags give the same prototypes.
    """
    draw = torch.Generator().manual_seed(0)
    share = -(-most * count // sum(1 for _ in bags))
    patches = torch.cat([_draw(bag, share, draw).float() for bag in bags])
    middle = patches.mean(dim=0)
    patches -= middle  # products of small numbers lose less than those of large ones
    fits = [k_means(patches, _scatter(patches, count, draw), rounds=50) for _ in range(STARTS)]
    spreads = [(patches - fit.centres[fit.members]).square().sum().item() for fit in fits]
    return fits[spreads.index(min(spreads))].centres + middle


def _draw(bag: torch.Tensor, most: int, draw: torch.Generator) -> torch.Tensor:
    """Return up to `most` patches of a bag (N, D)."""
    return bag[torch.randperm(len(bag), generator=draw)[:most]]


def _scatter(patches: torch.Tensor, count: int, draw: torch.Generator) -> torch.Tensor:
    """Draw starting centres (count, D), each with probability ∝ its squared gap to those before.

    Source: Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding".
    """
    first = torch.randint(len(patches), (1,), generator=draw)
    centres = patches[first]
    gaps = (patches - centres).square().sum(dim=1)  # (N,)
    while len(centres) < count:
        # Where all patches are centres already, one of them serves twice.
        weights = gaps if gaps.any() else torch.ones_like(gaps)
        chosen = patches[torch.multinomial(weights, 1, generator=draw)]
        centres = torch.cat([centres, chosen])
        gaps = torch.minimum(gaps, (patches - chosen).square().sum(dim=1))
    return centres


class Mixture(NamedTuple):
    """A Gaussian mixture of K components with diagonal covariance, for each of B bags.

    Attributes:
        share: (B, K) the weights π, which sum to 1.
        mean: (B, K, D).
        variance: (B, K, D).
        belongs: (B, N, K) each patch's responsibilities, which sum to 1; 0 on padding.
    """

    share: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor
    belongs: torch.Tensor


def fit_mixture(bag: torch.Tensor, mask: torch.Tensor, prototypes: torch.Tensor) -> Mixture:
    """Fit a mixture to each bag (B, N, D) by one step of EM from the prototypes m (K, D).

    It starts at equal shares, means m and variances 1, which are its prior, of weight τ = 1, too.
    With q_nk = softmax_k(-|x_n - m_k|² / 2) and n_k = Σ_n q_nk:
    π_k = (n_k + τ) / Σ_j (n_j + τ), μ_k = (Σ_n q_nk x_n + τ m_k) / (n_k + τ) and
    σ²_k = (Σ_n q_nk x_n² + τ (1 + m_k²)) / (n_k + τ) - μ_k².

    Source: Song et al. 2024, "Morphological prototyping for unsupervised slide representation
    learning in computational pathology" (PANTHER), arXiv:2405.11643.
    """
    # In float32, as a variance is a small difference of large numbers.
    with torch.autocast(bag.device.type, enabled=False):
        scores = bag @ prototypes.T - prototypes.square().sum(dim=1) / 2  # (B, N, K)
        belongs = torch.softmax(scores, dim=2) * mask[:, :, None]
        patches = torch.where(mask[:, :, None], bag, 0)  # (B, N, D)
        sizes = belongs.sum(dim=1) + 1  # (B, K), with the prior's τ
        first = belongs.transpose(1, 2) @ patches + prototypes  # (B, K, D)
        second = belongs.transpose(1, 2) @ patches.square() + 1 + prototypes.square()
    mean = first / sizes[:, :, None]
    variance = second / sizes[:, :, None] - mean.square()
    return Mixture(sizes / sizes.sum(dim=1, keepdim=True), mean, variance, belongs)
