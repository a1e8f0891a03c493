"""Where the time of a job goes: `with stage("decode"):` at each stage of the work.

Nothing is measured until somebody asks for a profile; a stage then costs one comparison.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter, process_time
from typing import TextIO

_UNMEASURED: AbstractContextManager[None] = nullcontext()


class Profile:
    """Seconds of each stage, in whichever thread.

    Attributes:
        seconds: Of each stage, in the order of their first ends. A stage within another counts for
            itself alone, so that the stages of one thread add up to its time.
        calls: How often each stage came.
        busy: Seconds in which any thread was in the stage, or in one within it: of "encode" those
            in which the GPU, where there is one, was in use.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self.busy: dict[str, float] = {}
        self._threads: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._within = threading.local()
        self._started = perf_counter(), process_time()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of a block for a stage."""
        outer: float = getattr(self._within, "seconds", 0.0)
        self._within.seconds = 0.0
        started = self._count_thread(name, 1)
        try:
            yield
        finally:
            spent = self._count_thread(name, -1) - started
            with self._lock:
                own = spent - self._within.seconds
                self.seconds[name] = self.seconds.get(name, 0.0) + own
                self.calls[name] = self.calls.get(name, 0) + 1
            self._within.seconds = outer + spent

    def _count_thread(self, name: str, change: int) -> float:
        """Count a thread that enters (1) or leaves (-1) a stage; return the time."""
        with self._lock:
            now, before = perf_counter(), self._threads[name]
            self._threads[name] += change
            if 0 in (before, before + change):  # the first to enter, or the last to leave
                self.busy[name] = self.busy.get(name, 0.0) - change * now
        return now

    def table(self) -> str:
        """Return the stages, the longest first, and the time since the start, as lines."""
        wall, cpu = (
            now - then
            for now, then in zip((perf_counter(), process_time()), self._started, strict=True)
        )
        rows = [f"{'stage':<20}{'seconds':>10}{'% busy':>10}{'times':>10}"]
        for name in sorted(self.seconds, key=self.seconds.__getitem__, reverse=True):
            seconds = self.seconds[name]
            share = 100 * self.busy[name] / wall
            rows.append(f"{name:<20}{seconds:>10.3f}{share:>10.1f}{self.calls[name]:>10,}")
        spent = f"({cpu:.3f} CPU seconds; threads overlap)"
        rows.append(f"{'all':<20}{wall:>10.3f}{100:>10.1f}   {spent}")
        return "\n".join(rows)


_profiles: list[Profile] = []


def stage(name: str) -> AbstractContextManager[None]:
    """Return a context for a stage of the work, which counts its time where a profile runs."""
    return _profiles[-1].stage(name) if _profiles else _UNMEASURED


@contextmanager
def profiled(stream: TextIO | None) -> Iterator[Profile | None]:
    """Measure the stages in this context, in all threads, and write the table at its end.

    Args:
        stream: Where to; None measures nothing. After an error nothing is written.
    """
    if stream is None:
        yield None
        return
    profile = Profile()
    _profiles.append(profile)
    try:
        yield profile
    finally:
        _profiles.remove(profile)
    print(profile.table(), file=stream)
