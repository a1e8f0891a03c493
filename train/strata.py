"""Batches that keep the strata of Cox's loss together, and what the loss then compares."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.errors import ConfigError, Warn
from train.cohort import LEAST_PER_STRATUM, LabelledCase
from train.config import LEAST_BATCH

IntArray = npt.NDArray[np.int64]


def cut_batches(
    event: npt.NDArray[np.bool_], strata: IntArray, size: int | None, seed: Sequence[int]
) -> list[IntArray]:
    """Cut shuffled cases into batches of nearly equal size, each with an event and 16 cases.

    Strata come one after another in random order, so that few are in more batches than they need.

    Args:
        event: (n,), with an event at least.
        strata: (n,), all the same where the loss has none.
        size: Of a batch, more only where cases or events are too few; None for one of all cases.
        seed: Of the shuffling.
    """
    if size is None or size >= len(event):
        return [np.arange(len(event))]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(event))
    dealt: list[IntArray] = []
    for stratum in rng.permutation(np.unique(strata)):
        own = order[strata[order] == stratum]
        # Dealt out events first, every part gets one.
        own = np.concatenate([own[event[own]], own[~event[own]]])
        parts = max(1, min(math.ceil(len(own) / size), int(event[own].sum())))
        # Batches cut parts in two: what is cut off must not be of one outcome.
        dealt += [rng.permutation(own[start::parts]) for start in range(parts)]
    # Cut evenly, batches of 16 would be of 11 where there are 33 cases.
    most = max(1, len(event) // LEAST_BATCH)
    count = min(math.ceil(len(event) / size), most, int(event.sum()))
    batches = np.array_split(np.concatenate(dealt), count)
    for batch in batches:
        if not event[batch].any():  # of a stratum with few events
            richest = max(batches, key=lambda other: int(event[other].sum()))
            first = int(event[richest].argmax())
            batch[0], richest[first] = richest[first], batch[0]
    return [np.sort(batch) for batch in batches]


def check_risk_sets(
    cases: Sequence[LabelledCase], batch_cases: int | None, source: str, *, warn: Warn
) -> None:
    """Refuse a cohort that Cox's loss, whose risk sets never cross two strata, learns nothing of.

    Of each stratum of a batch the last case to leave has nobody to be compared with.

    Args:
        cases: To train on.
        batch_cases: How many are in a batch; None for one of all.
        source: Where they come from.
        warn: Told when more than a quarter of the events are lost so, or centres share a stratum.

    Raises:
        ConfigError: All are.
    """
    pooled = {case.centre for case in cases if not case.stratum}
    if len(pooled) > 1:
        warn(
            f"{source}: {len(pooled)} centres of fewer than {LEAST_PER_STRATUM} cases each are "
            "one stratum of the Cox loss, in which their cases are compared with each other's"
        )
    event = np.array([case.event for case in cases])
    strata = np.unique([case.stratum for case in cases], return_inverse=True)[1]
    batches = cut_batches(event, strata, batch_cases, seed=[0])
    events, lost = int(event.sum()), sum(_lost([cases[i] for i in own]) for own in batches)
    if lost == events:
        raise ConfigError(
            f"{source}: expected events at which others of the same centre are at risk (the Cox "
            f"loss compares these alone), found none of {events} in {len(set(strata))} centres"
        )
    if lost > events / 4:
        where = f"in batches of {batch_cases} cases" if len(batches) > 1 else "in the cohort"
        warn(
            f"{source}: {lost} of {events} events have nobody else of their centre at risk "
            f"{where} and teach the Cox loss nothing; are the {len(set(strata))} centres right?"
        )


def _lost(cases: Sequence[LabelledCase]) -> int:
    """Count the strata whose longest time is one case's alone, and an event."""
    longest: dict[str, float] = {}
    for case in cases:
        longest[case.stratum] = max(case.time, longest.get(case.stratum, 0.0))
    last = [case for case in cases if case.time == longest[case.stratum]]
    alone = Counter(case.stratum for case in last)
    return sum(case.event and alone[case.stratum] == 1 for case in last)
