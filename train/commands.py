"""What each command of `python -m train` does, from a config to files."""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model import __version__
from model.bundle import Bundle
from model.cohort_bags import load_predictor
from model.errors import ConfigError, TriSurvError, Warn
from model.fusion.survq import Survq
from model.interface import Interface, read_interface
from model.process import SOME_FAILED
from model.progress import progress_lines
from train import ranks
from train.benchmark import run_benchmark
from train.calibrate import check_calibration
from train.cohort import LabelledCase, check_outcomes, outcomes, read_cohort, with_strata
from train.config import (
    INTERFACES,
    CohortConfig,
    EncoderConfig,
    TrainConfig,
    read_config,
    validate,
)
from train.crossval import FloatArray, Run, check_folds, cross_validate
from train.dataset import Bags, check_records, make_fold, start_member
from train.embed import make_bags
from train.ensemble import build_bundle, check_risks, out_of_fold_risk
from train.identity import claim, cohort_sha256, patient_hashes, run_identity
from train.importer import import_checkpoint
from train.information import information_kept
from train.models import describe_models
from train.panel import check_genes
from train.presence import check_columns, check_presence, leave_out_empty
from train.report import training_report, validation_report, write_report
from train.rivals import fit_baselines
from train.scores import (
    check_places,
    describe_warnings,
    make_folder,
    score_cases,
    write_csv,
    write_scores,
)
from train.simulate import SimulateConfig, simulate_cohort
from train.strata import check_risk_sets
from train.terminal import once, say, warn


def _read_run(
    path: Path, overrides: Sequence[str]
) -> tuple[TrainConfig, Interface, list[LabelledCase]]:
    """Read a run's config, and the interface and cases that it names and can use."""
    config = read_config(path, overrides)
    interface = read_interface(config.cohort.interface, [INTERFACES])
    cases = read_cohort(config.cohort, interface, warn=warn)
    return config, interface, with_strata(leave_out_empty(cases, config, warn=warn))


def simulate(directory: Path, overrides: Sequence[str]) -> None:
    """Make a simulated cohort."""
    config = validate(SimulateConfig, {}, overrides, source="simulate")
    make_folder(directory)
    simulate_cohort(directory, config, progress=progress_lines("cases simulated", say))
    say(f"wrote {directory}")


def embed(path: Path, overrides: Sequence[str]) -> None:
    """Embed the slides of a config's cohort."""
    config, _, cases = _read_run(path, overrides)
    if "slide" not in config.fusion.read().modalities:
        say(f"{path}: nothing to embed, as {config.fusion.name} uses no slides here")
    with ranks.process_group():
        make_bags(config, cases, warn=once(), progress=progress_lines("cases embedded", say))


def fit(path: Path, overrides: Sequence[str]) -> None:
    """Train, calibrate on out-of-fold risks and write `bundle.safetensors`.

    Under `torchrun` the processes share slides and folds; the first one does the rest.
    """
    started = time.monotonic()
    config, interface, cases = _read_run(path, overrides)
    warn_once = once()
    _check(config, interface, cases, warn=warn_once)
    outcome = outcomes(cases)
    say(f"cohort {config.cohort.root}: {len(cases)} cases, {int(outcome.event.sum())} events")
    with ranks.process_group():
        bags = make_bags(
            config, cases, warn=warn_once, progress=progress_lines("cases embedded", say)
        )
        if ranks.is_first():
            claim(config.output, run_identity(config, interface, cases))
        ranks.wait_for_all()
        run = Run(config, interface, cases, bags, warn=warn_once, say=say)
        results = cross_validate(run)
    if not ranks.is_first():
        return
    risk = out_of_fold_risk(results, len(cases))
    _write_risks(config.output / "out_of_fold.csv", cases, risk)
    check_risks(risk, config.fusion.name)
    provenance: dict[str, Any] = {
        "version": __version__,
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "config": config.model_dump(mode="json"),
        "cohort_sha256": cohort_sha256(cases),
    }
    baselines, left_out = fit_baselines(run, results)
    report = training_report(
        run, results, baselines=baselines, left_out=left_out, provenance=provenance
    )
    metrics = {row.name: row.value for row in report.evaluation.metrics}
    say(f"out-of-fold C-index {metrics['harrell_c']}")
    say(report.verdict.sentence)
    say(f"wrote {write_report(config.output, report)}")
    provenance["patients"] = patient_hashes(cases)
    provenance["out_of_fold"] = {name: asdict(value) for name, value in metrics.items()}
    target = config.output / "bundle.safetensors"
    build_bundle(run, results, provenance).save(target)
    say(f"wrote {target} in {time.monotonic() - started:.0f} s")


