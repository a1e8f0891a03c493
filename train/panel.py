"""Which genes a run may use, as its panel and gene sets say, and what is fitted to them."""

from collections.abc import Sequence

from model.errors import ConfigError, Warn
from model.messages import some
from model.rna import RnaSpec
from train.cohort import LabelledCase, rna_records
from train.config import RnaConfig
from train.gene_sets import GeneSets, all_genes, place_gene_sets, read_gene_sets, read_panel


def check_genes(config: RnaConfig, cases: Sequence[LabelledCase], *, warn: Warn) -> None:
    """Name the genes of a run's panel that no case has, before a fold does without them.

    Raises:
        ConfigError: The panel or the gene sets cannot be read, or no case has a gene of the panel.
    """
    _, panel = read_genes(config)
    if config.panel is None or panel is None:
        return
    records = rna_records(cases)
    known: set[str] = set().union(*(record.values.keys() for record in records))
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
