"""How far a job is, for somebody who looks on."""

import sys
import time
from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Takes how many cases or patches are done, and how many there are."""

Say = Callable[[str], None]
"""Takes a line of what a person may want to know."""

LINE_SECONDS = 10.0
BAR_WIDTH = 30


def progress_printer(what: str) -> Progress:
    """Return a progress function on stdout: a bar on a terminal, elsewhere a line now and then."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def show(done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        write(f"\r{bar(done, total)} {done:,}/{total:,} {what}{end}")

    return show if sys.stdout.isatty() else progress_lines(what, lambda text: write(f"{text}\n"))


def bar(done: int, total: int) -> str:
    """Draw how much is done."""
    return f"[{'#' * (BAR_WIDTH * done // max(total, 1)):<{BAR_WIDTH}}]"


def progress_lines(what: str, say: Say) -> Progress:
    """Return a progress function that says a line now and then, and one at the end."""
    last = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        if done >= total or time.monotonic() - last > LINE_SECONDS:
            last = time.monotonic()
            say(f"{done:,}/{total:,} {what}")

    return line
