"""What a Predictor says beside the time, in the task's unit; what a member takes of a bag."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from job_files import CLINICAL, RNA, SLIDE, no_warning
from jobs import record_contents
from small_bundles import build_bundle
from toy_bundles import make_bundle

from model.batch import Bag
from model.bundle import Bundle
from model.case import Case, Record, SlideFile
from model.errors import CaseError
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
        months: mapping.survival(risk, [count * one_year])[0, 0]
        for months, count in years.items()
        if count * one_year <= mapping.tau
    }
    assert found.interval == tuple(mapping.interval(risk, 0.8)[0])
    assert (found.unit, found.time) == (unit, mapping.time(risk)[0])


def test_a_curve_has_no_value_beyond_the_follow_up() -> None:
    bundle = build_bundle(modalities=("rna", "clinical"))
    bundle = replace(bundle, mapping=replace(bundle.mapping, tau=35.9))
    records = record_contents()
    case = Case("C0", clinical=Record(records[CLINICAL], Path("clinical.json")))
    case = replace(case, rna=Record(records[RNA], Path("rna.json")))
    predictor = Predictor(bundle, weights_dirs=(), device=torch.device("cpu"))
    assert set(predictor.predict(case, progress=lambda *_: None).survival) == {12, 24}


def test_an_absent_record_is_told_before_slides_are_read(
    strict_bundle: Path, contents: dict[str, Any]
) -> None:
    predictor = Predictor(Bundle.load(strict_bundle), weights_dirs=(), device=torch.device("cpu"))
    predictor.embed = Mock()
    slides = (SlideFile(contents[SLIDE], None),)
    with pytest.raises(CaseError, match="C0: rna: expected the modality"):
        predictor.predict(Case("C0", slides=slides), progress=lambda done, total: None)
    predictor.embed.assert_not_called()


def test_a_member_takes_a_bag_with_its_places() -> None:
    bag = Bag(torch.randn(3, 6), torch.arange(6).view(3, 2), torch.tensor([0, 0, 1]))
    inputs = make_bundle("hvtsurv").members[0].inputs(Case("C0"), bag, warn=no_warning)
    assert inputs.bag is bag.embeddings
    assert inputs.coords is bag.coords
    assert inputs.slide_index is bag.slide_index
