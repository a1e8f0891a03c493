"""What the commands print."""

import re

from model.errors import Warn
from train import ranks

_UNKNOWN_CATEGORY = re.compile(r": [^:]*: expected one of ")


def say(text: str) -> None:
    """Print a line at once, also into a file or pipe; of several processes, the first speaks."""
    if ranks.is_first():
        print(text, flush=True)


def warn(text: str) -> None:
    """Print a warning; of several processes, whichever meets it."""
    print(f"warning: {text}", flush=True)


def once() -> Warn:
    """Return a warning printer that says each thing once, however many folds meet it.

    Of a column's unknown categories it names one: each fold lacks other rare ones.
    """
    seen: set[str] = set()

    def warn_once(text: str) -> None:
        of_column = _UNKNOWN_CATEGORY.search(text)
        kind = of_column.group() if of_column else text
        if kind not in seen:
            seen.add(kind)
            warn(text)

    return warn_once
