"""The strata of Cox's loss: what is compared in a cohort, and in batches."""

import re

import numpy as np
import numpy.typing as npt
import pytest
import torch
from synthetic import no_warning

from model.case import Case
from model.errors import ConfigError
from train.cohort import LabelledCase, outcomes
from train.losses import cox_nll
from train.strata import check_risk_sets, cut_batches

IntArray = npt.NDArray[np.int64]

# -- risk sets -------------------------------------------------------------------------------------


def labelled(centres: str, times: tuple[int, ...], events: str) -> list[LabelledCase]:
    """Return cases, a letter a centre."""
    return [
        LabelledCase(Case(f"C{i}"), event == "1", float(time), centre, stratum=centre)
        for i, (centre, time, event) in enumerate(zip(centres, times, events, strict=True))
    ]


def test_a_cohort_that_teaches_the_cox_loss_nothing_is_refused() -> None:
    cases = labelled("AABBC", (2, 1, 4, 3, 5), "10101")
    seen = outcomes(cases)
    loss = cox_nll(
        torch.arange(5),
        event=torch.from_numpy(seen.event),
        time=torch.from_numpy(seen.time),
        strata=torch.tensor([0, 0, 1, 1, 2]),
    )
    assert loss == 0
    with pytest.raises(ConfigError) as caught:
        check_risk_sets(cases, None, "here", warn=no_warning)
    assert str(caught.value) == (
        "here: expected events at which others of the same centre are at risk (the Cox loss "
        "compares these alone), found none of 3 in 3 centres"
    )


@pytest.mark.parametrize(
    ("centres", "times", "events", "lost"),
    [
        ("AAAA", (1, 2, 3, 4), "1111", None),  # the last one has outlived all others
        ("AAAAB", (1, 2, 3, 5, 4), "11110", None),
        ("ACCC", (1, 2, 3, 3), "1111", None),
        ("ABAB", (1, 2, 3, 4), "1111", 2),
        ("ABCDD", (1, 2, 3, 4, 4), "11110", 3),
        ("ABCA", (1, 2, 3, 4), "1111", 3),
    ],
)
def test_events_with_nobody_else_at_risk_are_told_where_they_are_many(
    centres: str, times: tuple[int, ...], events: str, lost: int | None
) -> None:
    warnings: list[str] = []
    check_risk_sets(labelled(centres, times, events), None, "here", warn=warnings.append)
    text = f"here: {lost} of 4 events have nobody else of their centre at risk in the cohort and "
    assert [warning.startswith(text) for warning in warnings] == [True] * (lost is not None)


def test_what_batches_compare_counts_and_pooled_centres_are_told() -> None:
    """Ten centres of 20 in batches of 16 lose what the whole cohort compares."""
    centres = "".join(letter * 20 for letter in "ABCDEFGHIJ")
    cases = labelled(centres, tuple(range(1, 201)), "00000000000000000011" * 10)
    cases += [LabelledCase(Case(centre), False, 1.0, centre) for centre in ("small", "")]
    warnings: list[str] = []
    check_risk_sets(cases, None, "here", warn=warnings.append)
    check_risk_sets(cases, 16, "here", warn=warnings.append)
    pooled, _, again, batches = warnings
    assert pooled == again
    assert pooled.startswith("here: 2 centres of fewer than 20 cases each are one stratum of the ")
    assert re.fullmatch(
        r"here: 1\d of 20 events have nobody else of their centre at risk in batches of 16 .*",
        batches,
    )


def test_one_small_centre_is_pooled_with_nobody() -> None:
    cases = labelled("AAAA", (1, 2, 3, 4), "1110")
    cases += [LabelledCase(Case(f"S{i}"), False, 5.0, "small") for i in range(3)]
    check_risk_sets(cases, None, "here", warn=no_warning)


# -- batches ---------------------------------------------------------------------------------------


def share_compared(event: IntArray, strata: IntArray, batches: list[IntArray]) -> float:
    """Return the share of events with a case of their stratum after them in their batch."""
    compared = [
        (strata[own[own > i]] == strata[i]).any() for own in batches for i in own[event[own]]
    ]
    return float(np.mean(compared))


def test_batches_keep_strata_together() -> None:
    """Six centres of 24 cases, batches of 16: of events dealt out at random, two thirds count."""
    rng = np.random.default_rng(0)
    event, strata = rng.random(144) < 0.36, rng.permutation(np.arange(144) % 6)
    shares = []
    for seed in range(20):
        batches = cut_batches(event, strata, 16, [seed])
        assert sorted(np.concatenate(batches).tolist()) == list(range(144))
        assert {len(own) for own in batches} == {16}
        assert all(event[own].any() for own in batches)
        shares.append(share_compared(event, strata, batches))
    assert np.mean(shares) > 0.87


def test_events_are_dealt_out_evenly_to_ever_other_cases() -> None:
    event, strata = np.arange(64) % 8 == 0, np.zeros(64, dtype=np.int64)
    companions: set[int] = set()
    for seed in range(60):
        batches = cut_batches(event, strata, 16, [seed])
        assert [int(event[own].sum()) for own in batches] == [2, 2, 2, 2]
        companions.update(next(own for own in batches if 5 in own).tolist())
    assert companions == set(range(64))


def test_each_stratum_has_each_other_for_a_neighbour() -> None:
    event, strata = np.arange(72) % 4 == 0, np.arange(72) // 24
    shared = set()
    for seed in range(20):
        for own in cut_batches(event, strata, 16, [seed]):
            shared.add(tuple(np.unique(strata[own]).tolist()))
    assert shared >= {(0, 1), (0, 2), (1, 2)}


def test_there_are_no_more_batches_than_events() -> None:
    event = np.arange(64) < 2
    batches = cut_batches(event, np.zeros(64, dtype=np.int64), 16, [0])
    assert [(len(own), int(event[own].sum())) for own in batches] == [(32, 1), (32, 1)]


def test_batches_differ_by_epoch_and_not_by_run() -> None:
    event, strata = np.arange(100) % 3 == 0, np.arange(100) % 4
    first, again, other = (cut_batches(event, strata, 16, [seed]) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_stratum_without_events_leaves_each_batch_one() -> None:
    strata = np.arange(100) // 50
    event = (strata == 0) & (np.arange(100) % 6 == 0)  # 9 events for 6 batches
    for seed in range(20):
        batches = cut_batches(event, strata, 16, [seed])
        assert sorted(np.concatenate(batches).tolist()) == list(range(100))
        assert len(batches) == 6 and all(event[own].any() for own in batches)


@pytest.mark.parametrize(("cases", "size"), [(33, 16), (17, 16), (140, 16), (49, 24), (65, 64)])
def test_no_batch_has_fewer_than_16_cases(cases: int, size: int) -> None:
    event, strata = np.ones(cases, dtype=bool), np.arange(cases) % 3
    for own in cut_batches(event, strata, size, [0]):
        assert 16 <= len(own) <= max(size, 31)


def test_a_batch_has_events_and_others_of_a_stratum_alike() -> None:
    """Cut with its events in front, a part had them in one batch and their controls in the next."""
    strata = np.repeat([0, 1], [98, 42])
    event = np.isin(np.arange(140), [*range(0, 98, 3), *range(98, 140, 3)])
    lonely = [
        stratum
        for epoch in range(200)
        for batch in cut_batches(event, strata, 32, [epoch])
        for stratum in (0, 1)
        if (strata[batch] == stratum).sum() > 5 and not event[batch][strata[batch] == stratum].any()
    ]
    assert len(lonely) < 10
