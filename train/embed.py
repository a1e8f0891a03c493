"""Every case of a cohort gets a bag on disk: atomic, resumable, stamped with its origin."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from model.batch import Bag
from model.bundle import write_tensors
from model.case import Case
from model.encoder import Encoder, EncoderSpec
from model.errors import CaseError, ConfigError, Warn, about_case
from model.patches import PatchSpec
from model.predictor import Progress, embed_case
from model.slide import is_placeholder
from train.rows import some

SAMPLES = 16
SAMPLE_BYTES = 2**18

Identity = Mapping[str, str | int]


class BagMaker(Protocol):
    """What turns cases into bags of one encoder and patch spec."""

    @property
    def encoder(self) -> EncoderSpec:
        """What the embeddings are made with."""
        ...

    @property
    def patches(self) -> PatchSpec:
        """What the patches are."""
        ...

    def sources(self, case: Case) -> tuple[Path, ...]:
        """Return the files that a case's bag is made of, whether they are there or not."""
        ...

    def make(self, case: Case, *, warn: Warn) -> Bag | None:
        """Return a case's bag, None where it has no slide.

        Raises:
            CaseError: A file of it cannot be used.
            ConfigError: No file can be used with this encoder and patch spec.
        """
        ...


@dataclass(frozen=True)
class SlideEmbedder:
    """Makes bags of slides; one of `BagMaker`."""

    network: Encoder
    patches: PatchSpec

    @property
    def encoder(self) -> EncoderSpec:
        """The encoder with the sha256 of its weights."""
        return self.network.pinned_spec()

    def sources(self, case: Case) -> tuple[Path, ...]:
        """Return slides and masks."""
        slides = [slide for slide in case.slides if not is_placeholder(slide.path)]
        files = [file for slide in slides for file in (slide.path, slide.mask)]
        return tuple(file for file in files if file is not None)

    def make(self, case: Case, *, warn: Warn) -> Bag | None:
        """Embed the tissue of all slides of a case."""
        return embed_case(
            case, self.network, self.patches, warn=warn, progress=lambda done, total: None
        )


def embed_cohort(
    cases: Sequence[Case], maker: BagMaker, directory: Path, *, warn: Warn, progress: Progress
) -> None:
    """Make the bags that are not there yet, or whose sources have changed since.

    A case that fails does not stop the others. A bag whose sources are gone stays as it is, so
    that the bags can travel without the slides.

    Raises:
        ConfigError: Cases failed, or the folder holds bags of another encoder or patch spec.
    """
    directory.mkdir(parents=True, exist_ok=True)
    failed = []
    for index, case in enumerate(cases):
        try:
            with about_case(case.case_id):
                _embed(case, maker, bag_path(directory, case.case_id), warn=warn)
        except CaseError as error:
            warn(str(error))
            failed.append(case.case_id)
        progress(index + 1, len(cases))
    if failed:
        raise ConfigError(
            f"expected a bag of each case, but {len(failed)} of {len(cases)} failed: {some(failed)}"
        )


def bag_path(directory: Path, case_id: str) -> Path:
    """Return where a case's bag lies."""
    return directory / f"{case_id}.safetensors"


def write_bag(
    path: Path,
    bag: Bag,
    encoder: EncoderSpec,
    patches: PatchSpec,
    *,
    sources: Sequence[Identity] = (),
) -> None:
    """Write a bag, whole or not at all, with all that it was made from."""
    tensors = {
        "embeddings": bag.embeddings,
        "coords": bag.coords,
        "slide_index": bag.slide_index,
    }
    stamp = _settings(encoder, patches) | {"sources": list(sources)}
    write_tensors(path, tensors, {"stamp": json.dumps(stamp, sort_keys=True)})


def read_bag(path: Path, encoder: EncoderSpec, patches: PatchSpec) -> Bag:
    """Read a bag.

    Raises:
        ConfigError: It cannot be read, or another encoder or patch spec made it.
    """
    _read_stamp(path, encoder, patches)
    with safe_open(path, framework="pt") as file:
        return Bag(
            embeddings=file.get_tensor("embeddings"),
            coords=file.get_tensor("coords"),
            slide_index=file.get_tensor("slide_index"),
        )


def identify(path: Path) -> Identity:
    """Return what tells a file from others: its name, size and the sha256 of samples of it.

    Every run asks this of every slide, and to read them whole would take hours: 350 GB in CHIMERA.
    Sixteen samples, spread evenly from the first byte to the last, are 4 MiB of each. They miss a
    few changed pixels in a file of the same size, but no other scan, mask or re-encoding, and they
    are the whole of a small file.

    Raises:
        CaseError: The file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            for start in np.linspace(0, max(size - SAMPLE_BYTES, 0), SAMPLES).astype(int).tolist():
                file.seek(start)
                digest.update(file.read(SAMPLE_BYTES))
    except OSError as error:
        raise CaseError(path, expected="a readable file", found=error.strerror) from error
    return {"name": path.name, "bytes": size, "sha256_of_samples": digest.hexdigest()}


def _embed(case: Case, maker: BagMaker, path: Path, *, warn: Warn) -> None:
    """Make one bag, unless it is there and its sources are those that it was made of."""
    sources = maker.sources(case)
    are_there = all(source.is_file() for source in sources)
    identities = [identify(source) for source in sources] if are_there else []
    if path.is_file():
        made_of = _read_stamp(path, maker.encoder, maker.patches).get("sources")
        if not identities or made_of == identities:
            return
        warn(f"{path}: made of other files than the case has now; it is made again")
    bag = maker.make(case, warn=warn)
    if bag is not None:
        write_bag(path, bag, maker.encoder, maker.patches, sources=identities)


def _settings(encoder: EncoderSpec, patches: PatchSpec) -> dict[str, Any]:
    return {"encoder": encoder.model_dump(mode="json"), "patches": patches.model_dump(mode="json")}


def _read_stamp(path: Path, encoder: EncoderSpec, patches: PatchSpec) -> dict[str, Any]:
    """Return what a bag says of its origin, after making sure that the settings are these."""
    try:
        with safe_open(path, framework="pt") as file:
            stamp: dict[str, Any] = json.loads((file.metadata() or {}).get("stamp", "{}"))
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: expected a bag, found {error}") from error
    expected = _settings(encoder, patches)
    if {name: stamp.get(name) for name in expected} != expected:
        raise ConfigError(
            f"{path}: expected a bag of encoder {encoder.id} at {patches.mpp:g} µm/px, "
            "found one made with other settings; use another folder"
        )
    return stamp
