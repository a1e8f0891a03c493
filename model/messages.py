"""Lines for people: lists, numbers with their nouns, and what members say, on one line."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SOME = 5
LONGEST_NAME = 200

_NAMES = r": [A-Z][^\s,:]*(?:, [^\s,:]+)*(?: and \S+ more)?$"
_VALUES = r"(?<=: expected one of ).*(?=, found )"
# What stands before a column's value, or before what was expected, is the column's name.
_NUMBER = r"(?<![\w.,-])-?\d+(?:,\d+)*(?:\.\d+)?(?:e[+-]\d+)?(?![\w/]|[.,]\d|.*: (?:expected|-?\d))"
_PART = re.compile(f"{_NAMES}|{_VALUES}|{_NUMBER}")


def some(names: Sequence[str]) -> str:
    """List the first of many names, and of a very long one the first letters."""
    more = f" and {len(names) - SOME:,} more" if len(names) > SOME else ""
    return ", ".join(map(_short, names[:SOME])) + more


def repeated(names: Iterable[str]) -> list[str]:
    """Return the names that are there more than once, each once."""
    return [name for name, count in Counter(names).items() if count > 1]


def failures(failed: Mapping[str, object]) -> str:
    """Name the cases that failed, and why the first one did; `failed` has each one's reason."""
    return f"{some(list(failed))}; the first, {next(iter(failed.values()))}"


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."


def listed(names: Iterable[str]) -> str:
    """List all names, or say that there are none."""
    return ", ".join(names) or "none"


def counted(number: int, noun: str) -> str:
    """Return "1 worker" or "2 workers"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = isinstance(value, Mapping)
        flat |= flatten(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return flat


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """List the first nested settings that differ, as "fit.epochs=5 not 6"."""
    old, new = flatten(found), flatten(wanted)
    names = [name for name in old | new if old.get(name) != new.get(name)]
    return some([f"{name}={_setting(old, name)} not {_setting(new, name)}" for name in names])


def _setting(settings: Mapping[str, Any], name: str) -> Any:
    value = settings.get(name)
    return "none" if value is None else value


def describe_interval(ends: tuple[float, float], follow_up: float) -> str:
    """Say from when to when an event is expected.

    Args:
        ends: As `TimeMapping.interval` gives them: at most `follow_up`, and there not before then.
        follow_up: When the follow-up ends that is answered for. A mean until then, as `rmst` is,
            comes before an interval that begins with it.
    """
    low, high = ends
    if low >= follow_up:
        return f"not before {low:.1f}, the end of the follow-up"
    return f"{low:.1f} to {high:.1f}{' or later' if high >= follow_up else ''}"


def merge_messages(messages: Iterable[str]) -> list[str]:
    """Join messages that differ in numbers or lists alone, in the order of the first of each.

    A number that differs becomes a range, "70.9 to 71.6"; of lists, the longest is kept.
    """
    alike: dict[str, list[str]] = {}
    for message in messages:
        alike.setdefault(_PART.sub("…", message), []).append(message)
    return [_merge(group) for group in alike.values()]


def _merge(messages: Sequence[str]) -> str:
    """Join messages of one kind."""
    columns = zip(*map(_PART.findall, messages), strict=True)
    merged = iter([_merge_parts(column) for column in columns])
    return _PART.sub(lambda _: next(merged), messages[0])


def _merge_parts(parts: Sequence[str]) -> str:
    if len(set(parts)) == 1:
        return parts[0]
    if not all(re.fullmatch(_NUMBER, part) for part in parts):
        return max(parts, key=len)
    rising = sorted(parts, key=lambda part: float(part.replace(",", "")))
    return f"{rising[0]} to {rising[-1]}"
