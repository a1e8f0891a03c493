"""What a cell of a table or a value of a record tells, as text and as a number."""

import math

_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"  # characters of no width, as web pages leave them


def as_text(cell: object) -> str:
    """Return a cell as text, empty where nothing is known."""
    missing = cell is None or (isinstance(cell, float) and math.isnan(cell))
    return "" if missing else str(cell).strip().strip(_INVISIBLE).strip()


def to_number(value: int | float | str) -> float:
    """Return a number, or what a text tells as one; NaN where it is none."""
    if isinstance(value, str) and "_" in value:  # a code of two parts, which Python reads as one
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):  # no number, or an integer of hundreds of digits
        return math.nan
