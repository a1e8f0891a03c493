"""Many cases: every row of a manifest becomes a row of predictions, whatever happens on the way.

`score_cohort` is the main path. Who does the work is in `cohort_workers.py`, what happens to one
case in `cohort_scorer.py`, and what stays on the disk in `cohort_log.py`.
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from model import __version__
from model.bundle import read_manifest
from model.cohort_log import CSV, PAGE, PARQUET, Entry, RunLog, check_owner
from model.cohort_places import check_places
from model.cohort_scorer import CaseTask, Result, Scorer, load_unchanged
from model.cohort_state import state_of_bags, state_of_files
from model.cohort_table import write_predictions
from model.cohort_workers import Workforce, do_all
from model.errors import ConfigError, Warn, about_folder
from model.explain_files import is_explained
from model.files import remove_parts, sha256_of, sha256_of_text
from model.foreign_bags import check_slide_names
from model.manifest import Row, Tables, list_cases, read_tables
from model.messages import counted
from model.progress import Say

PACKAGES = ("torch", "timm", "openslide-python", "numpy")


@dataclass(frozen=True)
class Cohort:
    """The cases to score, and the folder of their results.

    Attributes:
        manifest: A table, a folder of jobs or a download: see `model.manifest`.
        output: Made where it is not there; a run that was ended goes on in it.
        rna_table: Expression of the cases that name no file of it.
        clinical_table: Likewise their clinical records.
        overwrite: Drop what another bundle, manifest or setting left in `output`.
    """

    manifest: Path
    output: Path
    rna_table: Path | None = None
    clinical_table: Path | None = None
    overwrite: bool = False


@dataclass
class Counts:
    """How far a run is.

    Attributes:
        cases: Of the manifest.
        kept: Those that have a result from before.
        done: Those that have a result.
        failed: Those whose result is an error.
    """

    cases: int
    kept: int = 0
    done: int = 0
    failed: int = 0

    def add(self, result: Result) -> None:
        """Count a result."""
        self.done += 1
        self.failed += bool(result.error)


CountsProgress = Callable[[Counts], None]


def score_cohort(
    cohort: Cohort,
    scorer: Scorer,
    workforce: Workforce,
    *,
    say: Say,
    warn: Warn,
    progress: CountsProgress,
) -> Counts:
    """Score a cohort, or what is left of it, and write its tables.

    Raises:
        ConfigError: The manifest or a table cannot be read, the bundle cannot be loaded or is
            replaced, the output folder holds other results, or a folder cannot be used.
    """
    started = datetime.now(UTC)
    rows, tables = _read(cohort, scorer, say=say, warn=warn)
    if scorer.embeddings is not None:
        remove_parts(scorer.embeddings)
    scorer = replace(scorer, bundle_sha256=sha256_of(scorer.bundle))
    identity = _identity(cohort, rows, scorer, workforce)
    with RunLog(cohort.output) as log:
        remove_parts(cohort.output)
        log.claim(identity, overwrite=cohort.overwrite)
        entries = log.read()
        results = {
            row.case_id: entry.result
            for row in rows
            if (entry := entries.get(row.case_id)) is not None
            and _stands(entry, row, scorer.embeddings)
            and _is_explained(entry, scorer)
        }
        counts = Counts(cases=len(rows), kept=len(results))
        for result in results.values():
            counts.add(result)
        progress(counts)
        states: dict[str, str] = {}

        def build_task(row: Row) -> CaseTask:
            states[row.case_id] = state_of_files(row)
            return CaseTask(row, tables.of(row.case_id))

        left = [row for row in rows if row.case_id not in results]
        if left:  # should this run be ended too, nobody takes those of another for its own
            with about_folder(cohort.output):
                for name in (CSV, PARQUET, PAGE):
                    (cohort.output / name).unlink(missing_ok=True)
        for row, result in do_all(left, build_task, scorer, workforce):
            files = states.pop(row.case_id)
            if result.error and state_of_files(row) != files:
                files = ""  # it may have failed of the change: no state is that of such a result
            # The bag as it is now: the case may have been the one to leave it.
            files += state_of_bags(row, scorer.embeddings)
            log.append(Entry(files=files, result=result))
            results[row.case_id] = result
            counts.add(result)
            progress(counts)
        write_predictions(cohort.output, rows, results, bundle_sha256=scorer.bundle_sha256)
        facts = _facts(cohort, scorer, workforce, counts, started)
        _report(cohort, rows, results, {"identity": identity, **facts}, scorer)
        log.describe(facts)
    return counts


def check_cohort(
    cohort: Cohort,
    scorer: Scorer,
    workforce: Workforce,
    *,
    say: Say,
    warn: Warn,
    progress: CountsProgress,
) -> Counts:
    """Check a cohort without encoding a slide or writing a file, and say what would fail.

    Raises:
        ConfigError: As of `score_cohort`.
    """
    rows, tables = _read(cohort, scorer, say=say, warn=warn)
    scorer = replace(scorer, bundle_sha256=sha256_of(scorer.bundle))
    if not cohort.overwrite:
        check_owner(cohort.output, _identity(cohort, rows, scorer, workforce))
    counts = Counts(cases=len(rows))
    for row, result in do_all(
        rows,
        lambda row: CaseTask(row, tables.of(row.case_id)),
        replace(scorer, dry_run=True),
        workforce,
    ):
        for text in result.warnings:
            warn(f"case {row.case_id}: {text}")
        if result.error:
            say(result.error)
        counts.add(result)
        progress(counts)
    return counts


def _read(cohort: Cohort, scorer: Scorer, *, say: Say, warn: Warn) -> tuple[list[Row], Tables]:
    """Check the places, read the manifest and, of the wide tables, what the bundle uses."""
    check_places(cohort.output, embeddings=scorer.embeddings, explain=scorer.explain, warn=warn)
    results = {(cohort.output / name).resolve() for name in (CSV, PARQUET, PAGE)}
    for table in (cohort.manifest, cohort.rna_table, cohort.clinical_table):
        if table is not None and table.resolve() in results:
            raise ConfigError(f"{table}: expected a table that the results do not replace")
    places = (cohort.output, scorer.embeddings, scorer.explain)
    apart = [place for place in places if place is not None]
    rows = list_cases(cohort.manifest, scorer.interface, apart=apart)
    if scorer.embeddings is not None:
        check_slide_names(scorer.embeddings, (slide.path for row in rows for slide in row.slides))
    members = read_manifest(scorer.bundle).members
    tables = read_tables(
        rows,
        scorer.interface,
        rna=cohort.rna_table,
        clinical=cohort.clinical_table,
        genes=frozenset(gene for member in members if member.rna for gene in member.rna.genes),
        warn=warn,
    )
    say(f"{cohort.manifest}: {counted(len(rows), 'case')}{_inventory(rows, tables)}")
    return rows, tables


def _inventory(rows: Sequence[Row], tables: Tables) -> str:
    """Say how many cases have what: a misspelt column would go unnoticed."""
    if rows[0].job is not None:
        return ", each a Grand Challenge job"
    slides = sum(bool(row.slides) for row in rows)
    rna = sum(row.rna is not None or row.case_id in tables.rna for row in rows)
    clinical = sum(row.clinical is not None or row.case_id in tables.clinical for row in rows)
    return f": {slides:,} with slides, {rna:,} with RNA, {clinical:,} with a clinical record"


# -- what makes results comparable -----------------------------------------------------------------


def _identity(
    cohort: Cohort, rows: Sequence[Row], scorer: Scorer, workforce: Workforce
) -> dict[str, str | None]:
    """Return all that the results depend on, but the cases' own files."""
    tables = {"RNA table": cohort.rna_table, "clinical table": cohort.clinical_table}
    return {
        "version": __version__,
        "bundle_sha256": scorer.bundle_sha256,
        "interface": sha256_of_text(scorer.interface.model_dump_json()),
        "manifest": sha256_of(cohort.manifest)
        if cohort.manifest.is_file()
        else sha256_of_text("\n".join(row.case_id for row in rows)),
        **{name: sha256_of(path) if path else None for name, path in tables.items()},
        "embeddings": str(scorer.embeddings.resolve()) if scorer.embeddings else None,
        "device": workforce.kind,
    }


