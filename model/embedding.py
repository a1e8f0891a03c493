"""Coordinates → bag: threads that each read a batch of patches and encode it."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice, pairwise
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.encoder import Encoder
from model.stages import stage

MOST_BATCHES = 8
"""Most batches at a time: Python's own part, 3 ms of 50 to 90, runs in one thread only."""

Patches = Generator[NDArray[np.uint8], None, None]
ReadPatches = Callable[[NDArray[np.int64]], Patches]


def embed_patches(
    encoder: Encoder,
    read: ReadPatches,
    coords: NDArray[np.int64],
    *,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> Tensor:
    """Embed the patches at coords (N, 2); each thread reads and encodes batches of its own.

    Args:
        encoder: The encoder.
        read: From some coords, in their order, to their patches (H, W, 3). Called once a thread.
        coords: Where the patches lie; neighbours, which share tiles, one after the other.
        batch_size: Most patches that go through the network together.
        progress: Called after each batch with the number of patches done, and N.

    Returns:
        The bag (N, D), float32, in the order of `coords`.
    """
    total = len(coords)
    bag = torch.empty(total, encoder.spec.width)
    done = 0
    threads, threads_each = share_threads(encoder.device)
    batch_size = max(min(batch_size, -(-total // threads)), 1)
    with (
        closing(_Parts(read, coords, threads, batch_size)) as parts,
        _workers(threads, threads_each) as pool,
    ):

        def embed_next() -> tuple[int, Tensor] | None:
            batch = parts.next_batch()
            if batch is None:
                return None
            start, patches = batch
            with stage("encode"):
                return start, encoder(patches)

        ahead = deque(pool.submit(embed_next) for _ in range(2 * threads))
        try:
            while ahead:
                embedded = ahead.popleft().result()
                if embedded is None:
                    continue
                ahead.append(pool.submit(embed_next))
                start, embeddings = embedded
                bag[start : start + len(embeddings)] = embeddings
                done += len(embeddings)
                progress(done, total)
        finally:
            for future in ahead:
                future.cancel()
    return bag


def share_threads(device: torch.device) -> tuple[int, int]:
    """Return how many threads take batches, and how many compute each: on a CPU, one if possible.

    Threads that share a batch wait for each other at each layer; those with their own never do.
    Beside a GPU all read, as one could not keep it busy: some wait for it, at least one reads.
    """
    available = torch.get_num_threads()
    if device.type != "cpu":
        return min(max(available, 2), MOST_BATCHES), 1
    each = -(-available // MOST_BATCHES)
    return available // each, each


@contextmanager
def _workers(count: int, threads_each: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads that compute on so many of PyTorch's threads, a setting of the process's."""
    before = torch.get_num_threads()
    workers = ThreadPoolExecutor(
        count, "encoder", initializer=torch.set_num_threads, initargs=(threads_each,)
    )
    try:
        with workers:
            yield workers
    finally:
        torch.set_num_threads(before)


@dataclass
class _Part:
    """Neighbouring patches, of which one thread reads at a time.

    Attributes:
        patches: Those that are not read yet.
        start: Index of the first of these in the bag.
        unclaimed: Batches that no thread has set out to read.
    """

    patches: Patches
    start: int
    unclaimed: int
    lock: Lock = field(default_factory=Lock)


class _Parts:
    """Patches in as many parts as threads read: each has its own as long as that lasts."""

    def __init__(
        self, read: ReadPatches, coords: NDArray[np.int64], threads: int, batch_size: int
    ) -> None:
        self._batch_size = batch_size
        self._choosing = Lock()
        batches = -(-len(coords) // batch_size)
        ends = [batches * index // threads for index in range(threads + 1)]
        self._parts = [
            _Part(
                read(coords[first * batch_size : end * batch_size]), first * batch_size, end - first
            )
            for first, end in pairwise(ends)
        ]

    def next_batch(self) -> tuple[int, NDArray[np.uint8]] | None:
        """Return a batch of patches and the index of its first one; None if none is left."""
        with self._choosing:
            part = max(
                self._parts,
                key=lambda part: (part.unclaimed > 0, not part.lock.locked(), part.unclaimed),
            )
            if not part.unclaimed:
                return None
            part.unclaimed -= 1
        with stage("wait for reading"), part.lock:
            with stage("read"):
                patches = list(islice(part.patches, self._batch_size))
            start = part.start
            part.start += len(patches)
        # There are none where reading has failed: the thread in which it did tells of it.
        return (start, np.stack(patches)) if patches else None

    def close(self) -> None:
        """Close the generators, in which tiles are kept."""
        for part in self._parts:
            part.patches.close()
