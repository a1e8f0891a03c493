"""The one artifact: weights, preprocessing and time mapping in one safetensors file.

`python -m model.bundle PATH` prints the manifest.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from model.batch import Bag, Batch, CaseInputs, Dims, collate
from model.case import Case
from model.clinical import ClinicalSpec
from model.clinical_text import ClinicalText, ClinicalTextSpec
from model.encoder import ENCODERS, EncoderSpec
from model.errors import BundleError, ConfigError, Warn, first_problem
from model.fusion import Fusion, build_fusion
from model.interface import Unit
from model.patches import PatchSpec
from model.rna import RnaSpec, Scale
from model.survival import MappingKind, TimeMapping, risk

FORMAT: Literal[1] = 1


class Task(BaseModel):
    """What is predicted, in which unit, through which interface preset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str
    unit: Unit
    interface: str


class RnaManifest(BaseModel):
    """The part of an RnaSpec that is not a tensor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    genes: tuple[str, ...]
    scale: Scale
    max_missing: float


class MemberManifest(BaseModel):
    """One member: its own preprocessing, fitted on its own training cases, and its widths.

    `risk_mean` and `risk_sd` are those of its training risks; the ensemble averages z-scores.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rna: RnaManifest | None
    clinical: ClinicalSpec | None
    dims: Dims
    risk_mean: float
    risk_sd: float
    clinical_text: ClinicalTextSpec | None = None


class Manifest(BaseModel):
    """The bundle's header."""

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


