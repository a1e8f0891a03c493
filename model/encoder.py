"""Encoders: pretrained networks that turn patches into embeddings.

Nothing here goes to the network: the weights are files that somebody put there. Training and
serving both come through `Encoder` and `embed_patches`, so that they cannot drift apart.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.mlp import SwiGLUPacked
from torch import Tensor, nn
from torch.nn import functional

from model.encoders import ENCODERS, EncoderSpec, Precision
from model.precision import (
    cast_products,
    fold_batch_norms,
    nearest_precision,
    pack_products,
    pad_evenly,
)
from model.stages import stage
from model.weights import check_fit, find_weights, read_weights, sha256_of

__all__ = ["ENCODERS", "Encoder", "EncoderSpec", "build_network", "embed_patches", "load_encoder"]

MOST_BATCHES = 8
"""Most batches at a time: Python's own part, 3 ms of 50 to 90, runs in one thread only."""

# Classes that a spec, being JSON, can only name.
_LAYERS = {"SwiGLUPacked": SwiGLUPacked}


class Encoder:
    """A loaded encoder: patches in, embeddings out.

    Attributes:
        spec: What it was built from.
        device: Where it runs.
        precision: What it runs in: the spec's, or the nearest that the device has.
    """

    def __init__(
        self, spec: EncoderSpec, network: nn.Module, weights_path: Path, device: torch.device
    ) -> None:
        self.spec = spec
        self.device = device
        self._weights_path = weights_path
        self.precision: Precision = nearest_precision(spec.precision, device)
        self._dtype: torch.dtype = getattr(torch, self.precision)
        network = network.eval().requires_grad_(False)
        fold_batch_norms(network)
        pad_evenly(network, Conv2dSame)
        cast_products(network, self._dtype)
        self._network: Any = network.to(device).to(memory_format=torch.channels_last)
        if device.type == "cpu":
            pack_products(self._network)
        self._mean = 255 * torch.tensor(spec.mean, device=device)
        self._std = 255 * torch.tensor(spec.std, device=device)

    @cached_property
    def weights_sha256(self) -> str:
        """The weights file's sha256 (computed once: seconds for a file of gigabytes)."""
        return self.spec.weights_sha256 or sha256_of(self._weights_path)

    def pinned_spec(self) -> EncoderSpec:
        """Return the spec that bags and bundles keep: these weights, and this precision."""
        pinned = {"weights_sha256": self.weights_sha256, "precision": self.precision}
        return self.spec.model_copy(update=pinned)

    @property
    def notice(self) -> str:
        """A line for the user where the embeddings are not in the spec's precision, else empty."""
        if self.precision == self.spec.precision:
            return ""
        return (
            f"encoder {self.spec.id}: in {self.precision}, as this {self.device.type} lacks the "
            f"{self.spec.precision} of the bundle; embeddings differ slightly"
        )

    def __call__(self, patches: NDArray[np.uint8] | Tensor) -> Tensor:
        """Embed patches.

        Args:
            patches: RGB, 0 to 255, (B, H, W, 3) uint8.

        Returns:
            Embeddings (B, D), float32 on the CPU.

        Raises:
            ValueError: The patches are of another type or shape.
        """
        if isinstance(patches, np.ndarray):
            patches = torch.tensor(patches)  # a copy, so that a read-only array will do
        if patches.dtype != torch.uint8 or patches.ndim != 4 or patches.shape[3] != 3:
            raise ValueError(
                f"patches: expected uint8 (B, H, W, 3), found {patches.dtype} "
                f"{tuple(patches.shape)}"
            )
        # A clone made outside inference mode is an ordinary tensor, which training can use.
        return self._embed(patches).clone()

    @torch.inference_mode()
    def _embed(self, patches: Tensor) -> Tensor:
        images = patches.to(self.device).permute(0, 3, 1, 2).float()  # (B, 3, H, W)
        images = self._normalise(self._resize(images))
        reduced = self._dtype != torch.float32
        with torch.autocast(self.device.type, self._dtype, enabled=reduced):
            features = self._network.forward_features(images)
        return self._pool(features.float()).cpu()  # (B, D)

    def _resize(self, images: Tensor) -> Tensor:
        if all(side % self.spec.token_px == 0 for side in images.shape[2:]):
            return images
        size = (self.spec.size_px, self.spec.size_px)
        resized = functional.interpolate(images, size, mode=self.spec.interpolation, antialias=True)
        return resized.clamp_(0, 255)  # bicubic overshoots

    def _normalise(self, images: Tensor) -> Tensor:
        """Scale images (B, 3, H, W) in place, by rows: by threes nothing could be vectorised."""
        rows = images.permute(0, 2, 3, 1).flatten(2)  # (B, H, W · 3)
        width = images.shape[3]
        rows = rows.sub_(self._mean.repeat(width)).div_(self._std.repeat(width))
        return rows.view(*rows.shape[:2], width, 3).permute(0, 3, 1, 2)

    def _pool(self, features: Tensor) -> Tensor:
        """Reduce maps (B, D, h, w), or a class token, registers and patch tokens, to (B, D)."""
        if self.spec.pooling == "mean":
            return features.mean(dim=(2, 3))
        class_token = features[:, 0]
        if self.spec.pooling == "class":
            return class_token
        patch_tokens = features[:, self._network.num_prefix_tokens :]
        return torch.cat([class_token, patch_tokens.mean(dim=1)], dim=1)


