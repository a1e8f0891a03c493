"""`python -m train benchmark CONFIG`: fusions and simple baselines on real tables, same folds.

Every model is fitted on the training cases of each published fold, chooses what it chooses on inner
folds of these, and gives its risks for the fold's test cases. All risks together make the tables
of RESULTS.md.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from train.baselines import Baseline, build_baselines, out_of_fold
from train.benchmark_config import BenchmarkConfig, CohortTable
from train.benchmark_results import write_results
from train.benchmark_scores import CohortRisks, ModelRisks
from train.cohort import outcomes
from train.config import read_toml
from train.gene_sets import read_gene_sets
from train.table_fusion import Chosen, TableEncoder, TableFusion
from train.tables import SCHEMA, Table, read_histology_groups, read_table
from train.views import FloatArray

Say = Callable[[str], None]


def run_benchmark(path: Path, overrides: Sequence[str], say: Say) -> None:
    """Run a config's benchmark and write its page.

    Raises:
        ConfigError: The config or a table is not as expected.
    """
    config = read_toml(BenchmarkConfig, path, overrides)
    started = time.monotonic()
    run = partial(run_cohort, config, say=say)
    if config.workers == 1:
        results = [run(cohort) for cohort in config.cohorts]
    else:
        with ProcessPoolExecutor(config.workers, mp_context=get_context("spawn")) as pool:
            results = list(pool.map(run, config.cohorts))
    command = " ".join(["python -m train benchmark", str(path), *overrides])
    write_results(config, results, command=command)
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
    done: dict[str, list[Scored]] = {}
    for job in _jobs(config, cohort, table):
        scored = job.read(table)
        if scored is None:
            scored = job.run(table)
            say(f"{job.path}: {scored.seconds:.0f} s")
        done.setdefault(job.label, []).append(scored)
    fusions = {model.label for model in config.models if not model.baseline}
    models = [
        ModelRisks(
            label,
            baseline=label not in fusions,
            risks=np.stack([scored.risk for scored in runs]),
            chosen=tuple(chosen for scored in runs for chosen in scored.chosen),
            seconds=sum(scored.seconds for scored in runs),
        )
        for label, runs in done.items()
    ]
    return CohortRisks(cohort, outcomes(table.cases), table.fold, tuple(models))


@dataclass(frozen=True)
class Scored:
    """The out-of-fold risks (n,) of a model, what it chose in each fold, and what they took."""

    risk: FloatArray
    chosen: tuple[Chosen, ...]
    seconds: float


@dataclass(frozen=True)
class Job:
    """A model of a cohort; its risks are kept on disk with all that they follow from."""

    label: str
    model: Baseline
    path: Path
    origin: dict[str, Any]

    def read(self, table: Table) -> Scored | None:
        """Return what an earlier run has kept, or None where it had another origin."""
        if not self.path.is_file():
            return None
        content = json.loads(self.path.read_text())
        if content["origin"] != self.origin:
            return None
        risk = np.array([content["risk"][case.case_id] for case in table.cases])
        chosen = tuple(Chosen(**choice) for choice in content["chosen"])
        return Scored(risk, chosen, content["seconds"])

    def run(self, table: Table) -> Scored:
        """Fit the model once a fold, and keep its risks, whole or not at all."""
        started = time.monotonic()
        tests = [np.flatnonzero(table.fold == fold) for fold in np.unique(table.fold)]
        risk = out_of_fold(self.model, table.cases, tests)
        chosen = tuple(self.model.chosen) if isinstance(self.model, TableFusion) else ()
        scored = Scored(risk, chosen, time.monotonic() - started)
        content = {
            "origin": self.origin,
            "chosen": [asdict(choice) for choice in chosen],
            "seconds": scored.seconds,
            "risk": dict(zip([case.case_id for case in table.cases], risk.tolist(), strict=True)),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(json.dumps(content))
        part.replace(self.path)
        return scored


def _jobs(config: BenchmarkConfig, cohort: CohortTable, table: Table) -> Iterator[Job]:
    """Yield each model of a cohort, the deep ones once a seed."""
    folder = config.output / cohort.name
    of_cohort = cohort.model_dump(mode="json")
    for label, baseline in build_baselines(cohort.modalities, SCHEMA).items():
        origin: dict[str, Any] = {"cohort": of_cohort, "baseline": repr(baseline)}
        yield Job(label, baseline, folder / f"{_file_name(label)}.json", origin)
    gene_sets = read_gene_sets(config.gene_sets) if config.gene_sets else {}
    groups = read_histology_groups(config.data) if config.histology_groups else {}
    encoders = {
        count: TableEncoder(table, cohort.modalities, count, gene_sets, groups)
        for count in {model.components for model in config.models}
    }
    for model in config.models:
        modalities = model.modalities or cohort.modalities
        if not set(modalities) <= set(cohort.modalities):
            continue
        settings = {**model.settings, "modalities": modalities}
        for seed in config.seeds:
            origin = {
                "cohort": of_cohort,
                "fusion": model.name,
                "settings": {**model.settings, "modalities": list(modalities)},
                "components": model.components,
                "gene_sets": config.gene_sets and config.gene_sets.name,
                "histology_groups": config.histology_groups,
                "fit": config.fit.model_dump(mode="json"),
                "learning_rates": list(config.learning_rates),
                "seed": seed,
            }
            fusion = TableFusion(
                model.name,
                settings,
                config.fit,
                config.learning_rates,
                encoders[model.components],
                seed,
            )
            path = folder / f"{_file_name(model.label)}-seed{seed}.json"
            yield Job(model.label, fusion, path, origin)


def _file_name(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