@dataclass(frozen=True)
class Member:
    """One fitted model with the preprocessing it was fitted with."""

    fusion: Fusion
    rna: RnaSpec | None
    clinical: ClinicalSpec | None
    risk_mean: float
    risk_sd: float
    clinical_text: ClinicalText | None = None

    def inputs(self, case: Case, bag: Bag | None, *, warn: Warn) -> CaseInputs:
        """Turn a case and its bag into this member's tensors.

        Raises:
            CaseError: The RNA record lacks too many genes.
        """
        return CaseInputs(
            bag=None if bag is None else bag.embeddings,
            coords=None if bag is None else bag.coords,
            slide_index=None if bag is None else bag.slide_index,
            rna=None
            if self.rna is None or case.rna is None
            else torch.from_numpy(self.rna.apply(case.rna, warn=warn)),
            clinical=None
            if self.clinical is None or case.clinical is None
            else torch.from_numpy(self.clinical.apply(case.clinical, warn=warn)),
            clinical_tokens=None
            if self.clinical_text is None or case.clinical is None
            else torch.from_numpy(self.clinical_text.apply(case.clinical, warn=warn)),
        )

    def collate(self, cases: list[CaseInputs]) -> Batch:
        """Pad cases to one batch of this member's widths."""
        return collate(cases, self.fusion.dims)

    def manifest(self) -> MemberManifest:
        """Describe all of the member that is not a tensor."""
        rna = self.rna
        return MemberManifest(
            rna=None
            if rna is None
            else RnaManifest(genes=rna.genes, scale=rna.scale, max_missing=rna.max_missing),
            clinical=self.clinical,
            dims=self.fusion.dims,
            risk_mean=self.risk_mean,
            risk_sd=self.risk_sd,
            clinical_text=None if self.clinical_text is None else self.clinical_text.spec,
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return weights, scalers and the vectors of sentences by name."""
        state = self.fusion.state_dict()
        tensors = {f"fusion.{name}": value.contiguous().cpu() for name, value in state.items()}
        if self.rna is not None:
            # Copies: members may share a scaler, which safetensors refuses to write twice.
            tensors["rna.mean"] = torch.tensor(self.rna.mean)
            tensors["rna.sd"] = torch.tensor(self.rna.sd)
        if self.clinical_text is not None:
            tensors["clinical_text.vectors"] = torch.tensor(self.clinical_text.vectors)
        return tensors

    def risk(self, batch: Batch) -> npt.NDArray[np.float64]:
        """Return z-scored risks (B,)."""
        with torch.inference_mode():
            raw = risk(self.fusion(batch)).double().cpu().numpy()
        return np.asarray((raw - self.risk_mean) / self.risk_sd)


@dataclass(frozen=True)
class Bundle:
    """A fitted ensemble and all that turns a case into its inputs."""

    manifest: Manifest
    members: tuple[Member, ...]
    mapping: TimeMapping

    def save(self, path: Path) -> None:
        """Write the bundle under a temporary name, then rename it; a failure leaves no file."""
        tensors = {
            f"mapping.{name}": torch.from_numpy(array)
            for name, array in self.mapping.to_arrays().items()
        }
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
            arrays = {name: t.numpy() for name, t in _under(tensors, "mapping.").items()}
            mapping = TimeMapping.from_arrays(manifest.mapping, arrays)
            members = tuple(
                load_member(
                    manifest.fusion,
                    manifest.settings,
                    member,
                    _under(tensors, f"member.{index}."),
                )
                for index, member in enumerate(manifest.members)
            )
        except (BundleError, ConfigError) as error:
            raise BundleError(f"{path}: {error}") from error
        except (KeyError, RuntimeError, ValueError) as error:
            found = " ".join(str(error).split())
            found = f"no {found}" if isinstance(error, KeyError) else found
            raise BundleError(f"{path}: expected the manifest's tensors, found {found}") from error
        return cls(manifest, members, mapping)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        save_file(tensors, part, metadata=metadata)
        # safetensors lets only the owner read, and the container runs as somebody else.
        part.chmod(0o644)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


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
    except (SafetensorError, ValueError) as error:
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
    if spec.model_copy(update=own) != known:
        raise BundleError(
            f"{path}: expected the encoder {spec.id} as this program defines it, "
            "found another preprocessing or architecture in the manifest"
        )
    for member in manifest.members:
        if member.dims.embedding not in (0, spec.width):
            raise BundleError(
                f"{path}: expected a fusion of {spec.width}-wide embeddings for {spec.id}, "
                f"found {member.dims.embedding}"
            )


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def load_member(
    name: str,
    settings: Mapping[str, object],
    manifest: MemberManifest,
    tensors: dict[str, torch.Tensor],
) -> Member:
    """Rebuild a member from its manifest and tensors.

    Raises:
        ConfigError: The fusion or its settings are unknown.
        KeyError: A tensor is absent.
        RuntimeError: The weights do not fit the fusion.
        ValueError: The genes, gene sets, clinical columns or sentences do not fit the widths.
    """
    for gene_set, positions in manifest.dims.gene_sets.items():
        if not positions or min(positions) < 0 or max(positions) >= manifest.dims.genes:
            raise ValueError(f"gene set {gene_set} outside the {manifest.dims.genes} genes")
    fusion = build_fusion(name, settings, manifest.dims)
    fusion.load_state_dict(_under(tensors, "fusion."))
    rna = None
    if manifest.rna is not None:
        mean, sd = tensors["rna.mean"].numpy(), tensors["rna.sd"].numpy()
        rna = RnaSpec(**manifest.rna.model_dump(), mean=mean, sd=sd)
        sizes = (len(rna.genes), len(mean), len(sd))
        if set(sizes) != {manifest.dims.genes}:
            raise ValueError(f"{sizes} genes, means and sds for {manifest.dims.genes} inputs")
    columns = () if manifest.clinical is None else manifest.clinical.columns
    if len(columns) != manifest.dims.clinical:
        raise ValueError(f"{len(columns)} clinical columns for {manifest.dims.clinical} inputs")
    text = None
    if manifest.clinical_text is not None:
        text = ClinicalText(manifest.clinical_text, tensors["clinical_text.vectors"].numpy())
    sentences = (0, 0) if text is None else text.shape
    if sentences != manifest.dims.clinical_tokens:
        raise ValueError(
            f"{sentences} sentences and their width for {manifest.dims.clinical_tokens} inputs"
        )
    return Member(
        fusion=fusion.eval(),
        rna=rna,
        clinical=manifest.clinical,
        risk_mean=manifest.risk_mean,
        risk_sd=manifest.risk_sd,
        clinical_text=text,
    )


if __name__ == "__main__":
    try:
        sys.stdout.write(read_manifest(Path(sys.argv[1])).model_dump_json(indent=2) + "\n")
    except BundleError as error:
        sys.exit(str(error))
