"""The one artifact: weights, preprocessing and time mapping in one safetensors file.

`python -m model.bundle PATH` prints the manifest.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from model.clinical import ClinicalRange
from model.embedding_range import EmbeddingRange
from model.encoders import ENCODERS, EncoderSpec
from model.errors import BundleError, ConfigError, about_folder, first_problem, reason_of
from model.files import whole
from model.interface import Unit
from model.member import Member, MemberManifest, load_member, tensors_under
from model.patches import PatchSpec
from model.survival import MappingKind, TimeMapping

FORMAT: Literal[1] = 1


class Task(BaseModel):
    """What is predicted, in which unit, through which interface preset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str
    unit: Unit
    interface: str


class Manifest(BaseModel):
    """The bundle's header.

    `clinical_range` is that of all training cases, of which a member saw only its own; None where
    it is not known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    notice: str
    task: Task
    encoder: EncoderSpec | None
    patches: PatchSpec | None
    fusion: str
    settings: dict[str, JsonValue]
    members: tuple[MemberManifest, ...]
    mapping: MappingKind
    provenance: dict[str, JsonValue]
    clinical_range: ClinicalRange | None = None


@dataclass(frozen=True)
class Bundle:
    """A fitted ensemble and all that turns a case into its inputs.

    `embedding_range` is that of all training cases; None where it is not known.
    """

    manifest: Manifest
    members: tuple[Member, ...]
    mapping: TimeMapping
    embedding_range: EmbeddingRange | None = None

    def save(self, path: Path) -> None:
        """Write the bundle under a temporary name, then rename it; a failure leaves no file.

        Raises:
            ConfigError: As `write_tensors`.
        """
        tensors = {
            f"mapping.{name}": torch.from_numpy(array)
            for name, array in self.mapping.to_arrays().items()
        }
        if self.embedding_range is not None:
            for name, array in self.embedding_range.to_arrays().items():
                tensors[f"embedding_range.{name}"] = torch.from_numpy(array)
        for index, member in enumerate(self.members):
            for name, tensor in member.tensors().items():
                tensors[f"member.{index}.{name}"] = tensor
        write_tensors(path, tensors, {"manifest": self.manifest.model_dump_json()})

    @classmethod
    def load(cls, path: Path) -> "Bundle":
        """Load a bundle; nothing in it is unpickled.

        Raises:
            BundleError: It is absent, damaged, of another format, or does not fit this program.
        """
        manifest = read_manifest(path)
        tensors = load_file(path)
        try:
            mapping = TimeMapping.from_arrays(manifest.mapping, _arrays_under(tensors, "mapping."))
            embedding_range = _load_range(manifest, _arrays_under(tensors, "embedding_range."))
            members = tuple(
                load_member(
                    manifest.fusion,
                    manifest.settings,
                    member,
                    tensors_under(tensors, f"member.{index}."),
                )
                for index, member in enumerate(manifest.members)
            )
        except (BundleError, ConfigError) as error:
            raise BundleError(f"{path}: {error}") from error
        except (KeyError, RuntimeError, ValueError) as error:
            found = reason_of(error)
            found = f"no {found}" if isinstance(error, KeyError) else found
            raise BundleError(f"{path}: expected the manifest's tensors, found {found}") from error
        return cls(manifest, members, mapping, embedding_range)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        ConfigError: Its folder cannot be written in, or is full.
    """
    with about_folder(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            try:
                save_file(tensors, part, metadata=metadata)
            except SafetensorError as error:  # as it calls what the system refuses
                raise OSError(str(error)) from error
            # safetensors lets only the owner read, and the container runs as somebody else.
            part.chmod(0o644)


def read_manifest(path: Path) -> Manifest:
    """Read a bundle's manifest, without its tensors.

    Raises:
        BundleError: As `Bundle.load`.
    """
    if not path.is_file():
        raise BundleError(f"{path}: expected a bundle, found no file")
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {}).get("manifest", "null"))
    except (OSError, SafetensorError, ValueError) as error:
        raise BundleError(f"{path}: expected safetensors with a manifest, found {error}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path}: expected a bundle, found safetensors without a manifest")
    if content.get("format") != FORMAT:
        raise BundleError(f"{path}: expected bundle format {FORMAT}, found {content.get('format')}")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise BundleError(f"{path}: manifest: {first_problem(error)}") from error
    _check_encoder(path, manifest)
    return manifest


def _check_encoder(path: Path, manifest: Manifest) -> None:
    """Refuse a bundle whose embeddings this program would make differently."""
    spec = manifest.encoder
    if spec is None:
        return
    known = ENCODERS.get(spec.id)
    if known is None:
        raise BundleError(
            f"{path}: expected an encoder among {', '.join(ENCODERS)}, found {spec.id!r}"
        )
    own = {"weights_sha256": known.weights_sha256, "precision": known.precision}
    if not spec.model_copy(update=own).embeds_like(known):
        raise BundleError(
            f"{path}: expected the encoder {spec.id} as this program defines it, "
            "found another preprocessing or architecture in the manifest"
        )
    for member in manifest.members:
        if member.dims.embedding != spec.width:
            raise BundleError(
                f"{path}: expected a fusion of {spec.width}-wide embeddings for {spec.id}, "
                f"found {member.dims.embedding}"
            )


def _load_range(manifest: Manifest, arrays: dict[str, npt.NDArray[Any]]) -> EmbeddingRange | None:
    """Rebuild the range of the embeddings, None where the bundle has none.

    Raises:
        KeyError: An array is absent.
        ValueError: The arrays do not fit each other, or the fusion.
    """
    if not arrays:
        return None
    embedding_range = EmbeddingRange.from_arrays(arrays)
    for member in manifest.members:
        if embedding_range.mean.shape != (member.dims.embedding,):
            raise ValueError(
                f"a range of embeddings {embedding_range.mean.shape} for a fusion of "
                f"{member.dims.embedding}"
            )
    return embedding_range


def _arrays_under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {name: tensor.numpy() for name, tensor in tensors_under(tensors, prefix).items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print a bundle's manifest.")
    parser.add_argument("path", type=Path)
    try:
        sys.stdout.write(read_manifest(parser.parse_args().path).model_dump_json(indent=2) + "\n")
    except BundleError as error:
        sys.exit(str(error))
