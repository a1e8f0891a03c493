"""Prototypes that pick tokens, and a bound on what vectors share."""

from typing import NamedTuple

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import normalize, one_hot, softplus


class Picked(NamedTuple):
    """The tokens that go on.

    Attributes:
        tokens: (B, M, width).
        mask: (B, M).
        kind: (B,) the prototype that most of them resemble most.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    kind: torch.Tensor


class Bottleneck(nn.Module):
    """Prototypes N(μ_k, σ_k²) of K kinds of cases, and the tokens that are nearest to one of them.

    A token's similarity to a prototype is the cosine between it and the mean of samples drawn from
    the prototype; in evaluation, its μ.
    """

    def __init__(self, kinds: int, width: int, keep: float, samples: int) -> None:
        super().__init__()
        self.keep = keep
        self.samples = samples
        self.mean = nn.Parameter(torch.randn(kinds, width))
        self.raw_deviation = nn.Parameter(torch.zeros(kinds, width))

    @property
    def variance(self) -> torch.Tensor:
        """σ² (K, width)."""
        return softplus(self.raw_deviation).square()

    def draw(self) -> torch.Tensor:
        """Return the mean of samples of each prototype (K, width)."""
        if not self.training:
            return self.mean
        # Of n samples it has the deviation σ / √n.
        return self.mean + (self.variance / self.samples).sqrt() * torch.randn_like(self.mean)

    def divergence(self) -> torch.Tensor:
        """Return KL(N(μ, σ²) ‖ N(0, 1)), the mean over the prototypes."""
        variance = self.variance
        terms = variance + self.mean.square() - 1 - variance.log()
        return terms.sum(dim=1).mean() / 2

    def similarity(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the cosines (B, N, K) of tokens (B, N, width)."""
        return normalize(tokens, dim=2) @ normalize(self.draw(), dim=1).T

    def pick(self, tokens: torch.Tensor, mask: torch.Tensor) -> Picked:
        """Keep the tokens (B, N, width) that resemble any prototype most, and let them vote."""
        similarity = self.similarity(tokens).detach()
        best, kind = similarity.max(dim=2)  # (B, N)
        count = self._count(mask)  # (B, 1)
        most = int(count.max())
        order = best.masked_fill(~mask, -2).topk(most, dim=1).indices  # (B, M)
        kept = torch.arange(most, device=mask.device) < count  # (B, M)
        each = order[:, :, None]
        votes = one_hot(kind.gather(1, order), similarity.shape[2]) * kept[:, :, None]  # (B, M, K)
        # Of kinds with equal votes the one whose voters are nearer: less than one vote in all.
        nearness = (votes * best.gather(1, order)[:, :, None]).sum(dim=1) / (2 * count + 1)
        return Picked(
            tokens.gather(1, each.expand(-1, -1, tokens.shape[2])),
            kept,
            (votes.sum(dim=1) + nearness).argmax(dim=1),
        )

    def proxy_loss(
        self, tokens: torch.Tensor, mask: torch.Tensor, kind: torch.Tensor
    ) -> torch.Tensor:
        """Return how much nearer the nearest tokens are to other prototypes than to their own."""
        similarity = self.similarity(tokens).masked_fill(~mask[:, :, None], -2)  # (B, N, K)
        count = self._count(mask)
        top = similarity.topk(int(count.max()), dim=1).values  # (B, M, K)
        kept = torch.arange(top.shape[1], device=mask.device) < count  # (B, M)
        means = (top * kept[:, :, None]).sum(dim=1) / count.clamp(min=1)  # (B, K)
        own = one_hot(kind, means.shape[1]).bool()
        others = means.masked_fill(own, 0).sum(dim=1) / (means.shape[1] - 1)
        return (others - means[own]).mean()

    def _count(self, mask: torch.Tensor) -> torch.Tensor:
        """Return how many of each case's tokens are kept (B, 1)."""
        return (self.keep * mask.sum(dim=1, keepdim=True)).ceil().long()


class Club(nn.Module):
    """The mutual information of two vectors, bounded from above by q(y | x) = N(μ(x), σ²(x)).

    With e_ij = Σ_d (y_j - μ(x_i))² / 2σ²(x_i): mean_ij e_ij - mean_i e_ii; 0 for a single pair.

    Source: Cheng et al. 2020, "CLUB: a contrastive log-ratio upper bound of mutual information",
    arXiv:2006.12013, equation 8.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = max(1, width // 2)
        self.mean = nn.Sequential(nn.Linear(width, half), nn.ReLU(), nn.Linear(half, width))
        self.log_variance = nn.Sequential(
            nn.Linear(width, half), nn.ReLU(), nn.Linear(half, width), nn.Tanh()
        )

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the bound, for x and y (B, width) to lower, and -log q(y | x), for q to lower."""
        errors = _errors(_fixed(self.mean, x), _fixed(self.log_variance, x), y)
        bound = errors.mean() - errors.diagonal().mean()
        x, y = x.detach(), y.detach()
        log_variance = self.log_variance(x)
        own = _errors(self.mean(x), log_variance, y).diagonal()
        return torch.as_tensor(bound + (own + log_variance.sum(dim=1) / 2).mean())


def _fixed(layers: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Apply layers that this use of them does not train."""
    parameters = {name: value.detach() for name, value in layers.named_parameters()}
    return torch.as_tensor(functional_call(layers, parameters, x))


def _errors(mean: torch.Tensor, log_variance: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return e_ij (B, B)."""
    gaps = (y[None] - mean[:, None]).square() / (2 * log_variance.exp()[:, None])
    return gaps.sum(dim=2)
