"""How far a cohort is, for somebody who looks in now and then."""

import time
from typing import TextIO

from model.cohort import Counts, CountsProgress
from model.progress import bar

LINE_SECONDS = 60.0
CLEAR_LINE = "\x1b[K"


def progress_on(stream: TextIO) -> CountsProgress:
    """Return a progress function: one bar on a terminal, elsewhere a line now and then."""
    started = last = time.monotonic()
    is_terminal = stream.isatty()

    def show(counts: Counts) -> None:
        nonlocal last
        now, is_last = time.monotonic(), counts.done >= counts.cases
        if is_terminal:
            described = describe(counts, now - started)
            stream.write(f"\r{bar(counts.done, counts.cases)} {described}{CLEAR_LINE}")
            stream.write("\n" if is_last else "")
        elif is_last or now - last >= LINE_SECONDS:
            stream.write(describe(counts, now - started) + "\n")
            last = now
        stream.flush()

    return show


def describe(counts: Counts, seconds: float) -> str:
    """Say what is done and failed, and, as soon as it can be told, how fast and how long yet."""
    text = f"{counts.done:,}/{counts.cases:,} cases, {counts.failed:,} failed"
    scored = counts.done - counts.kept
    if not scored or not seconds:
        return text
    left = round(seconds / scored * (counts.cases - counts.done))
    clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
    return f"{text}, {scored / seconds * 3600:,.0f} an hour, {clock} left"