def _check(
    config: TrainConfig, interface: Interface, cases: Sequence[LabelledCase], *, warn: Warn
) -> None:
    """Raise before hours of embedding what the first fold would raise after them.

    Raises:
        ConfigError: The device is not there, a case or a fold lacks what it needs, folds, gene
            panel, gene sets or the fusion's settings do not fit, a text encoder is absent, Cox's
            loss would compare nobody or a fold has too few event times for the bins of the other,
            no time mapping can be fitted, a record cannot be used, or the output folder cannot be
            written.
    """
    ranks.device(config.device)
    modalities = config.fusion.read().modalities
    check_presence(cases, config, warn=warn)
    check_folds(cases, config, warn=warn)
    outcome = outcomes(cases)
    check_calibration(event=outcome.event, time=outcome.time)
    if config.fit.loss == "cox":
        check_risk_sets(cases, config.fit.batch_cases, str(config.cohort.root), warn=warn)
    if "rna" in modalities:
        check_genes(config.rna, cases, warn=warn)
    if "clinical" in modalities:
        check_columns(cases, interface, warn=warn)
    bags = Bags(config.cohort.bag_dir, config.encoder.spec(), config.patches)
    member = start_member(cases, bags, config, interface.clinical)
    check_records(member, cases, str(config.cohort.root))
    make_folder(config.output)


def evaluate(
    path: Path,
    cohort: CohortConfig,
    *,
    output: Path | None,
    report: Path | None,
    device: str,
) -> int:
    """Score a labelled cohort with a bundle, as an external validation.

    A case that cannot be scored is told on stderr and left out.

    Returns:
        The exit code: 0, or `SOME_FAILED`.

    Raises:
        ConfigError: The results cannot be written, the bundle predicts in another unit than its
            preset's outcomes are read in, or too few cases can be scored.
    """
    check_places(output, report, [path, cohort.root, cohort.rna_table, cohort.clinical_table])
    bundle = Bundle.load(path)
    weights_dirs = [path.parent, *EncoderConfig().weights]
    predictor = load_predictor(bundle, weights_dirs, ranks.device(device), bags=cohort.bags)
    interface = read_interface(bundle.manifest.task.interface, [path.parent, INTERFACES])
    unit, answered = bundle.manifest.task.unit, interface.output.unit
    if unit != answered:
        raise ConfigError(
            f"{path}: expected times in {answered}, as {interface.name}, found {unit}"
        )
    failed: list[str] = []

    def leave_out(error: TriSurvError) -> None:
        failed.append(str(error))
        print(error, file=sys.stderr, flush=True)

    found = read_cohort(cohort, interface, warn=warn, on_error=leave_out)
    progress = progress_lines("cases scored", say)
    cases, predictions = score_cases(predictor, found, on_error=leave_out, progress=progress)
    total = len(cases) + len(failed)
    say(f"{len(cases)} of {total} cases scored, {len(failed)} failed")
    told = describe_warnings(predictions, bundle.manifest.notice)
    for text in (bundle.manifest.notice, *told):
        if text:
            warn(text)
    if output is not None and cases:
        write_scores(output, cases, predictions)
        say(f"wrote {output}")
    check_outcomes(cases, f"{cohort.root}: the cases that can be scored")
    notes = [*told]
    if failed:
        notes.append(f"{len(failed)} of {total} cases could not be scored and are left out")
    validation = validation_report(bundle, interface, cases, predictions, notes=notes)
    say(validation.verdict.sentence)
    if report is not None:
        say(f"wrote {write_report(report, validation)}")
    return SOME_FAILED if failed else 0


def information(path: Path, overrides: Sequence[str]) -> None:
    """Say how much of the patches and gene sets the queries of a run's SurvQ keep."""
    config, _, cases = _read_run(path, overrides)
    target = config.output / "bundle.safetensors"
    bundle = Bundle.load(target)
    if bundle.manifest.encoder is None or bundle.manifest.patches is None:
        raise ConfigError(f"{target}: expected a fusion of slides, found {bundle.manifest.fusion}")
    bags = Bags(config.cohort.bag_dir, bundle.manifest.encoder, bundle.manifest.patches)
    warn_once = once()
    for number, member in enumerate(bundle.members, start=1):
        if not isinstance(member.fusion, Survq):
            raise ConfigError(f"{target}: expected survq, found {bundle.manifest.fusion}")
        fold = make_fold(member, cases, bags, warn=warn_once)
        for modality, kept in information_kept(member.fusion, fold).items():
            say(f"member {number}, {modality}: {kept}")


def benchmark(path: Path, overrides: Sequence[str]) -> None:
    """Train fusions and baselines on public tables and write the comparison."""
    run_benchmark(path, overrides, say)


def models() -> None:
    """List the fusions, and what each is about."""
    say(describe_models())


def import_(checkpoint: Path, output: Path, *, trust_pickle: bool) -> None:
    """Turn a trained model of the public second-place repository into a bundle."""
    make_folder(output)
    path = import_checkpoint(checkpoint, trust_pickle=trust_pickle, warn=warn, output=output)
    say(f"wrote {path}")


def _commit() -> str:
    """Return the commit that trained, marked where the tree differed from it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _write_risks(path: Path, cases: Sequence[LabelledCase], risk: FloatArray) -> None:
    rows = [
        {"case_id": c.case_id, "event": int(c.event), "time": c.time, "risk": float(r)}
        for c, r in zip(cases, risk, strict=True)
    ]
    write_csv(path, rows)