def embed_patches(
    encoder: Encoder,
    patches: Iterable[NDArray[np.uint8]],
    *,
    total: int,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> Tensor:
    """Embed a stream of patches; while some threads encode their batches, another reads its next.

    Args:
        encoder: The encoder.
        patches: `total` patches (H, W, 3), of which one thread reads at a time; a generator is
            closed at the end, error or not.
        total: Number of patches N.
        batch_size: Most patches that go through the network together.
        progress: Called after each batch with the number of patches done, and `total`.

    Returns:
        The bag (N, D), float32, in the order of `patches`.

    Raises:
        ValueError: There are more or fewer patches than `total`.
    """
    bag = torch.empty(total, encoder.spec.width)
    done = 0
    threads, threads_each = share_threads(encoder.device)
    batch_size = max(min(batch_size, -(-total // threads)), 1)
    reading = Lock()
    with closing(_batches(patches, batch_size)) as batches, _workers(threads, threads_each) as pool:

        def embed_next() -> tuple[int, Tensor] | None:
            with stage("wait for reading"), reading:
                start, batch = next(batches, (0, None))
            if batch is None:
                return None
            with stage("encode"):
                return start, encoder(batch)

        ahead = deque(pool.submit(embed_next) for _ in range(2 * threads))
        try:
            while ahead:
                embedded = ahead.popleft().result()
                if embedded is None:
                    continue
                ahead.append(pool.submit(embed_next))
                start, embeddings = embedded
                done += len(embeddings)
                if start + len(embeddings) > total:
                    raise ValueError(f"patches: expected {total}, found more")
                bag[start : start + len(embeddings)] = embeddings
                progress(done, total)
        finally:
            for future in ahead:
                future.cancel()
    if done < total:
        raise ValueError(f"patches: expected {total}, found {done}")
    return bag


def share_threads(device: torch.device) -> tuple[int, int]:
    """Return how many threads take batches, and how many compute each: on a CPU, one if possible.

    Threads that share a batch wait for each other at each layer; those with their own never do.
    Beside a GPU one thread reads while another's batch is there.
    """
    if device.type != "cpu":
        return 2, 1
    each = -(-torch.get_num_threads() // MOST_BATCHES)
    return torch.get_num_threads() // each, each


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


def _batches(
    patches: Iterable[NDArray[np.uint8]], batch_size: int
) -> Generator[tuple[int, NDArray[np.uint8]], None, None]:
    """Yield the index of each batch's first patch, and the batch."""
    iterator = iter(patches)
    start = 0
    try:
        while True:
            with stage("read"):
                batch = list(islice(iterator, batch_size))
            if not batch:
                return
            yield start, np.stack(batch)
            start += len(batch)
    finally:
        if isinstance(iterator, Generator):
            iterator.close()


def load_encoder(
    spec: EncoderSpec, *, weights_dirs: Sequence[Path], device: torch.device
) -> Encoder:
    """Build the network of a spec and load its weights, from files only.

    Args:
        spec: From `ENCODERS`, or from a bundle.
        weights_dirs: Where the weights may lie, first choice first: in the folder itself or in
            its subfolder named by the encoder.
        device: Where to run.

    Returns:
        The encoder, in evaluation mode.

    Raises:
        BundleError: There is no weights file, or it is not what the spec asks for.
    """
    path = find_weights(spec, weights_dirs)
    tensors = read_weights(spec, path)
    # Built without memory, the network takes the file's tensors as they are.
    with torch.device("meta"):
        network = build_network(spec)
    classifier = f"{network.pretrained_cfg['classifier']}."
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(classifier)}
    check_fit(spec, path, expected=network.state_dict(), found=tensors)
    network.load_state_dict(tensors, assign=True)
    return Encoder(spec, network.float(), path, device)


def build_network(spec: EncoderSpec) -> Any:
    """Return the network of a spec without its classifier, its weights at random."""
    settings: dict[str, Any] = {
        name: _LAYERS.get(str(value), value) for name, value in spec.settings.items()
    }
    return timm.create_model(spec.architecture, pretrained=False, num_classes=0, **settings)
