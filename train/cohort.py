"""The labelled cohort: cases with their outcomes, of a download or a manifest."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from model.case import Case, Record, has_value
from model.errors import CaseError, ConfigError, Warn
from model.interface import Interface
from model.manifest import Row, Tables, build_case, list_download, list_table, read_tables
from model.messages import failures, some
from model.rows import SUFFIXES
from train.config import CohortConfig
from train.estimate import Outcome
from train.labels import download_labels, to_event, to_time

OnError = Callable[[CaseError], None]

MIN_EVENTS = 5
LEAST_PER_STRATUM = 20
"""Cases of a centre; of 20, an inner validation fold (a quarter of four fifths) still has 4."""

_MONTHS_PER_UNIT = {"days": 12 / 365.25, "months": 1.0, "years": 12.0}
_SHORTEST_YEARS = 1.5  # years that are taken for months end sooner
_LONGEST_YEARS = 50  # nobody is followed for longer; days that are taken for months are


@dataclass(frozen=True)
class LabelledCase:
    """A case with its outcome.

    Attributes:
        event: True = the event was observed.
        time: To the event or the end of follow-up, in the task's unit.
        centre: Cases of one centre share it, as do those of none, which is empty; folds are
            balanced by it.
        patient: Cases of one patient share it; None where the case id tells the patient.
        stratum: Of the Cox loss, which compares cases of one stratum alone.
    """

    case: Case
    event: bool
    time: float
    centre: str
    patient: str | None = None
    stratum: str = ""

    @property
    def case_id(self) -> str:
        """The case's id."""
        return self.case.case_id

    @property
    def patient_id(self) -> str:
        """Whose case it is; `3B_417_` and `3B_417` are one patient."""
        return (self.patient or self.case_id).rstrip("_")


def clinical_records(cases: Sequence[LabelledCase]) -> list[Record]:
    """Return the clinical records of those cases that have one."""
    return [case.case.clinical for case in cases if case.case.clinical is not None]


def rna_records(cases: Sequence[LabelledCase]) -> list[Record]:
    """Return the RNA of those cases that have it."""
    return [case.case.rna for case in cases if case.case.rna is not None]


def refuse(error: CaseError) -> None:
    """Let a case that fails fail the whole cohort."""
    raise error


def read_cohort(
    config: CohortConfig, interface: Interface, *, warn: Warn, on_error: OnError = refuse
) -> list[LabelledCase]:
    """Read the labelled cases of a folder in the CHIMERA download's layout, or of a manifest.

    Args:
        config: Where the cases lie.
        interface: Names the labels of a download, and the unit of the times.
        warn: Takes each warning.
        on_error: Takes the error of a case whose record cannot be read; the case is left out.

    Raises:
        ConfigError: Labels are absent or out of range, the times are of another unit, or the
            cohort has too few events.
        CaseError: A record cannot be read, and `on_error` raises what it takes.
    """
    if config.root.is_dir():
        cases = _read_download(config, interface, warn=warn, on_error=on_error)
    elif config.root.suffix.lower() in SUFFIXES:
        cases = _read_table(config, interface, warn=warn, on_error=on_error)
    else:
        raise ConfigError(
            f"{config.root}: expected a folder in the CHIMERA download's layout or a manifest "
            f"({', '.join(SUFFIXES)}), found neither"
        )
    check_outcomes(cases, str(config.root))
    _check_unit(cases, config, interface, warn=warn)
    return cases


def with_strata(cases: Sequence[LabelledCase]) -> list[LabelledCase]:
    """Return the cases with their centre as stratum; small centres and cases of none share one.

    Of a small centre, few events of a batch or a fold have anyone to be compared with. To pool
    such centres assumes that they share a baseline hazard, which too few cases could not tell.
    """
    sizes = Counter(case.centre for case in cases)
    return [
        replace(case, stratum=case.centre if sizes[case.centre] >= LEAST_PER_STRATUM else "")
        for case in cases
    ]


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
    """Return the cases' events and times, and whose they are."""
    return Outcome(
        event=np.array([case.event for case in cases]),
        time=np.array([case.time for case in cases], dtype=np.float64),
        patient=np.unique([case.patient_id for case in cases], return_inverse=True)[1],
    )


