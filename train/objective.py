"""The loss of a run: Cox's over a risk set, or the discrete-time likelihood over bins."""

from dataclasses import dataclass

import torch

from train.config import FitConfig
from train.dataset import Fold
from train.losses import cox_nll, discrete_nll, fit_bins, to_bin


@dataclass(frozen=True)
class Objective:
    """A loss with what it takes from the training fold.

    Attributes:
        edges: Inner edges of the time bins, fitted on the training fold; None for Cox.
    """

    config: FitConfig
    edges: torch.Tensor | None

    @classmethod
    def fit(cls, fold: Fold, config: FitConfig) -> "Objective":
        """Fit the time bins, where the loss has some.

        Raises:
            ConfigError: The fold has too few distinct event times for the bins.
        """
        if config.loss == "cox":
            return cls(config, None)
        return cls(config, fit_bins(event=fold.event, time=fold.time, n_bins=config.bins))

    def __call__(self, logits: torch.Tensor, fold: Fold, rows: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits (b, T) of these rows of a fold."""
        event, time = fold.event[rows].to(logits.device), fold.time[rows].to(logits.device)
        if self.edges is None:
            strata = fold.strata[rows].to(logits.device)
            return cox_nll(logits, event=event, time=time, strata=strata, ties=self.config.ties)
        bins = to_bin(time, self.edges.to(time.device))
        return discrete_nll(logits, event=event, bin=bins, alpha=self.config.alpha)