def _stands(entry: Entry, row: Row, embeddings: Path | None) -> bool:
    """Say whether a result still holds: the case's files are as they were.

    A failure that may not be the case's own, such as of a worker that died, is tried again.
    """
    if entry.result.retry:
        return False
    return entry.files == state_of_files(row) + state_of_bags(row, embeddings)


def _is_explained(entry: Entry, scorer: Scorer) -> bool:
    """Say whether a result is explained, if it has to be and can be."""
    if scorer.explain is None or entry.result.error:
        return True
    return is_explained(scorer.explain / entry.result.case_id, scorer.bundle_sha256)


def _report(
    cohort: Cohort,
    rows: Sequence[Row],
    results: Mapping[str, Result],
    run: Mapping[str, Any],
    scorer: Scorer,
) -> None:
    # Imported here, as matplotlib takes long and only the end of a run needs it.
    from model.cohort_report import write_cohort_report  # noqa: PLC0415

    bundle = load_unchanged(scorer.bundle, scorer.bundle_sha256)
    write_cohort_report(cohort.output, [results[row.case_id] for row in rows], run, bundle)


def _facts(
    cohort: Cohort, scorer: Scorer, workforce: Workforce, counts: Counts, started: datetime
) -> dict[str, Any]:
    """Return what else run.json says."""
    return {
        "manifest": str(cohort.manifest),
        "bundle": str(scorer.bundle),
        "workers": workforce.count,
        "threads": workforce.threads,
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "counts": asdict(counts) | {"scored": counts.done - counts.failed},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
    }
