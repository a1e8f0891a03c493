"""The report of a training run or an external validation: `report.json` and `report.html`.

The page stands on its own: figures and style are in it, and it forbids the browser to load more.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from model.bundle import Bundle
from model.interface import MONTHS_PER, Interface, Unit
from model.survival import Array
from train.cohort import LabelledCase, outcomes
from train.cohort_table import CohortColumn, describe_cohort
from train.crossval import FoldResult, Run, out_of_fold_risk
from train.embed import bag_path
from train.estimate import NotComputableError, Outcome, Unavailable, estimate
from train.evaluation import RESAMPLES, Row, Value, evaluate_parts, evaluate_risks
from train.figures import calibration_figure, forest_figure, km_figure, learning_figure
from train.forecast import (
    CalibrationPoint,
    Forecast,
    IntArray,
    calibration,
    cross_fit,
    forecast_with,
)
from train.loop import EpochLog
from train.metrics import harrell_c
from train.verdict import Compared, Verdict, compare_risks, judge, judge_alone

CALIBRATION_MONTHS = 36
LEAST_CALIBRATION_EVENTS = 10


@dataclass(frozen=True)
class FoldRow:
    """One fold: its test patients and what the model, fitted without them, made of them."""

    name: str
    n: int
    events: int
    centres: str
    epochs: int
    harrell_c: Value
    log: list[EpochLog]


@dataclass(frozen=True)
class Report:
    """All that a report says; `figures` has SVG elements by name."""

    verdict: Verdict
    kind: str
    endpoint: str
    unit: Unit
    cohort: list[CohortColumn]
    metrics: list[Row]
    baselines: list[Compared]
    centres: dict[str, Value]
    folds: list[FoldRow]
    calibration_at: float
    calibration: list[CalibrationPoint]
    settings: dict[str, Any]
    provenance: dict[str, Any]
    resamples: int
    notes: list[str]
    figures: dict[str, str]


def training_report(
    run: Run,
    results: Sequence[FoldResult],
    *,
    baselines: Sequence[tuple[str, Array]],
    provenance: Mapping[str, Any],
    resamples: int = RESAMPLES,
) -> Report:
    """Evaluate a run on its out-of-fold risks.

    Args:
        run: The run.
        results: Every fold of every repeat.
        baselines: Names and out-of-fold risks (n,) of simple models, from the same folds.
        provenance: Version, commit, date and the like.
        resamples: Of the bootstrap.
    """
    outcome, unit = outcomes(run.cases), run.interface.output.unit
    risk = out_of_fold_risk(results, len(run.cases))
    notes: list[str] = []
    forecast: Forecast | Unavailable
    try:
        forecast = cross_fit(
            run.config.mapping, risk, outcome, _first_repeat(results), warn=notes.append
        )
    except NotComputableError as error:
        forecast = Unavailable(str(error))
    metrics = evaluate_risks(risk, outcome, forecast, unit=unit, resamples=resamples)
    own = metrics[0].value
    compared = compare_risks(risk, baselines, outcome, resamples=resamples)
    at = calibration_time(outcome, unit)
    points = calibration(forecast, outcome, at) if isinstance(forecast, Forecast) else []
    return Report(
        verdict=judge(own, compared),
        kind="training run",
        endpoint=run.interface.endpoint,
        unit=unit,
        cohort=describe_cohort(
            run.cases,
            run.interface.clinical,
            unit=unit,
            has_slide=lambda case: (
                bool(case.case.slides) or bag_path(run.bags.directory, case.case_id).is_file()
            ),
        ),
        metrics=metrics,
        baselines=compared,
        centres=evaluate_parts(
            risk, outcome, [case.centre for case in run.cases], resamples=resamples
        ),
        folds=_fold_rows(run.cases, results, resamples),
        calibration_at=at,
        calibration=points,
        settings=_flatten(run.config.model_dump(mode="json")),
        provenance=dict(provenance),
        resamples=resamples,
        notes=list(dict.fromkeys(notes)),
        figures=_forecast_figures(forecast, outcome, at, points, unit)
        | {
            "learning": learning_figure(results),
            "forest": forest_figure(
                [("this model", own), *((b.name, b.harrell_c) for b in compared)]
            ),
        },
    )


def validation_report(
    bundle: Bundle,
    interface: Interface,
    cases: Sequence[LabelledCase],
    risk: Array,
    *,
    notes: Sequence[str] = (),
    resamples: int = RESAMPLES,
) -> Report:
    """Evaluate a bundle's risks (n,) on the labelled cases of another cohort."""
    outcome, unit = outcomes(cases), bundle.manifest.task.unit
    forecast = forecast_with(bundle.mapping, risk)
    metrics = evaluate_risks(risk, outcome, forecast, unit=unit, resamples=resamples)
    at = calibration_time(outcome, unit)
    points = calibration(forecast, outcome, at)
    return Report(
        verdict=judge_alone(metrics[0].value),
        kind="external validation",
        endpoint=bundle.manifest.task.endpoint,
        unit=unit,
        cohort=describe_cohort(
            cases, interface.clinical, unit=unit, has_slide=lambda case: bool(case.case.slides)
        ),
        metrics=metrics,
        baselines=[],
        centres=evaluate_parts(risk, outcome, [case.centre for case in cases], resamples=resamples),
        folds=[],
        calibration_at=at,
        calibration=points,
        settings=_flatten({"fusion": bundle.manifest.fusion, "settings": bundle.manifest.settings}),
        provenance={k: v for k, v in bundle.manifest.provenance.items() if isinstance(v, str)},
        resamples=resamples,
        notes=list(notes),
        figures=_forecast_figures(forecast, outcome, at, points, unit),
    )


