"""`python -m train benchmark CONFIG`: fusions and simple baselines on real tables, same folds.

Every model is fitted on the training cases of each published fold, chooses what it chooses on inner
folds of these, and gives its risks for the fold's test cases. All risks together make the tables
of RESULTS.md.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from model.files import sha256_of
from model.fusion import FUSIONS
from model.progress import Say
from train.baselines import Baseline, build_baselines, out_of_fold
from train.benchmark_config import BenchmarkConfig, CohortTable
from train.benchmark_oracle import run_oracle
from train.benchmark_published import read_published
from train.benchmark_results import write_results
from train.benchmark_scores import CohortRisks, ModelRisks
from train.cohort import outcomes
from train.config import read_toml
from train.gene_sets import read_gene_sets
from train.kept import file_name, keep, read_kept
from train.scores import make_folder
from train.table_fusion import Chosen, TableEncoder, TableFusion
from train.tables import SCHEMA, Table, read_histology_groups, read_table


def run_benchmark(path: Path, overrides: Sequence[str], say: Say) -> None:
    """Run a config's benchmark and write its page.

    Raises:
        ConfigError: The config or a table is not as expected, or a folder cannot be written.
    """
    config = read_toml(BenchmarkConfig, path, overrides)
    started = time.monotonic()
    for folder in (config.output, config.results.parent):
        make_folder(folder)
    for cohort in config.cohorts:  # the page needs them, after hours
        read_published(config.data, cohort.study)
    run = partial(run_cohort, config, say=say)
    if config.workers == 1:
        results = [run(cohort) for cohort in config.cohorts]
    else:
        with ProcessPoolExecutor(config.workers, mp_context=get_context("spawn")) as pool:
            results = list(pool.map(run, config.cohorts))
    oracle = config.oracle and run_oracle(config.oracle, config.output / "oracle", say=say)
    command = " ".join(["python -m train benchmark", str(path), *overrides])
    write_results(config, results, oracle or (), command=command)
    say(f"wrote {config.results} in {time.monotonic() - started:.0f} s")


def run_cohort(config: BenchmarkConfig, cohort: CohortTable, *, say: Say) -> CohortRisks:
    """Fit every model to every fold of a cohort, and return their risks for its test cases."""
    table = read_table(
        config.data,
        cohort.source,
        cohort.study,
        endpoint=cohort.endpoint,
        modalities=cohort.modalities,
    )
    models = []
    for job in _jobs(config, cohort, table):
        risks = job.read(table)
        if risks is None:
            risks = job.run(table)
            say(f"{job.path}: {risks.seconds:.0f} s")
        models.append(risks)
    return CohortRisks(cohort, outcomes(table.cases), table.fold, tuple(models))


@dataclass(frozen=True)
class Job:
    """A model of a cohort, once a seed; its risks are kept on disk with what they follow from."""

    label: str
    baseline: bool
    models: tuple[Baseline, ...]
    path: Path
    origin: dict[str, Any]

    def read(self, table: Table) -> ModelRisks | None:
        """Return what an earlier run has kept, or None where it had another origin."""
        content = read_kept(self.path, self.origin)
        if content is None:
            return None
        risks = np.array([content["risks"][case.case_id] for case in table.cases]).T
        chosen = tuple(Chosen(**choice) for choice in content["chosen"])
        return ModelRisks(self.label, self.baseline, risks, chosen, content["seconds"])

    def run(self, table: Table) -> ModelRisks:
        """Fit the models once a fold, and keep their risks, whole or not at all."""
        started = time.process_time()
        tests = [np.flatnonzero(table.fold == fold) for fold in np.unique(table.fold)]
        risks = np.stack([out_of_fold(model, table.cases, tests) for model in self.models])
        first = self.models[0]
        chosen = tuple(first.advice.values()) if isinstance(first, TableFusion) else ()
        seconds = time.process_time() - started
        result = {
            "chosen": [asdict(choice) for choice in chosen],
            "seconds": seconds,
            "risks": {
                case.case_id: risk for case, risk in zip(table.cases, risks.T.tolist(), strict=True)
            },
        }
        keep(self.path, self.origin, result)
        return ModelRisks(self.label, self.baseline, risks, chosen, seconds)


def _jobs(config: BenchmarkConfig, cohort: CohortTable, table: Table) -> Iterator[Job]:
    """Yield each model of a cohort, the deep ones with all seeds."""
    folder = config.output / cohort.name
    of_cohort = {**cohort.model_dump(mode="json"), "sha256": table.sha256()}
    for label, baseline in build_baselines(cohort.modalities, SCHEMA).items():
        origin: dict[str, Any] = {"cohort": of_cohort, "baseline": repr(baseline)}
        yield Job(label, True, (baseline,), folder / f"{file_name(label)}.json", origin)
    groups = read_histology_groups(config.data) if config.histology_groups else {}
    encoders = {
        (count, text): TableEncoder(table, cohort.modalities, count, text, groups)
        for count in {model.components for model in config.models}
        for text in (False, True)
    }
    for model in config.models:
        modalities = model.modalities or cohort.modalities
        if not set(modalities) <= set(cohort.modalities):
            continue
        origin = {
            "cohort": of_cohort,
            "model": model.model_dump(mode="json", exclude={"label", "baseline"}),
            "gene_sets": sha256_of(model.gene_sets) if model.gene_sets else None,
            "histology_groups": config.histology_groups,
            "fit": config.fit.model_dump(mode="json"),
            "learning_rates": list(config.learning_rates),
            "seeds": list(config.seeds),
        }
        first = TableFusion(
            model.name,
            {**model.settings, "modalities": modalities},
            config.fit,
            config.learning_rates,
            encoders[model.components, FUSIONS[model.name].READS_TEXT],
            config.seeds[0],
            read_gene_sets(model.gene_sets) if model.gene_sets else None,
        )
        seeds = tuple(replace(first, seed=seed) for seed in config.seeds)
        path = folder / f"{file_name(model.label)}.json"
        yield Job(model.label, model.baseline, seeds, path, origin)
