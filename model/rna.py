"""Bulk RNA-seq: a dict of gene symbol → expression becomes one standardised vector."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from model.case import Record
from model.cells import to_number
from model.errors import CaseError, ConfigError, Warn
from model.messages import some

FloatArray = npt.NDArray[np.float64]
Scale = Literal["log", "linear"]

CLIP_SD = 10.0
"""Standardised values are cut here: one absurd gene must not carry the prediction."""

MOST_RMS_SD = 3.5
"""How far a sample's genes may be off their training means, root mean square, without a word.

For training samples it is 1 on average. Of 1,013 samples of TCGA (BLCA, COADREAD, STAD; log2, 1,577
genes) that a fit had not seen, none was beyond, the farthest at 3.35; with log10 for log2, or 4
taken off, all were, the nearest at 3.90. Of PORPOISE's 2,464 z-scored samples of five tumours none
was, the farthest at 2.9. Genes that vary much hide a wrong scale: the 200 that vary most tell none.
"""


@dataclass(frozen=True)
class RnaSpec:
    """Gene order and transform, fitted on training cases and kept in the bundle.

    Attributes:
        genes: The G symbols, in the model's order.
        scale: Of the input: "log" is used as it is (CHIMERA), "linear" (counts, TPM) gets log1p.
        mean: (G,) training mean on the log scale; what a missing gene becomes.
        sd: (G,) training standard deviation.
        max_missing: Share of the genes that may be missing in a case.
    """

    genes: tuple[str, ...]
    scale: Scale
    mean: FloatArray
    sd: FloatArray
    max_missing: float = 0.01

    @classmethod
    def fit(
        cls,
        records: Sequence[Record],
        *,
        scale: Scale,
        panel: Sequence[str] | None = None,
        top_variance: int | None = None,
        max_missing: float = 0.01,
    ) -> "RnaSpec":
        """Fit gene order, means and standard deviations on training records.

        Args:
            records: One a training case that has RNA.
            scale: Scale of the values as they are in the files.
            panel: Genes to keep; all genes of the records when None.
            top_variance: Keep this many genes with the largest variance on the log scale.
            max_missing: Share of missing genes that a case may have when it is scored.

        Raises:
            ConfigError: There are no records, or no gene of the panel is known in them.
        """
        if not records:
            raise ConfigError("RNA: expected at least one training case with RNA, found none")
        known = sorted(set().union(*(record.values.keys() for record in records)))
        if panel is not None:
            known = sorted(set(panel) & set(known))
        if not known:
            raise ConfigError("RNA: expected genes of the panel in the training data, found none")
        values = np.stack([gene_values(record.values, known, scale) for record in records])
        present = ~np.isnan(values)
        # A gene that most training cases lack has no usable mean.
        common = present.mean(axis=0) >= 0.5
        genes = np.array(known)[common]
        values = values[:, common]
        mean, sd = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
        varies = sd > 1e-6
        genes, mean, sd = genes[varies], mean[varies], sd[varies]
        if not len(genes):
            raise ConfigError("RNA: expected genes that vary between training cases, found none")
        if top_variance is not None and top_variance < len(genes):
            keep = np.sort(np.argsort(-sd, kind="stable")[:top_variance])
            genes, mean, sd = genes[keep], mean[keep], sd[keep]
        return cls(tuple(genes.tolist()), scale, mean, sd, max_missing)

    def apply(self, record: Record, *, warn: Warn) -> npt.NDArray[np.float32]:
        """Return a case's standardised vector (G,); missing genes get the training mean.

        Raises:
            CaseError: More genes are missing, or not finite, than `max_missing` allows.
        """
        values = gene_values(record.values, self.genes, self.scale)
        missing = np.isnan(values)
        # 0.29 of 100 is 28.999… in floating point.
        count, limit = int(missing.sum()), int(self.max_missing * len(self.genes) + 1e-9)
        if count:
            names = some([gene for gene, gone in zip(self.genes, missing, strict=True) if gone])
            if count > limit:
                raise CaseError(
                    record.source,
                    expected=f"at most {limit} of {len(self.genes):,} genes missing",
                    found=f"{count:,} missing: {names}",
                )
            warn(f"{record.source}: {count} genes set to the training mean: {names}")
        standard = (np.where(missing, self.mean, values) - self.mean) / self.sd
        self._check_profile(values[~missing], standard[~missing], record.source, warn=warn)
        return np.clip(standard, -CLIP_SD, CLIP_SD).astype(np.float32)

    def _check_profile(
        self, values: FloatArray, standard: FloatArray, source: Path, *, warn: Warn
    ) -> None:
        """Warn where the known genes' values (K,), both ways, are unlike any as a whole."""
        far = int((np.abs(standard) > CLIP_SD).sum())
        clipped = np.clip(standard, -CLIP_SD, CLIP_SD)
        rms = float(np.linalg.norm(clipped) / np.sqrt(max(len(clipped), 1)))
        if len(values) > 1 and np.ptp(values) == 0:
            warn(f"{source}: expected values that differ between genes, found the same for all")
        elif far > self.max_missing * len(self.genes):
            warn(
                f"{source}: {far:,} of {len(self.genes):,} genes lie more than "
                f"{CLIP_SD:g} sd from training; is the scale {self.scale!r} right?"
            )
        elif rms > MOST_RMS_SD:
            warn(
                f"{source}: genes lie {rms:.1f} sd from training, root mean square; "
                f"is the scale {self.scale!r} right?"
            )


def gene_values(
    record: Mapping[str, object], genes: Sequence[str], scale: Scale
) -> npt.NDArray[np.float64]:
    """Return the genes' values on the log scale (G,), NaN where missing or not finite."""
    found = [record.get(gene) for gene in genes]
    try:
        # Nearly always; ten times as fast as one by one. Text has its own rules.
        values = np.array([] if str in map(type, found) else found, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.array([])
    if values.shape != (len(genes),):
        values = np.array([_number(value) for value in found])
    if scale == "linear":
        values = np.log1p(np.where(values < 0, np.nan, values))
    values[~np.isfinite(values)] = np.nan
    return values


def _number(value: object) -> float:
    return to_number(value) if isinstance(value, int | float | str) else float("nan")
