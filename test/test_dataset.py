"""Labelled cases become a fold; what cannot be used names its case."""

from pathlib import Path

import pytest
from synthetic import no_warning
from toy_bundles import make_bundle

from model.case import Case, Record
from model.encoder import ENCODERS
from model.errors import CaseError
from model.patches import PatchSpec
from train.cohort import LabelledCase
from train.dataset import Bags, make_fold


def test_a_row_of_a_table_that_cannot_be_used_names_its_case(tmp_path: Path) -> None:
    member = make_bundle("snn").members[0]
    case = Case("P007", rna=Record({}, tmp_path / "rna.csv"))
    cases = [LabelledCase(case, event=True, time=1.0, centre="")]
    bags = Bags(tmp_path, ENCODERS["uni"], PatchSpec())
    with pytest.raises(CaseError, match=r"^case P007: .*rna\.csv: expected at most 2 of 10 genes"):
        make_fold(member, cases, bags, warn=no_warning)
