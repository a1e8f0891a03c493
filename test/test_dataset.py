"""Labelled cases become a fold; what cannot be used names its case."""

from pathlib import Path

import pytest
import torch
from synthetic import no_warning
from toy_bundles import make_bundle

from model.bags import bag_path, write_bag
from model.batch import Bag, CaseInputs
from model.case import Case, Record
from model.encoder import ENCODERS
from model.errors import CaseError
from model.patches import PatchSpec
from train.cohort import LabelledCase
from train.dataset import Bags, make_fold, tensor_fold
from train.losses import fit_bins, to_bin


def test_a_row_of_a_table_that_cannot_be_used_names_its_case(tmp_path: Path) -> None:
    member = make_bundle("snn").members[0]
    case = Case("P007", rna=Record({}, tmp_path / "rna.csv"))
    cases = [LabelledCase(case, event=True, time=1.0, centre="")]
    bags = Bags(tmp_path, ENCODERS["uni"], PatchSpec())
    with pytest.raises(CaseError, match=r"^case P007: .*rna\.csv: expected at most 2 of 10 genes"):
        make_fold(member, cases, bags, warn=no_warning)


def test_bags_stay_in_memory_as_long_as_they_fit(tmp_path: Path) -> None:
    uni, patches = ENCODERS["uni"], PatchSpec()
    for name, count in {"A": 60, "B": 50, "C": 30, "D": 10}.items():
        places = torch.zeros(count, 2, dtype=torch.int64)
        bag = Bag(torch.zeros(count, uni.width), places, places[:, 0].contiguous())
        write_bag(bag_path(tmp_path, name), bag, uni, patches)
    bags = Bags(tmp_path, uni, patches, cache_bytes=100 * uni.width * 4)
    first = {name: bags.get(name) for name in "ABCD"}
    kept = [name for name, bag in first.items() if bags.get(name) is bag]
    assert kept == ["A", "C", "D"]


@pytest.mark.parametrize("events", [8, 20, 64])
def test_a_fusions_own_bins_hold_as_many_events_as_those_of_the_likelihood(events: int) -> None:
    """Twice as many cases: each second one is censored, the last one after all events."""
    times = torch.arange(1.0, 2 * events + 1, dtype=torch.float64)
    happened = torch.arange(2 * events) % 2 == 0
    cases = [
        LabelledCase(Case(f"P{row}"), event=event, time=time, centre="")
        for row, (event, time) in enumerate(zip(happened.tolist(), times.tolist(), strict=True))
    ]
    inputs = tuple(CaseInputs(rna=torch.zeros(1)) for _ in cases)
    fold = tensor_fold(cases, inputs, ["TP53"], None)
    quantile = fold.labels(torch.arange(2 * events), torch.device("cpu")).quantile
    bins = (4 * quantile).long()
    edges = fit_bins(event=happened, time=times, n_bins=4)
    assert bins[happened].equal(to_bin(times[happened], edges))
    assert bins.diff().min() == 0
    assert bins[-1] == 3
