"""Padded tensors of several cases.

Shape letters, here and in every fusion: B cases, N patches (padded), D embedding width, G genes,
C clinical columns, S sentences of a clinical record, E their width, P gene sets, T outputs.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict

Modality = Literal["slide", "rna", "clinical"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)


class Dims(BaseModel):
    """Widths of a model's inputs and output; 0 where it does not use the modality.

    Attributes:
        gene_sets: P gene sets by name: the positions of their genes in the RNA vector.
        clinical_tokens: How many sentences tell of the clinical record, and their vectors' width.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding: int = 0
    genes: int = 0
    clinical: int = 0
    outputs: int = 1
    gene_sets: dict[str, tuple[int, ...]] = {}
    clinical_tokens: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Bag:
    """The embedded patches of one case.

    Attributes:
        embeddings: (N, D) float32.
        coords: (N, 2) int64, top-left corners in level-0 pixels of the patch's slide.
        slide_index: (N,) int64, which of the case's slides a patch is from.
    """

    embeddings: torch.Tensor
    coords: torch.Tensor
    slide_index: torch.Tensor

    @classmethod
    def join(cls, bags: Sequence["Bag"]) -> "Bag":
        """Join the bags of a case's slides, one at least, in their order."""
        return cls(
            embeddings=torch.cat([bag.embeddings for bag in bags]),
            coords=torch.cat([bag.coords for bag in bags]),
            slide_index=torch.cat([bag.slide_index for bag in bags]),
        )


@dataclass(frozen=True)
class CaseInputs:
    """One case's tensors, each None where the case lacks the modality.

    Attributes:
        bag: (N, D) embeddings.
        coords: (N, 2) level-0 pixels.
        slide_index: (N,) which of the case's slides a patch is from; one slide when None.
        rna: (G,) standardised expression.
        clinical: (C,) encoded record.
        clinical_tokens: (S, E) vectors of the sentences that tell of the same record.
    """

    bag: torch.Tensor | None = None
    coords: torch.Tensor | None = None
    slide_index: torch.Tensor | None = None
    rna: torch.Tensor | None = None
    clinical: torch.Tensor | None = None
    clinical_tokens: torch.Tensor | None = None

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """List the modalities that the case has."""
        values = {"slide": self.bag, "rna": self.rna, "clinical": self.clinical}
        return tuple(name for name in MODALITIES if values[name] is not None)

    def only(self, modalities: Collection[Modality]) -> "CaseInputs":
        """Return the case as it is with no other modalities than these."""
        tensors = {
            "slide": ("bag", "coords", "slide_index"),
            "rna": ("rna",),
            "clinical": ("clinical", "clinical_tokens"),
        }
        absent = [tensor for name in tensors if name not in modalities for tensor in tensors[name]]
        return replace(self, **dict.fromkeys(absent))


@dataclass(frozen=True)
class Batch:
    """B cases, padded to the longest bag; an absent modality holds zeros.

    Attributes:
        bag: (B, N, D).
        mask: (B, N) bool, True = real patch.
        coords: (B, N, 2) int64, level-0 pixels of the patch's slide.
        slide_index: (B, N) int64, which of the case's slides a patch is from.
        rna: (B, G).
        clinical: (B, C).
        clinical_tokens: (B, S, E).
        slide_present: (B,) bool; with `rna_present` and `clinical_present`, what each case has.
    """

    bag: torch.Tensor
    mask: torch.Tensor
    coords: torch.Tensor
    slide_index: torch.Tensor
    rna: torch.Tensor
    clinical: torch.Tensor
    clinical_tokens: torch.Tensor
    slide_present: torch.Tensor
    rna_present: torch.Tensor
    clinical_present: torch.Tensor

    def __len__(self) -> int:
        return self.bag.shape[0]

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to a device."""
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def present(self, modality: Modality) -> torch.Tensor:
        """Return which cases have a modality (B,)."""
        return {
            "slide": self.slide_present,
            "rna": self.rna_present,
            "clinical": self.clinical_present,
        }[modality]


def collate(cases: Sequence[CaseInputs], dims: Dims) -> Batch:
    """Pad cases to one batch; the widths come from `dims`, so that a case may lack anything."""
    counts = [0 if case.bag is None else case.bag.shape[0] for case in cases]
    longest = max(1, *counts)
    bag = torch.empty(len(cases), longest, dims.embedding)
    mask = torch.arange(longest) < torch.tensor(counts)[:, None]
    coords = torch.zeros(len(cases), longest, 2, dtype=torch.int64)
    slide_index = torch.zeros(len(cases), longest, dtype=torch.int64)
    for index, (case, count) in enumerate(zip(cases, counts, strict=True)):
        if case.bag is not None:
            bag[index, :count] = case.bag
        bag[index, count:] = 0
        if case.coords is not None:
            coords[index, :count] = case.coords
        if case.slide_index is not None:
            slide_index[index, :count] = case.slide_index
    return Batch(
        bag=bag,
        mask=mask,
        coords=coords,
        slide_index=slide_index,
        rna=_rows([case.rna for case in cases], dims.genes),
        clinical=_rows([case.clinical for case in cases], dims.clinical),
        clinical_tokens=_rows([case.clinical_tokens for case in cases], *dims.clinical_tokens),
        slide_present=mask.any(dim=1),
        rna_present=torch.tensor([case.rna is not None for case in cases]),
        clinical_present=torch.tensor([case.clinical is not None for case in cases]),
    )


def _rows(vectors: Sequence[torch.Tensor | None], *shape: int) -> torch.Tensor:
    """Stack vectors (B, *shape), zeros where one is None."""
    return torch.stack([torch.zeros(shape) if v is None else v for v in vectors])
