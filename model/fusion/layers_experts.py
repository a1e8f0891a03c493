"""Experts that tell one modality's tokens of another's, and the router that picks one."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import gelu

from model.fusion.layers import snn
from model.fusion.layers_attention import masked_mean
from model.fusion.layers_nystrom import NystromLayer

Attention = Callable[[nn.Module], NystromLayer]
"""Builds a layer of attention around a normalisation."""


EXPERTS = 4


class Tokens(NamedTuple):
    """One modality of B cases; its real tokens come first.

    Attributes:
        values: (B, L, width).
        mask: (B, L).
    """

    values: torch.Tensor
    mask: torch.Tensor

    def of(self, cases: torch.Tensor) -> "Tokens":
        """Return the tokens of some cases."""
        return Tokens(self.values[cases], self.mask[cases])

    def then(self, others: "Tokens") -> "Tokens":
        """Return these and the others as one sequence."""
        return Tokens(
            torch.cat([self.values, others.values], dim=1),
            torch.cat([self.mask, others.mask], dim=1),
        )


class RmsNorm(nn.RMSNorm):
    """x / √(mean x² + 10⁻⁶), scaled; in the weights' precision, whatever that of x."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (…, width)."""
        return super().forward(x.to(self.weight.dtype))


class Joined(nn.Module):
    """Attention among both modalities; the tokens without padding come first."""

    def __init__(self, width: int, attention: Attention, *, own_first: bool) -> None:
        super().__init__()
        self.own_first = own_first
        self.attend = attention(RmsNorm(width))

    def forward(self, own: Tokens, other: Tokens) -> torch.Tensor:
        """Return own values (B, L, width)."""
        both = own.then(other) if self.own_first else other.then(own)
        seen: torch.Tensor = self.attend(*both)
        length = own.values.shape[1]
        return seen[:, :length] if self.own_first else seen[:, -length:]


class Narrow(nn.Module):
    """Attention among one modality and a few tokens that have attended to the other."""

    def __init__(self, width: int, bottlenecks: int, attention: Attention) -> None:
        super().__init__()
        self.bottleneck = nn.Parameter(torch.rand(bottlenecks, width))
        self.distil = attention(nn.LayerNorm(width))
        self.attend = attention(nn.LayerNorm(width))

    def forward(self, own: Tokens, other: Tokens) -> torch.Tensor:
        """Return own values (B, L, width)."""
        count = len(self.bottleneck)
        bottleneck = shared(self.bottleneck, len(own.mask))
        distilled = self.distil(*bottleneck.then(other))[:, :count]
        seen: torch.Tensor = self.attend(*Tokens(distilled, bottleneck.mask).then(own))
        return seen[:, count:]


class Added(nn.Module):
    """SNN(RMS(own)) + mean SNN(RMS(other))."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.own = nn.Sequential(RmsNorm(width), *snn((width, width), dropout))
        self.other = nn.Sequential(RmsNorm(width), *snn((width, width), dropout))

    def forward(self, own: Tokens, other: Tokens) -> torch.Tensor:
        """Return own values (B, L, width)."""
        mean = masked_mean(self.other(other.values), other.mask)  # (B, width)
        added: torch.Tensor = self.own(own.values) + mean[:, None]
        return added


class Alone(nn.Module):
    """Own tokens as they are."""

    def forward(self, own: Tokens, other: Tokens) -> torch.Tensor:
        """Return own values (B, L, width)."""
        return own.values


class Router(nn.Module):
    """W (mean GELU(RMS(W_1 own)) + mean GELU(RMS(W_2 other)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own = nn.Sequential(nn.Linear(width, width), RmsNorm(width))
        self.other = nn.Sequential(nn.Linear(width, width), RmsNorm(width))
        self.choose = nn.Linear(width, EXPERTS)

    def forward(self, own: Tokens, other: Tokens) -> torch.Tensor:
        """Return the score of each expert (B, E)."""
        scores: torch.Tensor = self.choose(
            masked_mean(gelu(self.own(own.values)), own.mask)
            + masked_mean(gelu(self.other(other.values)), other.mask)
        )
        return scores


class ExpertLayer(nn.Module):
    """One expert of four for each case, the one that a router scores highest.

    In training Gumbel's noise joins the scores. The gradient is that of the experts' mean, weighed
    by the softmax of the scores, so that it reaches the router, and experts that were not chosen.
    """

    def __init__(
        self,
        width: int,
        bottlenecks: int,
        attention: Attention,
        dropout: float,
        *,
        own_first: bool,
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            [
                Joined(width, attention, own_first=own_first),
                Narrow(width, bottlenecks, attention),
                Added(width, dropout),
                Alone(),
            ]
        )

    def forward(self, own: Tokens, other: Tokens, scores: torch.Tensor) -> Tokens:
        """Return own tokens, told of the other modality by the expert of the best score (B, E)."""
        if self.training:
            scores = scores - torch.empty_like(scores).exponential_().log()
        chosen = scores.argmax(dim=1)
        if not (self.training or torch.is_grad_enabled()):
            return Tokens(self._chosen(chosen, own, other), own.mask)
        seen = torch.stack([expert(own, other) for expert in self.experts])  # (E, B, L, width)
        hard = seen[chosen, torch.arange(len(chosen), device=chosen.device)]
        soft = torch.einsum("be,eblw->blw", scores.softmax(dim=1), seen)
        return Tokens(hard.detach() + (soft - soft.detach()), own.mask)

    def _chosen(self, chosen: torch.Tensor, own: Tokens, other: Tokens) -> torch.Tensor:
        """Return own values (B, L, width), each case's from its expert alone."""
        values = torch.empty_like(own.values)
        for index, expert in enumerate(self.experts):
            cases = chosen == index
            if cases.any():
                values[cases] = expert(own.of(cases), other.of(cases)).to(values)
        return values


def all_real(values: torch.Tensor) -> Tokens:
    """Return tokens (B, L, width) without padding."""
    return Tokens(values, torch.ones_like(values[:, :, 0], dtype=torch.bool))


def shared(values: torch.Tensor, cases: int) -> Tokens:
    """Return the same tokens (L, width) for each case."""
    return all_real(values.expand(cases, -1, -1))
