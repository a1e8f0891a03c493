"""Coordinates → bag: batches, threads, and what a failure leaves."""

import threading
import time
from collections.abc import Callable, Generator, Iterator

import numpy as np
import pytest
import torch
from encoder_stand_ins import random_patches
from numpy.typing import NDArray
from torch import Tensor

from model.embedding import embed_patches, share_threads
from model.encoder import Encoder


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Return what sets the number of PyTorch's threads, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def coords_of(count: int) -> NDArray[np.int64]:
    return np.stack([np.arange(count), np.zeros(count, dtype=np.int64)], axis=1)


class Reader:
    """Patches of one grey each, by their x; it remembers how it was used.

    Args:
        fails_at: x of the patch that cannot be read.
        stops_at: From which patch of a part on they wait until somebody allows it.
        slow_until: x of the patch before which each takes its time.

    Attributes:
        calls: x of the patches that each call asked for.
        threads: Which thread read each patch.
        open: Streams that are not closed.
    """

    def __init__(
        self, fails_at: int | None = None, stops_at: int | None = None, slow_until: int = 0
    ) -> None:
        self.fails_at, self.stops_at, self.slow_until = fails_at, stops_at, slow_until
        self.calls: list[list[int]] = []
        self.threads: dict[int, str] = {}
        self.open = 0
        self.may_go_on = threading.Event()

    def __call__(self, coords: NDArray[np.int64]) -> Generator[NDArray[np.uint8], None, None]:
        self.calls.append(coords[:, 0].tolist())
        return self._patches(coords)

    def _patches(self, coords: NDArray[np.int64]) -> Generator[NDArray[np.uint8], None, None]:
        self.open += 1
        try:
            for index, x in enumerate(coords[:, 0].tolist()):
                if x == self.fails_at:
                    raise OSError("a tile is damaged")
                if index == self.stops_at:
                    self.may_go_on.wait(timeout=10)
                time.sleep(0.005 if x < self.slow_until else 0)
                self.threads[x] = threading.current_thread().name
                yield np.full((32, 32, 3), x % 256, dtype=np.uint8)
        finally:
            self.open -= 1


def embed(
    encoder: Encoder,
    reader: Callable[[NDArray[np.int64]], Generator[NDArray[np.uint8], None, None]],
    count: int,
    batch_size: int,
) -> Tensor:
    return embed_patches(
        encoder, reader, coords_of(count), batch_size=batch_size, progress=lambda *_: None
    )


def encoder_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "encoder" in thread.name]


@pytest.mark.parametrize("spec_id", ["efficientnet_lite0", "uni"])
def test_batch_size_does_not_matter(lite0: Encoder, small: Encoder, spec_id: str) -> None:
    encoder = lite0 if spec_id == "efficientnet_lite0" else small
    patches = random_patches(7, size_px=64)
    together = encoder(patches)
    for batch_size in (1, 3, 64):
        bag = embed(encoder, lambda coords: (patches[x] for x in coords[:, 0]), 7, batch_size)
        torch.testing.assert_close(bag, together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_threads_have_parts_of_their_own_and_the_same_bits(
    small: Encoder, threads: Callable[[int], None], count: int
) -> None:
    threads(count)
    reader = Reader()
    seen: list[tuple[int, int]] = []
    bag = embed_patches(
        small,
        reader,
        coords_of(59),
        batch_size=4,
        progress=lambda done, total: seen.append((done, total)),
    )
    patches = np.stack(list(Reader()(coords_of(59))))
    alone = [small(patches[at : at + 4]) for at in range(0, 59, 4)]
    assert torch.equal(bag, torch.cat(alone))
    assert seen[-1] == (59, 59) and len(seen) == 15
    assert [x for part in reader.calls for x in part] == list(range(59))
    assert [len(part) for part in reader.calls] == {
        1: [59],
        2: [28, 31],
        3: [20, 20, 19],
        4: [12, 16, 16, 15],
    }[count]
    assert threading.current_thread().name not in reader.threads.values()
    assert not reader.open and not encoder_threads()
    assert torch.get_num_threads() == count


def test_parts_are_read_at_the_same_time(small: Encoder, threads: Callable[[int], None]) -> None:
    threads(3)
    together = threading.Barrier(3, timeout=10)

    def read(coords: NDArray[np.int64]) -> Generator[NDArray[np.uint8], None, None]:
        together.wait()
        for _ in coords:
            yield np.zeros((32, 32, 3), dtype=np.uint8)

    assert embed(small, read, count=12, batch_size=4).shape == (12, 48)


def test_who_has_read_its_own_part_helps_out(
    small: Encoder, threads: Callable[[int], None]
) -> None:
    threads(2)
    reader = Reader(slow_until=28)
    embed(small, reader, count=56, batch_size=4)
    assert len({reader.threads[x] for x in range(28)}) == 2


def test_nobody_reads_far_ahead(small: Encoder, threads: Callable[[int], None]) -> None:
    threads(3)
    reader = Reader()
    ahead: list[int] = []
    embed_patches(
        small,
        reader,
        coords_of(60),
        batch_size=4,
        progress=lambda done, total: ahead.append(len(reader.threads) - done),
    )
    assert max(ahead) <= 2 * 3 * 4


@pytest.mark.parametrize(
    ("device", "count", "expected"),
    [
        ("cpu", 1, (1, 1)),
        ("cpu", 2, (2, 1)),
        ("cpu", 8, (8, 1)),
        ("cpu", 12, (6, 2)),
        ("cpu", 64, (8, 8)),
        ("cuda", 1, (2, 1)),
        ("cuda", 4, (4, 1)),
        ("cuda", 12, (8, 1)),
    ],
)
def test_threads_are_shared(
    monkeypatch: pytest.MonkeyPatch, device: str, count: int, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: count)
    assert share_threads(torch.device(device)) == expected


def test_few_patches_are_shared_among_the_threads(
    small: Encoder, threads: Callable[[int], None]
) -> None:
    threads(2)
    reader = Reader()
    embed(small, reader, count=6, batch_size=8)
    assert reader.calls == [[0, 1, 2], [3, 4, 5]]


def test_no_patches_are_an_empty_bag(small: Encoder) -> None:
    assert embed(small, Reader(), count=0, batch_size=4).shape == (0, 48)


@pytest.mark.parametrize("count", [1, 2])
def test_failure_of_the_reader_is_the_callers(
    small: Encoder, threads: Callable[[int], None], count: int
) -> None:
    threads(count)
    reader = Reader(fails_at=10)
    with pytest.raises(OSError, match="a tile is damaged"):
        embed(small, reader, count=1000, batch_size=4)
    assert not {*range(10, 20)} & reader.threads.keys()
    assert len(reader.threads) < 100
    assert not reader.open and not encoder_threads()


def test_failure_of_the_caller_stops_the_readers(
    small: Encoder, threads: Callable[[int], None]
) -> None:
    threads(2)
    reader = Reader(stops_at=6)  # in each part's second batch

    def progress(done: int, total: int) -> None:
        threading.Timer(0.2, reader.may_go_on.set).start()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_patches(small, reader, coords_of(1000), batch_size=4, progress=progress)
    assert len(reader.threads) <= 16  # those that were begun, and none of those that waited
    assert not reader.open and not encoder_threads()
