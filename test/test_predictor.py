"""What a Predictor says beside the time: curve, median and interval, in the task's unit."""

from pathlib import Path

import pytest
import torch
from job_files import CLINICAL, RNA
from jobs import record_contents
from small_bundles import build_bundle

from model.case import Case, Record
from model.predictor import Predictor


@pytest.mark.parametrize(("unit", "one_year"), [("months", 12.0), ("years", 1.0)])
def test_curve_and_interval_are_those_of_the_mapping(unit: str, one_year: float) -> None:
    bundle = build_bundle(modalities=("rna", "clinical"), unit=unit)
    predictor = Predictor(bundle, weights_dirs=(), device=torch.device("cpu"))
    records = record_contents()
    case = Case(
        "C0",
        rna=Record(records[RNA], Path("rna.json")),
        clinical=Record(records[CLINICAL], Path("clinical.json")),
    )
    found = predictor.predict(case, progress=lambda done, total: None)
    mapping, risk = bundle.mapping, [found.risk]
    years = {12: 1, 24: 2, 36: 3, 60: 5}
    assert found.survival == {
        months: mapping.survival(risk, [count * one_year])[0, 0] for months, count in years.items()
    }
    assert found.interval == tuple(mapping.interval(risk, 0.8)[0])
    assert (found.unit, found.time) == (unit, mapping.time(risk)[0])
