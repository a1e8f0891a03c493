"""A labelled cohort's scores: one case after another, whatever becomes of each, and on the disk."""

import csv
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from model.case import Prediction
from model.causes import group_messages
from model.errors import CaseError, ConfigError, about_folder
from model.files import write_whole
from model.predictor import Predictor
from model.progress import Progress
from train.cohort import LabelledCase


def check_places(output: Path | None, report: Path | None, inputs: Sequence[Path | None]) -> None:
    """See that results can be written before the work is done that makes them.

    Args:
        output: A file; its folder is made where it is not there.
        report: A folder, likewise.
        inputs: What the work reads.

    Raises:
        ConfigError: Nothing can be written there, or the output is one of the inputs.
    """
    if output and output.resolve() in {path.resolve() for path in inputs if path}:
        raise ConfigError(f"{output}: expected a file to write, found one that is read")
    if output and report and report.resolve().is_relative_to(output.resolve()):
        raise ConfigError(f"{output}: expected a file to write, found the report's folder")
    if output is not None:
        make_folder(output.parent)
        if output.is_dir():
            raise ConfigError(f"{output}: expected a file to write, found a folder")
    if report is not None:
        make_folder(report)


def make_folder(folder: Path) -> None:
    """Make a folder where it is not there, and see that files can be written in it.

    Raises:
        ConfigError: They cannot.
    """
    with about_folder(folder):
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()


def score_cases(
    predictor: Predictor,
    cases: Sequence[LabelledCase],
    *,
    on_error: Callable[[CaseError | ConfigError], None],
    progress: Progress,
) -> tuple[list[LabelledCase], list[Prediction]]:
    """Return the cases that can be scored, and their predictions.

    Args:
        predictor: Scores them.
        cases: All cases.
        on_error: Takes the error of each other case, a ConfigError where its bag is another's.
        progress: Told how many cases are done.
    """
    scored, predictions = [], []
    for index, labelled in enumerate(cases):
        try:
            prediction = predictor.predict(labelled.case, progress=lambda done, total: None)
        except (CaseError, ConfigError) as error:
            on_error(error)
        else:
            scored.append(labelled)
            predictions.append(prediction)
        progress(index + 1, len(cases))
    return scored, predictions


def describe_warnings(predictions: Sequence[Prediction], notice: str) -> list[str]:
    """Return each kind of warning, and how many of the cases have it, the most frequent first.

    The bundle's notice, which all cases have, is left out.
    """
    causes = group_messages(
        (found.case_id, [text for text in found.warnings if text != notice])
        for found in predictions
    )
    return [f"{len(cause.cases)} of {len(predictions)} cases: {cause.text}" for cause in causes]


def write_scores(
    path: Path, cases: Sequence[LabelledCase], predictions: Sequence[Prediction]
) -> None:
    """Write outcomes, risks and predicted times as CSV, whole or not at all."""
    rows = [
        {
            "case_id": labelled.case_id,
            "event": int(labelled.event),
            "time": labelled.time,
            "risk": prediction.risk,
            "predicted_time": prediction.time,
        }
        for labelled, prediction in zip(cases, predictions, strict=True)
    ]
    write_csv(path, rows)


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write one or more rows as CSV, with a header, whole or not at all."""
    text = StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())