def write_report(directory: Path, report: Report) -> Path:
    """Write `report.json` and `report.html`, each whole or not at all; return the page's path."""
    numbers = {key: value for key, value in asdict(report).items() if key != "figures"}
    _write(directory / "report.json", json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": show_number, "p_value": show_p}
    environment.tests["unavailable"] = lambda value: isinstance(value, Unavailable)
    page = directory / "report.html"
    _write(page, environment.get_template("report.html.jinja").render(vars(report)))
    return page


def calibration_time(outcome: Outcome, unit: Unit) -> float:
    """Return 36 months, or the median event's time where 36 months tell little.

    That is where fewer than ten events came before, or less than a tenth is followed until then.
    """
    at = CALIBRATION_MONTHS / MONTHS_PER[unit]
    events = (outcome.event & (outcome.time <= at)).sum()
    followed = (outcome.time >= at).mean()
    if events >= LEAST_CALIBRATION_EVENTS and followed >= 0.1:
        return at
    return float(np.median(outcome.time[outcome.event]))


def show_number(value: float, digits: int = 3, *, signed: bool = False) -> str:
    """Return a number with so many decimals and a true minus sign."""
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def show_p(value: float) -> str:
    """Return a p-value."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


# -- parts ---------------------------------------------------------------------------------------


def _first_repeat(results: Sequence[FoldResult]) -> list[IntArray]:
    """Return the test patients of the folds of the first repeat, in which each is once."""
    return _repeats(results)[0]


def _repeats(results: Sequence[FoldResult]) -> list[list[IntArray]]:
    """Return each repeat's folds: a repeat ends where its patients come again."""
    repeats: list[list[IntArray]] = []
    seen: set[int] = set()
    for result in results:
        test = set(result.test.tolist())
        if not repeats or seen & test:
            repeats.append([])
            seen = set()
        repeats[-1].append(result.test)
        seen |= test
    return repeats


def _fold_rows(
    cases: Sequence[LabelledCase], results: Sequence[FoldResult], resamples: int
) -> list[FoldRow]:
    repeats = _repeats(results)
    names = [
        f"{repeat + 1}.{fold + 1}" if len(repeats) > 1 else f"{fold + 1}"
        for repeat, tests in enumerate(repeats)
        for fold in range(len(tests))
    ]
    rows = []
    for name, result in zip(names, results, strict=True):
        tested = [cases[i] for i in result.test]
        own = outcomes(tested)
        centres = [case.centre for case in tested]
        rows.append(
            FoldRow(
                name=name,
                n=len(tested),
                events=int(own.event.sum()),
                centres=", ".join(f"{c} {centres.count(c)}" for c in sorted(set(centres))),
                epochs=result.epochs,
                harrell_c=estimate(harrell_c, result.risk, own, resamples=resamples),
                log=result.log,
            )
        )
    return rows


def _forecast_figures(
    forecast: Forecast | Unavailable,
    outcome: Outcome,
    at: float,
    points: Sequence[CalibrationPoint],
    unit: Unit,
) -> dict[str, str]:
    if isinstance(forecast, Unavailable):
        return {}
    return {
        "halves": km_figure(forecast.groups(2), outcome, 2, unit),
        "thirds": km_figure(forecast.groups(3), outcome, 3, unit),
        "calibration": calibration_figure(points, at, unit),
    }


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
