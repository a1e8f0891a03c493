"""Workers on this machine: each a process, which holds the loaded bundle."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context, parent_process
from typing import ClassVar

from model.cohort_workers import CORES_PER_WORKER, Answer, Workforce
from model.devices import count_gpus
from model.process import prepare_process


def local_workers(count: int | None = None, *, device: str = "auto") -> Workforce:
    """Return a worker for each GPU, or for every few cores of this machine; or `count` of them.

    They share the GPUs, or have the one that `device` names, such as "cuda:1".

    Raises:
        ConfigError: The device is not there.
    """
    _, _, index = device.partition(":")
    gpus = 1 if index else count_gpus(device)
    cores = len(os.sched_getaffinity(0))
    count = count or gpus or max(1, cores // CORES_PER_WORKER)
    return Workforce(
        count=count,
        threads=max(1, cores // count),
        kind="cuda" if gpus else "cpu",
        start=lambda number: LocalWorker(f"cuda:{index or number % gpus}" if gpus else "cpu"),
    )


class LocalWorker:
    """A process of this machine, which ends when this one does."""

    deaths: ClassVar[tuple[type[BaseException], ...]] = (BrokenProcessPool,)

    def __init__(self, device: str) -> None:
        self.device = device
        # A pool of one: with two, the death of either would break off the other's case.
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_start_worker)
        self._process_id = self._pool.submit(os.getpid)

    def submit(self, function: Callable[..., Answer], *arguments: object) -> Future[Answer]:
        """Have the process call a function."""
        try:
            return self._pool.submit(function, *arguments)
        except BrokenProcessPool as error:  # it died while it had nothing to do
            lost: Future[Answer] = Future()
            lost.set_exception(error)
            return lost

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        with suppress(BrokenProcessPool, ProcessLookupError):
            process_id = self._process_id.result()
            # Refused where the process is dead, as its number may be another's by now.
            self._pool.submit(int)
            os.kill(process_id, signal.SIGKILL)
        self._pool.shutdown()


def _start_worker() -> None:
    """Set up the process as the door does its own."""
    prepare_process()
    _follow_parent()


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end as soon as that has ended, in whatever way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
