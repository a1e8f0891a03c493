"""The labelled cohort, and folds that no patient sits in twice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.case import Case, case_labels, read_download
from model.errors import ConfigError, Warn
from model.interface import Interface
from train.estimate import Outcome

MIN_EVENTS = 5

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LabelledCase:
    """A case with its outcome.

    Attributes:
        event: True = the event was observed.
        time: To the event or the end of follow-up, in the task's unit.
        centre: Cases of one centre share it; a stratum of folds and loss.
    """

    case: Case
    event: bool
    time: float
    centre: str

    @property
    def case_id(self) -> str:
        """The case's id."""
        return self.case.case_id


def read_cohort(root: Path, interface: Interface, *, warn: Warn) -> list[LabelledCase]:
    """Read the labelled cases of a folder in the CHIMERA download's layout.

    A folder whose name is another's with a trailing underscore is that patient again (the public
    set has `3B_417_`), and is left out. The centre is the id's part before the underscore.

    Raises:
        ConfigError: A label is absent or out of range, or the cohort has too few events.
        CaseError: A record cannot be read.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: expected the folder of a cohort, found none")
    cases = read_download(root, interface)
    ids = {case.case_id for case in cases}
    labelled = []
    for case in cases:
        original = case.case_id.rstrip("_")
        if original != case.case_id and original in ids:
            warn(f"{case.case_id}: left out as a duplicate of {original}")
            continue
        labelled.append(_label(case, interface))
    check_outcomes(labelled, str(root))
    return labelled


def check_outcomes(cases: Sequence[LabelledCase], source: str) -> None:
    """Refuse a cohort that no survival model can be fitted to.

    Raises:
        ConfigError: There are fewer than `MIN_EVENTS` events, or no censored case.
    """
    events = sum(case.event for case in cases)
    if events < MIN_EVENTS:
        raise ConfigError(
            f"{source}: expected at least {MIN_EVENTS} events, found {events} in {len(cases)} cases"
        )
    if events == len(cases):
        raise ConfigError(
            f"{source}: expected censored cases beside the events, found {events} events in "
            f"{len(cases)} cases; is the event coding right (1 = event)?"
        )


def outcomes(cases: Sequence[LabelledCase]) -> Outcome:
    """Return the cases' events and times."""
    return Outcome(
        event=np.array([case.event for case in cases]),
        time=np.array([case.time for case in cases], dtype=np.float64),
    )


def stratified_folds(
    cases: Sequence[LabelledCase], k: int, *, seed: Sequence[int]
) -> list[IntArray]:
    """Cut a cohort into k disjoint test folds, balanced by event and centre.

    Cases of a stratum are dealt out in random order, each stratum starting where the last one
    stopped, so that fold sizes differ by at most one.

    Returns:
        k sorted arrays of indices.

    Raises:
        ConfigError: A fold would have no event.
    """
    events = sum(case.event for case in cases)
    if events < k:
        raise ConfigError(f"{k} folds: expected at least {k} events, found {events}")
    rng = np.random.default_rng(seed)
    strata = sorted({(case.event, case.centre) for case in cases})
    # Events first: dealt out in one go they differ by at most one between folds.
    strata.sort(key=lambda stratum: not stratum[0])
    order: list[int] = []
    for stratum in strata:
        members = [i for i, case in enumerate(cases) if (case.event, case.centre) == stratum]
        order += rng.permutation(members).tolist()
    return [np.sort(np.array(order[fold::k], dtype=np.int64)) for fold in range(k)]


def _label(case: Case, interface: Interface) -> LabelledCase:
    if case.clinical is None:
        raise ConfigError(
            f"case {case.case_id}: expected a clinical record with labels, found none"
        )
    source = case.clinical.source
    event, time = case_labels(source, interface.clinical)
    return LabelledCase(
        case=case,
        event=_event(event, f"case {case.case_id}: {source}: {interface.clinical.event[0]}"),
        time=_time(time, f"case {case.case_id}: {source}: {interface.clinical.time[0]}"),
        centre=case.case_id.partition("_")[0],
    )


def _event(value: object, where: str) -> bool:
    number = _finite(value)
    if number not in (0.0, 1.0):
        raise ConfigError(f"{where}: expected 1 (event) or 0 (censored), found {value!r}")
    return number == 1.0


def _time(value: object, where: str) -> float:
    number = _finite(value)
    if number is None or number <= 0:
        raise ConfigError(f"{where}: expected a time above 0, found {value!r}")
    return number


def _finite(value: object) -> float | None:
    if not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
