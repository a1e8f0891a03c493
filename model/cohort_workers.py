"""Who scores the cases of a cohort: workers, each a process of its own with the bundle loaded.

A worker that dies (killed, out of memory, a crash in a library) costs only the case that it holds.
"""

import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from model.cohort_scorer import Result
from model.errors import ConfigError, one_line

CORES_PER_WORKER = 4
MOST_TRIES = 2
MOST_HELD = 2
MOST_DEATHS_AT_LOADING = 3

Answer = TypeVar("Answer")


class Named(Protocol):
    """A case, or its row of a manifest."""

    @property
    def case_id(self) -> str:
        """Which case it is."""
        ...


Item = TypeVar("Item", bound=Named)


class Work(Protocol):
    """What a worker does, in the process that it is sent to."""

    def on(self, device: str, threads: int) -> "Work":
        """Return the same work for a device and so many of torch's threads."""
        ...

    def load(self) -> str | None:
        """Load what every case needs, and return why it cannot be."""
        ...

    def do(self, task: Any) -> Result:
        """Do one case's task; one that cannot be done has its error in the result."""
        ...


class Worker(Protocol):
    """A process that does one thing at a time, in the order in which it is told.

    Attributes:
        device: Torch's name of the device that is its own.
        deaths: What the future of a call raises when the process has died.
    """

    device: str
    deaths: ClassVar[tuple[type[BaseException], ...]]

    def submit(self, function: Callable[..., Answer], *arguments: object) -> Future[Answer]:
        """Have the process call a function."""
        ...

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        ...


@dataclass(frozen=True)
class Workforce:
    """How many workers there are, and how each is started.

    Attributes:
        count: The most that run at a time.
        threads: Of torch in each.
        kind: Of device, "cpu" or "cuda".
        start: Takes the worker's number, below `count`.
    """

    count: int
    threads: int
    kind: str
    start: Callable[[int], Worker]


def do_all(
    rows: Iterable[Item], build_task: Callable[[Item], Any], work: Work, workforce: Workforce
) -> Iterator[tuple[Item, Result]]:
    """Yield each row with its result, as they come.

    A worker has one case in work and, while many wait, the next at hand. The one in work when it
    dies goes to the end of the queue, once; the other goes back to the front.

    Raises:
        ConfigError: What the work needs cannot be loaded, or workers die of loading it.
    """
    crew = _Crew(deque(rows), build_task, work, workforce)
    try:
        yield from crew.work()
    finally:
        crew.stop()


class _Crew(Generic[Item]):
    """The workers, the cases that they hold and those that wait."""

    def __init__(
        self,
        todo: deque[Item],
        build_task: Callable[[Item], Any],
        work: Work,
        workforce: Workforce,
    ) -> None:
        self._todo = todo
        self._build_task = build_task
        self._work = work
        self._workforce = workforce
        self._workers: dict[int, Worker] = {}
        # How many cases each worker that has loaded holds.
        self._held: dict[int, int] = {}
        # What the workers are doing, the oldest first: a case, or None while one loads.
        self._doing: dict[Future[Any], tuple[int, Item | None]] = {}
        self._deaths_of: Counter[str] = Counter()
        self._deaths_at_loading: Counter[int] = Counter()

    def work(self) -> Iterator[tuple[Item, Result]]:
        """Yield results until no case is left."""
        for number in range(min(self._workforce.count, len(self._todo))):
            self._hire(number)
        results: list[tuple[Item, Result]] = []
        while self._todo or self._holds_a_case() or results:
            # New cases go out first: no worker waits for what is done with the results.
            self._hand_out()
            yield from results
            results = list(self._take_in()) if self._todo or self._holds_a_case() else []

    def stop(self) -> None:
        """End all workers."""
        for worker in self._workers.values():
            worker.stop()

    def _hire(self, number: int) -> None:
        worker = self._workers[number] = self._workforce.start(number)
        loading = worker.submit(self._work_of(worker).load)
        self._doing[loading] = (number, None)

    def _hand_out(self) -> None:
        """Give cases to those who hold the fewest; in the end one each, so that none waits."""
        while self._todo and self._held:
            number = min(self._held, key=self._held.__getitem__)
            most = MOST_HELD if len(self._todo) > self._workforce.count else 1
            if self._held[number] >= most:
                return
            row, worker = self._todo.popleft(), self._workers[number]
            self._held[number] += 1
            done = worker.submit(self._work_of(worker).do, self._build_task(row))
            self._doing[done] = (number, row)

    def _work_of(self, worker: Worker) -> Work:
        return self._work.on(worker.device, self._workforce.threads)

    def _holds_a_case(self) -> bool:
        return any(row is not None for _, row in self._doing.values())

    def _take_in(self) -> Iterator[tuple[Item, Result]]:
        """Wait for some worker, and yield what it has done."""
        done = wait(self._doing, return_when=FIRST_COMPLETED).done
        for future in [future for future in self._doing if future in done]:
            if future not in self._doing:  # its worker has died of the case before
                continue
            number, row = self._doing.pop(future)
            error = future.exception()
            if isinstance(error, self._workers[number].deaths):
                yield from self._replace(number, row)
            elif row is None:
                _check_loaded(error, None if error else future.result())
                self._held[number] = self._deaths_at_loading[number] = 0
            else:
                self._held[number] -= 1
                yield row, _unforeseen(row, error) if error else future.result()

    def _replace(self, number: int, row: Item | None) -> Iterator[tuple[Item, Result]]:
        """Start another worker in a dead one's place; its case waits again, or has failed."""
        self._workers.pop(number).stop()
        self._held.pop(number, None)
        for future in [future for future, (of, _) in self._doing.items() if of == number]:
            at_hand = self._doing.pop(future)[1]
            if at_hand is not None:
                self._todo.appendleft(at_hand)
        if row is None:
            self._deaths_at_loading[number] += 1
            if self._deaths_at_loading[number] == MOST_DEATHS_AT_LOADING:
                raise ConfigError(
                    f"worker {number + 1}: expected it to load what it needs, found that it died "
                    f"{MOST_DEATHS_AT_LOADING} times; is there memory for {self._workforce.count} "
                    "workers?"
                )
        else:
            self._deaths_of[row.case_id] += 1
            if self._deaths_of[row.case_id] < MOST_TRIES:
                self._todo.append(row)
            else:
                yield row, _deadly(row)
        if self._todo:
            self._hire(number)


def _check_loaded(error: BaseException | None, reason: str | None) -> None:
    if error is not None:
        raise error
    if reason is not None:
        raise ConfigError(reason)


def _deadly(row: Named) -> Result:
    return Result(
        case_id=row.case_id,
        error=f"case {row.case_id}: expected a result, found that the worker died of it "
        f"{MOST_TRIES} times (killed, out of memory, or a crash in a library)",
        retry=True,
    )


def _unforeseen(row: Named, error: BaseException) -> Result:
    """Return the result of a case that raised what is no TriSurvError."""
    # Ray hands on an error of its own, which holds the one that was raised.
    cause: BaseException = getattr(error, "cause", None) or error
    return Result(
        case_id=row.case_id,
        error=one_line(cause, f"case {row.case_id}"),
        traceback="".join(traceback.format_exception(error)),
        retry=True,
    )
