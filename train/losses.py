"""Survival losses in log space: Cox's partial likelihood, the discrete-time likelihood."""

from bisect import bisect_left
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.errors import ConfigError
from model.survival import log_survival

Ties = Literal["efron", "breslow"]


def cox_nll(
    log_hazard: Tensor,
    *,
    event: Tensor,
    time: Tensor,
    strata: Tensor | None = None,
    ties: Ties = "efron",
) -> Tensor:
    """Return the negative log partial likelihood divided by the number of events, float64.

    Per distinct event time, with R = Σ e^h over those at risk, D = Σ e^h over its m events:
    Breslow's term is Σ h - m log R, Efron's is Σ h - Σ_{r<m} log(R - r/m D).
    Without events it is 0, with a gradient of 0.

    Args:
        log_hazard: (n,) or (n, 1); other shapes are read row by row.
        event: (n,) bool, True = observed.
        time: (n,), any unit; only the order and the ties count.
        strata: (n,) integers; risk sets never cross two of them.
        ties: What to do with several events at one time.

    Source: Efron 1977, The efficiency of Cox's likelihood function for censored data.
    """
    h, event, time = log_hazard.reshape(-1).double(), event.reshape(-1).bool(), time.reshape(-1)
    strata = torch.zeros_like(event) if strata is None else strata.reshape(-1)
    total = 0 * h.sum()
    for stratum in sorted(set(strata.tolist())):
        rows = strata == stratum
        total = total + _cox_terms(h[rows], event[rows], time[rows], ties)
    return total / event.sum().clamp(min=1)


def _cox_terms(h: Tensor, event: Tensor, time: Tensor, ties: Ties) -> Tensor:
    """Return the summed negative log partial likelihood of one stratum."""
    order = torch.argsort(time, descending=True, stable=True)
    h, event = h[order], event[order]
    group = _runs(time[order])
    # At risk at a time: all rows up to the last one of its group.
    log_at_risk = h.logcumsumexp(dim=0)[group.bincount().cumsum(0) - 1][group[event]]

    h, group = h[event], _runs(group[event])
    terms = log_at_risk - h
    if ties == "efron" and len(h):
        events = group.bincount()
        before = torch.arange(len(h), device=h.device) - (events.cumsum(0) - events)[group]
        taken = before.double() / events[group]  # r/m; of integers it would be float32
        # As D ≤ R, log(R - r/m D) = log R + log1p(-r/m e^(log D - log R)) cannot overflow.
        share = (_logsumexp_by(group, h)[group] - log_at_risk).exp()
        terms = terms + torch.log1p(-taken * share)
    return terms.sum()


def _runs(values: Tensor) -> Tensor:
    """Number the runs of equal neighbours: (n,) → (n,), 0, 1, ..."""
    changes = (values[1:] != values[:-1]).long().cumsum(0)
    return pad(changes, (1, 0))[: len(values)]


def _logsumexp_by(group: Tensor, values: Tensor) -> Tensor:
    """Return the log-sum-exp of the values of each group 0, 1, ..., none of them empty."""
    top = values.new_full((int(group[-1]) + 1,), -torch.inf)
    top = top.scatter_reduce(0, group, values.detach(), "amax")
    return torch.zeros_like(top).index_add(0, group, (values - top[group]).exp()).log() + top


def discrete_nll(logits: Tensor, *, event: Tensor, bin: Tensor, alpha: float) -> Tensor:
    """Return the mean discrete-time negative log-likelihood of (B, T) logits, float64.

    With k the case's bin: -[log S(k-1) + log h(k)] for an event, -(1 - alpha) log S(k) for a
    censored case. alpha > 0 makes the censored count less.

    Args:
        logits: (B, T) of the hazards.
        event: (B,) bool.
        bin: (B,) int64, 0 … T-1, from `to_bin`.
        alpha: Between 0 (the plain likelihood) and 1 (events only).

    Source: Zadeh and Schmid 2021, Bias in cross-entropy-based training of deep survival networks.
    """
    logits, at = logits.double(), bin[:, None]
    log_s = log_survival(logits)  # (B, T)
    survived = log_s.gather(1, at).squeeze(1)
    # log S(k-1) + log h(k) = log S(k) - log(1 - h(k)) + log h(k) = log S(k) + logit(k)
    died = survived + logits.gather(1, at).squeeze(1)
    return -torch.where(event.bool(), died, (1 - alpha) * survived).mean()


def fit_bins(*, event: Tensor, time: Tensor, n_bins: int) -> Tensor:
    """Return the inner edges (n_bins - 1,) of bins that hold equally many training events.

    Where ties would leave a bin without events, its edge moves to the next event time.

    Raises:
        ConfigError: There are fewer distinct event times than bins.
    """
    observed = time[event.bool()].double()
    times = sorted(set(observed.tolist()))
    if len(times) < n_bins:
        raise ConfigError(
            f"time bins: expected at least {n_bins} distinct event times, one for each bin, found "
            f"{len(times)} among {len(observed)} events of a training fold; use fewer (fit.bins)"
        )
    at = torch.arange(1, n_bins, dtype=torch.float64, device=time.device) / n_bins
    edges = observed.quantile(at)
    first = 0  # where the bin before the edge starts in `times`
    for index, edge in enumerate(edges.tolist()):
        wanted = bisect_left(times, edge)
        to_come = n_bins - 1 - index  # bins after the edge, each with a time of its own
        first = min(max(wanted, first + 1), len(times) - to_come)
        if first != wanted:
            edges[index] = times[first]
    return edges


def to_bin(time: Tensor, edges: Tensor) -> Tensor:
    """Return the bin (n,) of each time, 0 … len(edges); bin k is [edges[k-1], edges[k])."""
    return torch.bucketize(time.double(), edges, right=True)
