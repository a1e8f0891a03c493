"""Labelled cases become a fold; what cannot be used names its case."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import no_warning
from toy_bundles import make_bundle

from model.bags import bag_path, write_bag
from model.batch import Bag, CaseInputs
from model.case import Case, Record
from model.encoders import ENCODERS
from model.errors import CaseError, ConfigError
from model.patches import PatchSpec
from train.cohort import LabelledCase
from train.dataset import Bags, make_fold, subsample, tensor_fold
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


@pytest.mark.parametrize("events", [7, 8, 20, 64])
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


def test_a_fold_numbers_the_strata_of_its_cases(tmp_path: Path) -> None:
    member = make_bundle("snn").members[0]
    values = {gene: float(place) for place, gene in enumerate(member.rna.genes)}
    genes = Record(values, tmp_path / "rna.csv")
    cases = [
        LabelledCase(Case(f"P{row}", rna=genes), event=True, time=1.0, centre="", stratum=name)
        for row, name in enumerate("bab")
    ]
    bags = Bags(tmp_path, ENCODERS["uni"], PatchSpec())
    fold = make_fold(member, cases, bags, warn=lambda text: None)
    assert fold.strata.tolist() == [1, 0, 1]


def test_a_case_without_what_its_fusion_needs_is_refused(tmp_path: Path) -> None:
    member = make_bundle("concat").members[0]  # which can do without RNA alone
    cases = [LabelledCase(Case("P007"), event=True, time=1.0, centre="")]
    bags = Bags(tmp_path, ENCODERS["uni"], PatchSpec())
    message = "case P007: expected slide (not optional in this run), found none"
    with pytest.raises(ConfigError, match="^" + re.escape(message) + "$"):
        make_fold(member, cases, bags, warn=no_warning)


def test_drawn_patches_are_other_ones_each_with_its_place() -> None:
    at = torch.arange(50)
    bag = CaseInputs(bag=at[:, None].float(), coords=at[:, None].expand(-1, 2), slide_index=at)
    drawn = subsample(bag, 40, np.random.default_rng(0))
    assert drawn.slide_index is not None
    assert len(drawn.slide_index.unique()) == 40
    assert drawn.slide_index.diff().min() > 0
    for other in (drawn.bag, drawn.coords):
        assert other is not None
        assert other[:, 0].long().equal(drawn.slide_index)
