"""Whether a case's embeddings are like those of the training cohort. No prediction depends on it.

The mean embeddings of a cohort's cases differ along a few axes, as slides hold more or less tumour
or stroma. Another stain, scanner or resolution leads off these axes, and so do patches of nothing.
A distance off the axes tells them apart better than one from the mean in standard deviations: in
that one, such slides hide behind what varies between patients anyway.

Source: the distance is the Q statistic (squared prediction error) of process control, Jackson and
Mudholkar, Control Procedures for Residuals Associated With Principal Component Analysis,
Technometrics 1979; its limit is empirical here, as embeddings are not normal.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model.errors import Warn

FloatArray = npt.NDArray[np.float64]

AXES = 20
PARTS = 10
"""Each tenth of the cases is measured by a plane of the others, or it would seem too near."""

SLACK = 1.5
"""How many times the greatest training distance is still no reason to warn.

Among n + 1 cases of one kind each is the farthest with the same chance, so a limit at the greatest
of n would warn of one new case in n + 1 for nothing. Of the simulated cases that a range of 13 to
150 others had not seen, at most 2 % were beyond 1 and 0.1 % beyond 1.5. Slides of 50 patches were
at 1.6 to 1.9 with a blue cast, at 1.9 to 2.8 inverted, at 3.3 to 4.2 with twice or half the
resolution, at 4.5 to 5.4 without eosin and at 5.8 when blank.
"""


@dataclass(frozen=True)
class EmbeddingRange:
    """Where the training cases' mean embeddings lie.

    A case's distance is how far its mean is off the plane of the axes, over what is usual for so
    many patches: the mean of fewer patches is farther off by chance.

    Attributes:
        mean: (D,) of the cases.
        axes: (K, D) orthonormal, those along which the cases differ most.
        spread: How far cases are off the plane: root mean square over them and D.
        noise: How far patches are, in the same way, from their own case.
        patches: Of a training case, harmonic mean.
        reach: Greatest distance of a training case.
    """

    mean: FloatArray
    axes: FloatArray
    spread: float
    noise: float
    patches: float
    reach: float

    @classmethod
    def fit(cls, bags: Iterable[torch.Tensor]) -> "EmbeddingRange | None":
        """Fit to training cases; None where they are too few, or all the same.

        Args:
            bags: (N, D) of each case; gone through twice, so that none need stay in memory.
        """
        cases = [(_mean(bag), len(bag)) for bag in bags]
        if len(cases) < PARTS:
            return None
        means, counts = np.stack([mean for mean, _ in cases]), np.array([n for _, n in cases])
        off = _off_left_out(means)
        spread = _rms(off)
        if spread == 0:
            return None
        mean, axes = _plane(means)
        variances = [_variance(bag, axes) for bag in bags if len(bag) > 1]
        noise = float(np.sqrt(np.mean(variances))) if variances else 0.0
        patches = float(1 / np.mean(1 / counts))
        unit = cls(mean, axes, spread, noise, patches, reach=1.0)
        distances = [o / unit.usual(n) for o, n in zip(off.tolist(), counts.tolist(), strict=True)]
        return cls(mean, axes, spread, noise, patches, reach=max(distances))

    def usual(self, patches: int) -> float:
        """Return how far a training case of so many patches would usually be off the plane."""
        fewer = max(0.0, 1 / patches - 1 / self.patches)
        return float(np.sqrt(self.spread**2 + self.noise**2 * fewer))

    def distance(self, bag: torch.Tensor) -> float:
        """Return the distance of a bag (N, D), in that of the farthest training case."""
        off = _rms(_off(_mean(bag) - self.mean, self.axes))
        return off / self.usual(len(bag)) / self.reach

    def check(self, bag: torch.Tensor, *, warn: Warn) -> None:
        """Warn of a bag (N, D) that is farther off than chance explains."""
        distance = self.distance(bag)
        if distance > SLACK:
            warn(
                f"slide: embeddings are {distance:.1f} times as far from the training cohort's as "
                "any of its own cases; another stain, scanner or resolution?"
            )

    def to_arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return every field as an array; numbers have shape ()."""
        return {name: np.array(value, dtype=np.float32) for name, value in asdict(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "EmbeddingRange":
        """Rebuild what `to_arrays` took apart.

        Raises:
            KeyError: An array is absent.
            ValueError: The arrays do not fit each other.
        """
        mean, axes = (np.asarray(arrays[name], dtype=np.float64) for name in ("mean", "axes"))
        if axes.ndim != 2 or mean.shape != axes.shape[1:]:
            raise ValueError(f"axes {axes.shape} for a mean embedding {mean.shape}")
        scales = {name: float(arrays[name]) for name in ("spread", "noise", "patches", "reach")}
        return cls(mean, axes, **scales)


def _mean(bag: torch.Tensor) -> FloatArray:
    """Return the mean of a bag (N, D) → (D,)."""
    mean: FloatArray = bag.mean(dim=0, dtype=torch.float64).cpu().numpy()
    return mean


def _plane(means: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the mean of cases (n, D) → (D,), and the axes (K, D) along which they differ most."""
    mean = means.mean(axis=0)
    kept = min(AXES, *(size // 2 for size in means.shape))
    axes = np.linalg.svd(means - mean, full_matrices=False)[2][:kept]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    # The last digits and the signs depend on the number of threads, and bundles are to be equal.
    return mean, np.round(axes * np.sign(largest), 5)


def _off(centred: FloatArray, axes: FloatArray) -> FloatArray:
    """Return what of vectors (..., D) the axes (K, D) do not reach."""
    return centred - (centred @ axes.T) @ axes


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _off_left_out(means: FloatArray) -> FloatArray:
    """Return how far each of n cases (n, D) is off a plane that was fitted without it (n,)."""
    off = np.empty(len(means))
    part = np.arange(len(means)) % PARTS
    for number in range(PARTS):
        mean, axes = _plane(means[part != number])
        off[part == number] = [_rms(_off(row - mean, axes)) for row in means[part == number]]
    return off


def _variance(bag: torch.Tensor, axes: FloatArray) -> float:
    """Return the variance of a bag's patches (N, D) off the plane, mean over D."""
    centred = bag - bag.mean(dim=0)
    along = centred @ torch.from_numpy(axes).to(centred).T  # (N, K)
    off = centred.square().sum(dtype=torch.float64) - along.square().sum(dtype=torch.float64)
    return max(0.0, float(off)) / ((len(bag) - 1) * bag.shape[1])
