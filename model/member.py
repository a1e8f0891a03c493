"""One model of an ensemble: its weights, and the preprocessing that was fitted with it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict

from model.batch import Bag, Batch, CaseInputs, Dims, collate
from model.case import Case
from model.clinical import ClinicalSpec
from model.clinical_text import ClinicalText, ClinicalTextSpec
from model.errors import Warn
from model.fusion import Fusion, build_fusion
from model.rna import RnaSpec, Scale
from model.survival import risk


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
            raw = risk(self.fusion(batch)).cpu().numpy()
        return np.asarray((raw - self.risk_mean) / self.risk_sd)


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
    fusion.load_state_dict(tensors_under(tensors, "fusion."))
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


def tensors_under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin so, named by the rest."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
