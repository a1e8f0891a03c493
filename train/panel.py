"""Which genes a run may use, as its panel and gene sets say, and what is fitted to them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from model.errors import ConfigError, Warn
from model.messages import some
from model.rna import FloatArray, RnaSpec, gene_values
from train.cohort import LabelledCase, outcomes, rna_records
from train.config import RnaConfig
from train.gene_sets import GeneSets, all_genes, place_gene_sets, read_gene_sets, read_panel

OUTCOME_RANK = 0.99
"""Rank correlation beyond which a column of expression is an outcome; 0.99 allows for rounding."""
LEAST_VALUES = 10
"""Of fewer cases, one of 20,000 genes may well have the order of the times by chance."""
ENOUGH_CASES = 100
"""Cases that are enough to recognise an outcome; more, of 20,000 genes, only take longer."""


def check_genes(config: RnaConfig, cases: Sequence[LabelledCase], *, warn: Warn) -> None:
    """Name genes that may be outcomes, and those of a run's panel that no case has.

    Raises:
        ConfigError: The panel or the gene sets cannot be read, or no case has a gene of the panel.
    """
    _, panel = read_genes(config)
    known: set[str] = set().union(*(record.values.keys() for record in rna_records(cases)))
    telling = _telling_genes(cases, sorted(known if panel is None else known & set(panel)))
    if telling:
        warn(
            f"{some(telling)}: expected genes, found values in the order of the cases' times or "
            "events; outcomes have no place among them"
        )
    if config.panel is None or panel is None:
        return
    unknown = [gene for gene in panel if gene not in known]
    if len(unknown) == len(panel):
        raise ConfigError(
            f"{config.panel}: expected genes that the cohort has, found only others: "
            f"{some(unknown)}"
        )
    if unknown:
        warn(
            f"{config.panel}: {len(unknown):,} of {len(panel):,} genes are in no case of the "
            f"cohort: {some(unknown)}"
        )


def _telling_genes(cases: Sequence[LabelledCase], genes: Sequence[str]) -> list[str]:
    """Return the genes whose values rank the cases as their times or events do, or the reverse."""
    if not genes:
        return []
    measured = sorted((c for c in cases if c.case.rna is not None), key=lambda case: case.time)
    some_cases = measured[:: math.ceil(len(measured) / ENOUGH_CASES)]  # from early to late
    records = rna_records(some_cases)
    values = np.stack([gene_values(record.values, genes, "log") for record in records])
    outcome = outcomes(some_cases)
    ranks = [np.abs(_rank_correlation(values, truth)) for truth in (outcome.time, outcome.event)]
    telling = np.maximum(*ranks) > OUTCOME_RANK
    known = np.isfinite(values).sum(axis=0) >= LEAST_VALUES
    return [genes[place] for place in np.flatnonzero(telling & known).tolist()]


def _rank_correlation(values: FloatArray, truth: npt.NDArray[Any]) -> FloatArray:
    """Return Spearman's correlation of each column (n, G) with a vector (n,) over its values.

    It is NaN for a column of equal values, or of none.
    """
    truths = np.where(np.isfinite(values), truth[:, None], np.nan)
    ranks, true_ranks = (pd.DataFrame(table).rank() for table in (values, truths))
    correlation: FloatArray = ranks.corrwith(true_ranks).to_numpy()
    return correlation


def read_genes(config: RnaConfig) -> tuple[GeneSets, tuple[str, ...] | None]:
    """Return a run's gene sets, none where no file is named, and its panel, None for all genes.

    Raises:
        ConfigError: The panel or the gene sets cannot be read.
    """
    sets = read_gene_sets(config.gene_sets) if config.gene_sets else {}
    if config.panel is not None:
        return sets, tuple(read_panel(config.panel))
    return sets, tuple(all_genes(sets)) or None


def fit_rna(
    cases: Sequence[LabelledCase], config: RnaConfig
) -> tuple[RnaSpec, dict[str, tuple[int, ...]]]:
    """Fit the RNA's preprocessing; return with it where the gene sets' genes are in its order.

    Raises:
        ConfigError: No case has RNA, or the genes of the panel or the gene sets.
    """
    sets, panel = read_genes(config)
    rna = RnaSpec.fit(
        rna_records(cases),
        scale=config.scale,
        panel=panel,
        top_variance=config.top_variance,
        max_missing=config.max_missing,
    )
    return rna, place_gene_sets(sets, rna.genes, config.min_genes_per_set) if sets else {}
