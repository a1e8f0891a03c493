"""Writing the answer: one bare number, whole or not at all."""

import errno
import json
import math
from pathlib import Path
from typing import Any

import pytest
from job_files import (
    CHIMERA,
)

from model.case import (
    Prediction,
    write_prediction,
)
from model.errors import CaseError
from model.interface import Interface, Output

MONTHS = 37.400000000000006 / 3


def prediction(**changes: Any) -> Prediction:
    fields: dict[str, Any] = {
        "case_id": "3A_001",
        "risk": -0.1234567890123456,
        "time": MONTHS,
        "unit": "months",
        "survival": {12: 0.9},
        "median": None,
        "interval": (1.0, 90.0),
        "modalities": ("rna",),
    }
    return Prediction(**fields | changes)


def interface_with(**changes: Any) -> Interface:
    output = Output.model_validate(CHIMERA.output.model_dump() | changes)
    return CHIMERA.model_copy(update={"output": output})


ANSWERS = {
    "as it is": (prediction(), {}, MONTHS),
    "months to years": (prediction(time=30.0), {"unit": "years"}, 2.5),
    "years to months": (prediction(unit="years"), {}, MONTHS * 12),
    "years to years": (prediction(unit="years", time=3.3), {"unit": "years"}, 3.3),
    "risk": (prediction(), {"direction": "risk"}, -0.1234567890123456),
    "risk has no unit": (
        prediction(),
        {"direction": "risk", "unit": "years"},
        -0.1234567890123456,
    ),
    "tiny": (prediction(time=1e-300), {}, 1e-300),
}


@pytest.mark.parametrize(("answer", "output", "expected"), ANSWERS.values(), ids=ANSWERS)
def test_the_answer_is_one_bare_unrounded_number(
    tmp_path: Path, answer: Prediction, output: dict[str, str], expected: float
) -> None:
    folder = tmp_path / "output"
    path = write_prediction(answer, interface_with(**output), folder)
    assert path == folder / "likelihood-of-bladder-cancer-recurrence.json"
    assert path.read_text() == repr(expected)
    assert json.loads(path.read_text()) == expected
    assert list(folder.iterdir()) == [path]


def test_an_answer_replaces_the_one_before(tmp_path: Path) -> None:
    write_prediction(prediction(time=1.0), CHIMERA, tmp_path)
    path = write_prediction(prediction(time=2.0), CHIMERA, tmp_path)
    assert path.read_text() == "2.0"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("direction", ["time", "risk"])
def test_a_number_that_is_not_finite_is_refused_and_leaves_no_file(
    tmp_path: Path, value: float, direction: str
) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_prediction(
            prediction(time=value, risk=value), interface_with(direction=direction), tmp_path
        )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("a file")
    with pytest.raises(CaseError) as caught:
        write_prediction(prediction(), CHIMERA, tmp_path / "output")
    assert str(caught.value) == (
        f"case 3A_001: {tmp_path}/output/likelihood-of-bladder-cancer-recurrence.json: "
        "expected a writable folder, found File exists"
    )


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_some(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_some)
    with pytest.raises(CaseError, match=r"found No space left on device$"):
        write_prediction(prediction(), CHIMERA, tmp_path)
    assert list(tmp_path.iterdir()) == []
