"""Processes that `torchrun` starts side by side share a run's work; a single one has all of it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from model.devices import open_device
from model.errors import ConfigError

T = TypeVar("T")
LONGEST_WAIT = timedelta(days=30)


@contextmanager
def process_group() -> Iterator[None]:
    """Join the other processes of `torchrun`, where there are any."""
    if world_size() == 1:
        yield
        return
    # It only waits, as long as another's folds take; no tensor travels.
    distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def world_size() -> int:
    """Return how many processes `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Tell whether this process is the one that speaks and writes the bundle."""
    return int(os.environ.get("RANK", "0")) == 0


def share(work: Sequence[T]) -> Sequence[T]:
    """Return this process's part of a list of independent pieces of work."""
    return work[int(os.environ.get("RANK", "0")) :: world_size()]


def wait_for_all() -> None:
    """Return when every process has come here.

    Raises:
        ConfigError: Another has ended.
    """
    if world_size() == 1:
        return
    try:
        distributed.barrier()
    except RuntimeError as error:
        raise ConfigError("stopped, as another process of torchrun has: it says why") from error


def device(name: str) -> torch.device:
    """Return the device of this process: "cuda" means one card a process.

    Raises:
        ConfigError: There is no such device, or torch cannot use it.
    """
    return open_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" else name)
