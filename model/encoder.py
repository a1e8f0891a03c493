"""Encoders: pretrained networks that turn patches into embeddings.

Nothing here goes to the network: the weights are files that somebody put there. Training and
serving both come through `Encoder`, so that they cannot drift apart.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.mlp import SwiGLUPacked
from torch import Tensor, nn
from torch.nn import functional

from model.encoders import EncoderSpec, Precision
from model.files import sha256_of
from model.precision import (
    cast_products,
    fold_batch_norms,
    nearest_precision,
    pack_products,
    pad_evenly,
)
from model.weights import check_fit, find_weights, read_weights

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
        """Where the embeddings are not in the spec's precision, what they are in; else empty."""
        if self.precision == self.spec.precision:
            return ""
        return (
            f"encoder {self.spec.id}: embeddings in {self.precision}, "
            f"as this {self.device.type} lacks {self.spec.precision}, in which they differ slightly"
        )

    def __call__(self, patches: NDArray[np.uint8]) -> Tensor:
        """Embed patches.

        Args:
            patches: RGB, 0 to 255, (B, H, W, 3) uint8.

        Returns:
            Embeddings (B, D), float32 on the CPU.

        Raises:
            ValueError: The patches are of another type or shape.
        """
        if patches.dtype != np.uint8 or patches.ndim != 4 or patches.shape[3] != 3:
            raise ValueError(
                f"patches: expected uint8 (B, H, W, 3), found {patches.dtype} {patches.shape}"
            )
        copied = torch.tensor(patches)  # so that a read-only array will do
        # A clone made outside inference mode is an ordinary tensor, which training can use.
        return self._embed(copied).clone()

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


def load_encoder(
    spec: EncoderSpec, *, weights_dirs: Sequence[Path], device: torch.device
) -> Encoder:
    """Build the network of a spec and load its weights, from files only.

    Args:
        spec: From `encoders.ENCODERS`, or from a bundle.
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
