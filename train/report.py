"""The report of a training run or an external validation: `report.json` and `report.html`.

The page stands on its own: figures and style are in it, and it forbids the browser to load more.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.bags import bag_path
from model.bundle import Bundle
from model.case import Prediction
from model.cohort_report import page_environment
from model.files import write_whole
from model.interface import Interface, Unit
from model.messages import flatten
from model.survival import Array
from train.cohort import LabelledCase, outcomes
from train.cohort_table import CohortColumn, describe_cohort
from train.crossval import FoldResult, Run
from train.ensemble import out_of_fold_risk
from train.estimate import NotComputableError, Outcome, Unavailable
from train.evaluation import Row, Value, evaluate_parts, evaluate_risks
from train.figures import calibration_figure, forest_figure, km_figure, learning_figure
from train.fold_table import FoldRow, describe_folds, first_repeat
from train.forecast import (
    CalibrationPoint,
    Forecast,
    calibration,
    calibration_time,
    cross_fit,
    forecast_with,
)
from train.identity import count_trained
from train.verdict import Compared, Verdict, compare_risks, judge, judge_alone

RESAMPLES = 1000


@dataclass(frozen=True)
class Evaluation:
    """What was measured on patients that the model had not seen.

    Attributes:
        n: How many cases.
        patients: How many patients they are of.
        metrics: Harrell's C comes first, Uno's second.
        centres: Harrell's C within each centre.
        calibration: Predicted and observed survival at `calibration_at`.
    """

    n: int
    patients: int
    events: int
    resamples: int
    metrics: list[Row]
    centres: dict[str, Value]
    calibration_at: float
    calibration: list[CalibrationPoint]


@dataclass(frozen=True)
class Report:
    """All that a report says; `figures` has SVG elements by name."""

    verdict: Verdict
    kind: str
    model: str
    endpoint: str
    unit: Unit
    evaluation: Evaluation
    baselines: list[Compared]
    cohort: list[CohortColumn]
    folds: list[FoldRow]
    settings: dict[str, Any]
    provenance: dict[str, Any]
    notes: list[str]
    figures: dict[str, str]


def training_report(
    run: Run,
    results: Sequence[FoldResult],
    *,
    baselines: Sequence[tuple[str, Array]],
    left_out: Sequence[str] = (),
    provenance: Mapping[str, Any],
    resamples: int = RESAMPLES,
) -> Report:
    """Evaluate a run on its out-of-fold risks.

    Args:
        run: The run.
        results: Every fold of every repeat.
        baselines: Names and out-of-fold risks (n,) of simple models, from the same folds.
        left_out: Of each baseline that could not be fitted, why.
        provenance: Version, commit, date and the like.
        resamples: Of the bootstrap.
    """
    outcome, unit = outcomes(run.cases), run.interface.output.unit
    risk = out_of_fold_risk(results, len(run.cases))
    notes = list(left_out)
    forecast: Forecast | Unavailable
    try:
        forecast = cross_fit(
            run.config.mapping, risk, outcome, first_repeat(results), warn=notes.append
        )
    except NotComputableError as error:
        forecast = Unavailable(str(error))
    evaluation = _evaluate(run.cases, risk, forecast, unit=unit, resamples=resamples)
    own = evaluation.metrics[0].value
    compared = compare_risks(risk, baselines, outcome, resamples=resamples)
    model = run.config.fusion.name
    forest = forest_figure([(model, own), *((row.name, row.harrell_c) for row in compared)])

    def has_slide(case: LabelledCase) -> bool:
        return bool(case.case.slides) or bag_path(run.bags.directory, case.case_id).is_file()

    return Report(
        verdict=judge(own, compared, complete=not left_out),
        kind="training run",
        model=model,
        endpoint=run.interface.endpoint,
        unit=unit,
        evaluation=evaluation,
        baselines=compared,
        cohort=describe_cohort(run.cases, run.interface.clinical, unit=unit, has_slide=has_slide),
        folds=describe_folds(run.cases, results, resamples=resamples),
        settings=flatten(run.config.model_dump(mode="json")),
        provenance=dict(provenance),
        notes=list(dict.fromkeys(notes)),
        figures={
            "forest": forest,
            "learning": learning_figure(results),
            **_figures(forecast, outcome, evaluation, unit),
        },
    )


def validation_report(
    bundle: Bundle,
    interface: Interface,
    cases: Sequence[LabelledCase],
    predictions: Sequence[Prediction],
    *,
    notes: Sequence[str],
    resamples: int = RESAMPLES,
) -> Report:
    """Evaluate a bundle on another cohort, or say that it is none.

    Args:
        bundle: What gave the predictions.
        interface: Of the cohort.
        cases: The labelled cases that could be scored.
        predictions: Of the same cases, by the bundle.
        notes: What the reader has to know of the cases.
        resamples: Of the bootstrap.
    """
    manifest = bundle.manifest
    unit = manifest.task.unit
    seen = count_trained(manifest.provenance, cases)
    risk = np.array([prediction.risk for prediction in predictions])
    with_bag = {p.case_id for p in predictions if "slide" in p.modalities}
    forecast = forecast_with(bundle.mapping, risk)
    evaluation = _evaluate(cases, risk, forecast, unit=unit, resamples=resamples)
    return Report(
        verdict=judge_alone(evaluation.metrics[0].value, seen=seen),
        kind="evaluation with training patients" if seen else "external validation",
        model=manifest.fusion,
        endpoint=manifest.task.endpoint,
        unit=unit,
        evaluation=evaluation,
        baselines=[],
        cohort=describe_cohort(
            cases,
            interface.clinical,
            unit=unit,
            has_slide=lambda case: bool(case.case.slides) or case.case_id in with_bag,
        ),
        folds=[],
        settings=flatten({"fusion": manifest.fusion, "settings": manifest.settings}),
        # A report travels further than its bundle, and nobody reads hashes.
        provenance={k: v for k, v in manifest.provenance.items() if k != "patients"},
        notes=list(notes),
        figures=_figures(forecast, outcomes(cases), evaluation, unit),
    )


def write_report(directory: Path, report: Report) -> Path:
    """Write `report.json` and `report.html`, each whole or not at all; return the page's path."""
    numbers = {name: value for name, value in asdict(report).items() if name != "figures"}
    content = json.dumps(numbers, indent=2, allow_nan=False) + "\n"
    write_whole(directory / "report.json", content.encode())
    environment = page_environment(Path(__file__).parent)
    environment.filters |= {"number": _number, "p_value": _p_value}
    environment.tests["unavailable"] = lambda value: isinstance(value, Unavailable)
    page = directory / "report.html"
    template = environment.get_template("report.html.jinja")
    write_whole(page, template.render(vars(report)).encode())
    return page