def _read_download(
    config: CohortConfig, interface: Interface, *, warn: Warn, on_error: OnError
) -> list[LabelledCase]:
    """Read a folder, where the labels are in the clinical records.

    A folder whose name is another's with a trailing underscore is that patient again (the public
    set has `3B_417_`), and is left out. The centre is the id's part before the first underscore;
    an id without one names none.
    """
    if config.rna_table or config.clinical_table:
        raise ConfigError(
            f"{config.root}: expected a manifest beside rna_table or clinical_table, found a folder"
        )
    if not (interface.clinical.event and interface.clinical.time):
        raise ConfigError(
            f"interface {interface.name}: expected names of the label fields, found none; "
            "use a manifest with columns event and time"
        )
    rows = list_download(config.root)
    absent = [row.case_id for row in rows if not row.has_files]
    if absent:
        warn(f"{config.root}: left out, as they hold none of a case's files: {some(absent)}")
    rows = [row for row in rows if row.has_files]
    built = _build_cases(rows, interface, Tables(), warn=warn, on_error=on_error)
    cases = [case for _, case in built]
    ids = {case.case_id for case in cases}
    labelled = []
    unusable: dict[str, ConfigError] = {}
    for case in cases:
        original = case.case_id.rstrip("_")
        if original != case.case_id and original in ids:
            warn(f"{case.case_id}: left out as a duplicate of {original}")
            continue
        try:
            event, time = download_labels(case, interface)
        except ConfigError as error:
            unusable[case.case_id] = error
            continue
        centre = original.partition("_")[0] if "_" in original else ""
        labelled.append(LabelledCase(case, event, time * _factor(config, interface), centre))
    _refuse_labels(unusable, config.root)
    return labelled


def _read_table(
    config: CohortConfig, interface: Interface, *, warn: Warn, on_error: OnError
) -> list[LabelledCase]:
    """Read a manifest with the columns `event` and `time`, and maybe `patient_id` and `centre`."""
    rows = list_table(config.root)
    absent = [name for name in ("event", "time") if name not in rows[0].fields]
    if absent:
        raise ConfigError(f"{config.root}: expected columns event and time, found no {absent[0]}")
    # Labels first: a wrong one is told before minutes of reading.
    labels = {}
    unusable: dict[str, ConfigError] = {}
    for row in rows:
        where = f"case {row.case_id}"
        try:
            labels[row.case_id] = (
                to_event(row.fields["event"], f"{where}: event"),
                to_time(row.fields["time"], f"{where}: time"),
            )
        except ConfigError as error:
            unusable[row.case_id] = error
    _refuse_labels(unusable, config.root)
    tables = read_tables(
        rows, interface, rna=config.rna_table, clinical=config.clinical_table, warn=warn
    )
    tables = replace(tables, sources={})  # one line has told of all cases without a row
    factor = _factor(config, interface)
    return [
        LabelledCase(
            case=case,
            event=labels[row.case_id][0],
            time=labels[row.case_id][1] * factor,
            centre=_known(row, "centre"),
            patient=_known(row, "patient_id") or None,
        )
        for row, case in _build_cases(rows, interface, tables, warn=warn, on_error=on_error)
    ]


def _refuse_labels(unusable: Mapping[str, ConfigError], root: Path) -> None:
    """Refuse outcomes that cannot be used, all in one line, so that they are mended at once."""
    if len(unusable) == 1:
        raise ConfigError(f"{root}: {next(iter(unusable.values()))}")
    if unusable:
        raise ConfigError(f"{root}: {len(unusable)} cases: {failures(unusable)}")


def _known(row: Row, name: str) -> str:
    """Return a cell, empty where it says that nothing is known."""
    cell = row.fields.get(name, "")
    return cell if has_value(cell) else ""


def _build_cases(
    rows: Sequence[Row], interface: Interface, tables: Tables, *, warn: Warn, on_error: OnError
) -> Iterator[tuple[Row, Case]]:
    """Read the records of each case; one that cannot be read is `on_error`'s."""
    for row in rows:
        try:
            case = build_case(row, interface, tables, warn=warn)
        except CaseError as error:
            on_error(error)
            continue
        yield row, case


def _factor(config: CohortConfig, interface: Interface) -> float:
    """Return the task's time units in one of the cohort's."""
    unit = interface.output.unit
    return _MONTHS_PER_UNIT[config.time_unit or unit] / _MONTHS_PER_UNIT[unit]


def _check_unit(
    cases: Sequence[LabelledCase], config: CohortConfig, interface: Interface, *, warn: Warn
) -> None:
    unit = interface.output.unit
    longest = max(case.time for case in cases)
    years = longest * _MONTHS_PER_UNIT[unit] / 12
    if years > _LONGEST_YEARS:
        raise ConfigError(
            f"{config.root}: expected times in {config.time_unit or unit}, found follow-up of "
            f"{years:,.0f} years; say their unit in cohort.time_unit"
        )
    if years < _SHORTEST_YEARS:
        warn(
            f"{config.root}: the longest follow-up is {12 * years:.3g} months; are the times in "
            f"{config.time_unit or unit} (cohort.time_unit)?"
        )
