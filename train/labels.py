"""Outcomes as tables and public clinical records tell them: was there the event, and when."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from model.case import Case
from model.cells import to_number
from model.clinical import lower_keys
from model.errors import ConfigError
from model.interface import ClinicalSchema, Interface
from model.json_files import read_json

_EVENTS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def label_value(values: Mapping[str, object], names: Sequence[str]) -> object:
    """Return the value under the first of the names that the record has, without case; or None."""
    lower = lower_keys(values)
    return next((lower[name.lower()] for name in names if name.lower() in lower), None)


def case_labels(path: Path, schema: ClinicalSchema) -> tuple[object, object]:
    """Return the (event, time) that a public clinical record carries, each None where absent."""
    content = read_json(path, warn=lambda text: None)  # said where the case is read
    values = content if isinstance(content, dict) else {}
    return label_value(values, schema.event), label_value(values, schema.time)


def download_labels(case: Case, interface: Interface) -> tuple[bool, float]:
    """Return a case's event and time, which lie in its clinical record.

    Raises:
        ConfigError: There are none, or they cannot be used.
    """
    schema = interface.clinical
    if case.clinical is None:
        raise ConfigError(
            f"case {case.case_id}: expected a clinical record with labels, found none"
        )
    source = case.clinical.source
    event, time = case_labels(source, schema)
    where = f"case {case.case_id}: {source}"
    return (
        to_event(event, f"{where}: {schema.event[0]}"),
        to_time(time, f"{where}: {schema.time[0]}"),
    )


def to_event(value: object, where: str) -> bool:
    """Return whether a label says that the event was observed.

    Raises:
        ConfigError: It says neither.
    """
    code = str(value).strip().lower()
    if code not in _EVENTS:
        hint = "; 1 may mean censored in a coding of 1 and 2" if code in ("2", "2.0") else ""
        raise ConfigError(
            f"{where}: expected 1 or true (event), 0 or false (censored), found {value!r}{hint}"
        )
    return _EVENTS[code]


def to_time(value: object, where: str) -> float:
    """Return a label's time, in the cohort's unit.

    Raises:
        ConfigError: It is no number above 0.
    """
    number = to_number(str(value))
    if not (math.isfinite(number) and number > 0):
        raise ConfigError(f"{where}: expected a time above 0, found {value!r}")
    return number