def _evaluate(
    cases: Sequence[LabelledCase],
    risk: Array,
    forecast: Forecast | Unavailable,
    *,
    unit: Unit,
    resamples: int,
) -> Evaluation:
    outcome = outcomes(cases)
    at = calibration_time(outcome, unit)
    return Evaluation(
        n=len(outcome),
        patients=outcome.patients,
        events=int(outcome.event.sum()),
        resamples=resamples,
        metrics=evaluate_risks(risk, outcome, forecast, unit=unit, resamples=resamples),
        centres=evaluate_parts(risk, outcome, [case.centre for case in cases], resamples=resamples),
        calibration_at=at,
        calibration=[] if isinstance(forecast, Unavailable) else calibration(forecast, outcome, at),
    )


def _figures(
    forecast: Forecast | Unavailable, outcome: Outcome, evaluation: Evaluation, unit: Unit
) -> dict[str, str]:
    """Draw what needs survival curves."""
    if isinstance(forecast, Unavailable):
        return {}
    figures = {
        "halves": km_figure(forecast.groups(2), outcome, 2, unit),
        "thirds": km_figure(forecast.groups(3), outcome, 3, unit),
    }
    if evaluation.calibration:
        figures["calibration"] = calibration_figure(
            evaluation.calibration, evaluation.calibration_at, unit
        )
    return figures


def _number(value: float, digits: int = 3, *, signed: bool = False) -> str:
    """Return a number with so many decimals and a true minus sign."""
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def _p_value(value: float, equals: str = "") -> str:
    return "< 0.001" if value < 0.001 else f"{equals}{value:.3f}"
