"""Every slide of a cohort becomes a bag on disk: atomic, resumable, stamped with its origin."""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from model.batch import Bag
from model.bundle import write_tensors
from model.case import Case
from model.encoder import Encoder, EncoderSpec
from model.errors import ConfigError, Warn
from model.patches import PatchSpec
from model.predictor import Progress, embed_case


def embed_cohort(
    cases: Sequence[Case],
    encoder: Encoder,
    patches: PatchSpec,
    directory: Path,
    *,
    warn: Warn,
    progress: Progress,
) -> None:
    """Embed the cases that have no bag yet.

    Raises:
        CaseError: A slide cannot be read, or holds no tissue.
        ConfigError: The folder holds bags of another encoder or patch spec.
    """
    directory.mkdir(parents=True, exist_ok=True)
    spec = encoder.pinned_spec()
    for index, case in enumerate(cases):
        path = bag_path(directory, case.case_id)
        if path.is_file():
            _check_stamp(path, spec, patches)
        else:
            bag = embed_case(case, encoder, patches, warn=warn, progress=lambda done, total: None)
            if bag is not None:
                write_bag(path, bag, spec, patches)
        progress(index + 1, len(cases))


def bag_path(directory: Path, case_id: str) -> Path:
    """Return where a case's bag lies."""
    return directory / f"{case_id}.safetensors"


def write_bag(path: Path, bag: Bag, encoder: EncoderSpec, patches: PatchSpec) -> None:
    """Write a bag under a temporary name, then rename it."""
    tensors = {
        "embeddings": bag.embeddings,
        "coords": bag.coords,
        "slide_index": bag.slide_index,
    }
    write_tensors(path, tensors, {"stamp": _stamp(encoder, patches)})


def read_bag(path: Path, encoder: EncoderSpec, patches: PatchSpec) -> Bag:
    """Read a bag.

    Raises:
        ConfigError: It cannot be read, or another encoder or patch spec made it.
    """
    _check_stamp(path, encoder, patches)
    with safe_open(path, framework="pt") as file:
        return Bag(
            embeddings=file.get_tensor("embeddings"),
            coords=file.get_tensor("coords"),
            slide_index=file.get_tensor("slide_index"),
        )


def _stamp(encoder: EncoderSpec, patches: PatchSpec) -> str:
    return json.dumps(
        {"encoder": encoder.model_dump(mode="json"), "patches": patches.model_dump(mode="json")},
        sort_keys=True,
    )


def _check_stamp(path: Path, encoder: EncoderSpec, patches: PatchSpec) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("stamp")
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: expected a bag, found {error}") from error
    if found != _stamp(encoder, patches):
        raise ConfigError(
            f"{path}: expected a bag of encoder {encoder.id} at {patches.mpp:g} µm/px, "
            "found one made with other settings; use another folder"
        )
