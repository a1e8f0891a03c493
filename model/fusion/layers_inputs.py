"""What models of few modalities are told, and how they read a batch."""

from typing import Literal

import torch
from pydantic import model_validator
from torch import nn

from model.batch import MODALITIES, Batch, Dims, Modality
from model.fusion.base import FusionConfig
from model.fusion.layers import StandIns


class SlideConfig(FusionConfig):
    """A model of slides alone."""

    modalities: tuple[Literal["slide"]] = ("slide",)


class VectorsConfig(FusionConfig):
    """A model of RNA, of the clinical record, or of both side by side."""

    modalities: tuple[Literal["rna", "clinical"], ...] = ("rna",)


class SlideAndProfileConfig(FusionConfig):
    """A model of slides beside RNA, the clinical record, or both."""

    @model_validator(mode="after")
    def _slide_and_profile(self) -> "SlideAndProfileConfig":
        if "slide" not in self.modalities or len(set(self.modalities)) < 2:
            found = ", ".join(self.modalities)
            raise ValueError(f"modalities: expected slide and rna or clinical, found {found}")
        return self


class Vectors(nn.Module):
    """The RNA and clinical vectors that a model uses, side by side as one."""

    def __init__(self, config: FusionConfig, dims: Dims) -> None:
        super().__init__()
        widths: dict[Modality, int] = {"rna": dims.genes, "clinical": dims.clinical}
        self.names: list[Modality] = [
            name for name in MODALITIES if name in widths and name in config.modalities
        ]
        self.width = sum(widths[name] for name in self.names)
        self.stand_ins = StandIns(widths, [name for name in self.names if name in config.optional])

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return (B, width), with the stand-ins of absent modalities."""
        given = {name: batch.rna if name == "rna" else batch.clinical for name in self.names}
        return torch.cat(list(self.stand_ins(given, batch).values()), dim=1)
