"""Bags on disk: written whole or not at all, and stamped with what they were made from."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open

from model.batch import Bag
from model.bundle import write_tensors
from model.case import Case
from model.encoder import Encoder
from model.encoders import EncoderSpec
from model.errors import CaseError, ConfigError, Warn, about_files, first_problem, printable
from model.fusion.base import FusionConfig
from model.messages import differences
from model.patches import PatchSpec
from model.predictor import embed_case
from model.slide import is_placeholder

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
        """Return a case's bag, None where it has no slide of use.

        Raises:
            CaseError: A file of it cannot be used.
            ConfigError: No file can be used with this encoder and patch spec.
        """
        ...


@dataclass(frozen=True)
class SlideEmbedder:
    """Makes bags of slides; one of `BagMaker`.

    Attributes:
        network: What embeds them.
        patches: What is embedded.
        settings: Of the fusion that takes the bags: whether a case can do without slides.
    """

    network: Encoder
    patches: PatchSpec
    settings: FusionConfig

    @property
    def encoder(self) -> EncoderSpec:
        """The encoder with the sha256 of its weights."""
        return self.network.pinned_spec()

    def sources(self, case: Case) -> tuple[Path, ...]:
        """Return slides and masks."""
        return slide_sources(case)

    def make(self, case: Case, *, warn: Warn) -> Bag | None:
        """Embed the tissue of all slides of a case."""
        return embed_case(
            case,
            self.network,
            self.patches,
            self.settings,
            warn=warn,
            progress=lambda done, total: None,
        )


class Stamp(BaseModel):
    """What a bag was made from, and what there was to say of it."""

    encoder: EncoderSpec
    patches: PatchSpec
    sources: list[Identity] | None = None
    warnings: list[str] = []


@dataclass
class Said:
    """Hands warnings on, and keeps them for the stamp of a bag."""

    warn: Warn
    texts: list[str] = field(default_factory=list)

    def __call__(self, text: str) -> None:
        """Take a warning."""
        self.warn(text)
        self.texts.append(text)

    def without_folders(self, files: Sequence[Path]) -> list[str]:
        """Return the warnings with the bare names of files: a cohort that moves has the same."""
        # Parents too, as bags of another program are warned of by the name of their folder.
        paths = {path for file in files for path in (file, *file.parents) if path.name}
        texts = self.texts
        for path in sorted(paths, key=lambda path: len(str(path)), reverse=True):
            texts = [text.replace(str(path), path.name) for text in texts]
        return [printable(text) for text in texts]


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
    warnings: Sequence[str] = (),
) -> None:
    """Write a bag, whole or not at all, with all that it was made from.

    Raises:
        ConfigError: Its folder cannot be written in, or is full.
    """
    tensors = {
        "embeddings": bag.embeddings,
        "coords": bag.coords,
        "slide_index": bag.slide_index,
    }
    stamp = Stamp(encoder=encoder, patches=patches, sources=list(sources), warnings=list(warnings))
    write_tensors(path, tensors, {"stamp": stamp.model_dump_json()})


def read_bag(path: Path, encoder: EncoderSpec, patches: PatchSpec) -> Bag:
    """Read a bag.

    Raises:
        ConfigError: It cannot be read, or another encoder or patch spec made it.
    """
    _check_settings(path, _read_stamp(path), encoder, patches)
    with safe_open(path, framework="pt") as file:
        return Bag(
            embeddings=file.get_tensor("embeddings"),
            coords=file.get_tensor("coords"),
            slide_index=file.get_tensor("slide_index"),
        )


def read_stamp(path: Path) -> Stamp | None:
    """Return what a bag says of its origin, None where there is none.

    Raises:
        ConfigError: What is there is no bag.
    """
    return _read_stamp(path) if path.is_file() else None


def update_bag(path: Path, case: Case, maker: BagMaker, *, warn: Warn) -> None:
    """Make a case's bag, unless it is there and its sources are those that it was made of.

    Raises:
        CaseError: A source cannot be used.
        ConfigError: What is there is no bag, or one of another encoder or patch spec, or the bag
            cannot be written.
    """
    files = maker.sources(case)
    sources = identify_all(files)
    stamp = read_stamp(path)
    if is_current(path, stamp, sources, maker.encoder, maker.patches, warn=warn):
        return
    said = Said(warn)
    bag = maker.make(case, warn=said)
    if bag is not None:
        warnings = said.without_folders(files)
        write_bag(path, bag, maker.encoder, maker.patches, sources=sources, warnings=warnings)


def is_current(
    path: Path,
    stamp: Stamp | None,
    sources: Sequence[Identity],
    encoder: EncoderSpec,
    patches: PatchSpec,
    *,
    warn: Warn,
) -> bool:
    """Say whether a bag is there, and is of these sources.

    One whose sources are gone stays as it is, so that bags can travel without the slides.

    Raises:
        ConfigError: It is of another encoder or patch spec.
    """
    if stamp is None:
        return False
    _check_settings(path, stamp, encoder, patches)
    if sources and stamp.sources != sources:
        warn(f"{path}: made of other files than the case has now; it is made again")
        return False
    return True


def slide_sources(case: Case) -> tuple[Path, ...]:
    """Return the slides and masks that a case's bag is made of."""
    slides = [slide for slide in case.slides if not is_placeholder(slide.path)]
    files = [file for slide in slides for file in (slide.path, slide.mask)]
    return tuple(file for file in files if file is not None)


@about_files()
def identify_all(paths: Sequence[Path]) -> list[Identity]:
    """Identify files; none of them unless all are there.

    Raises:
        CaseError: One cannot be read.
    """
    return [identify(path) for path in paths] if all(path.is_file() for path in paths) else []


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
    name = printable(path.name)
    return {"name": name, "bytes": size, "sha256_of_samples": digest.hexdigest()}


def _read_stamp(path: Path) -> Stamp:
    """Return what a bag says of its origin."""
    try:
        with safe_open(path, framework="pt") as file:
            stamp = (file.metadata() or {}).get("stamp", "{}")
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: expected a bag, found {error}") from error
    # Through the specs, so that a field which the bag is older than counts as its default.
    try:
        return Stamp.model_validate_json(stamp)
    except ValidationError as error:
        raise ConfigError(f"{path}: expected a bag, found {first_problem(error)}") from error


def _check_settings(path: Path, stamp: Stamp, encoder: EncoderSpec, patches: PatchSpec) -> None:
    """Make sure that a bag was made with these settings."""
    if not stamp.encoder.embeds_like(encoder) or stamp.patches != patches:
        found, wanted = (
            {"encoder": one.embedding_settings(), "patches": other.model_dump()}
            for one, other in ((stamp.encoder, stamp.patches), (encoder, patches))
        )
        raise ConfigError(
            f"{path}: expected a bag of encoder {encoder.id} at {patches.mpp:g} µm/px, found one "
            f"made with other settings ({differences(found, wanted)}); use another folder"
        )
