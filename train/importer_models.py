"""The models of the second-place CHIMERA repository as our fusions: names, widths, columns.

Source: hassancpu/ChimeraChallenge2025_Task_3 (commit 46c95e4), models/model_abmil.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from model.batch import MODALITIES, Dims, Modality
from model.errors import ConfigError, reason_of
from model.fusion import Fusion, build_fusion
from model.messages import listed
from model.rna import RnaSpec
from train.importer_files import CHECKPOINT, CLINICAL, GENES, ClinicalColumns, Tensors

_SLIDE = {
    "attention_net.0": "branches.slide.project.0",
    "attention_net.3.attention_a.0": "branches.slide.value.0",
    "attention_net.3.attention_b.0": "branches.slide.gate.0",
    "attention_net.3.attention_c": "branches.slide.score",
}
_RNA = {f"rna_encoder.encoder.{index}": f"branches.rna.{index}" for index in (0, 3, 6)}
_PAIRS: dict[str, tuple[Modality, Modality]] = {
    "fuse_hr": ("slide", "rna"),
    "fuse_hc": ("slide", "clinical"),
    "fuse_rc": ("rna", "clinical"),
}
_FACTORS = {"f1": "x", "f2": "y", "out": "out"}


@dataclass(frozen=True)
class Variant:
    """A model of the foreign repository; `pairs` are its bilinear blocks, in our order."""

    modalities: tuple[Modality, ...]
    pairs: tuple[str, ...] = ()
    head: str = "classifier"

    @property
    def fusion(self) -> str:
        """Our name of the model."""
        return "pairwise" if self.pairs else "concat"

    @property
    def tensors(self) -> dict[str, str]:
        """Our name of each of its tensors."""
        layers = {self.head: "head" if self.pairs else "head.0"}
        layers |= _SLIDE if "slide" in self.modalities else {}
        layers |= _RNA if "rna" in self.modalities else {}
        for index, pair in enumerate(self.pairs):
            layers |= {f"{pair}.{f}": f"pairs.blocks.{index}.{g}" for f, g in _FACTORS.items()}
        return {
            f"{theirs}.{kind}": f"{ours}.{kind}"
            for theirs, ours in layers.items()
            for kind in ("weight", "bias")
        }


VARIANTS = {
    "abmil": Variant(MODALITIES, head="classifiers"),
    "pg": Variant(MODALITIES, pairs=("fuse_hr", "fuse_hc", "fuse_rc")),
    "img": Variant(("slide",)),
    "imgcli": Variant(("slide", "clinical"), pairs=("fuse_hc",)),
    "imgrna": Variant(("slide", "rna"), pairs=("fuse_hr",)),
    "rnacli": Variant(("rna", "clinical"), pairs=("fuse_rc",)),
}


def find_variant(path: Path, tensors: Tensors) -> tuple[str, Variant]:
    """Tell the model and its name by the first words of its tensors' names.

    Raises:
        ConfigError: It is none that is known, or a tensor of it is absent or unknown.
    """
    parts = _first_words(tensors)
    for name, variant in VARIANTS.items():
        if _first_words(variant.tensors) == parts:
            if odd := variant.tensors.keys() ^ tensors.keys():
                raise ConfigError(
                    f"{path}: expected the {len(variant.tensors)} tensors of {name}, "
                    f"found {len(tensors)}; only in one of the two: {', '.join(sorted(odd))}"
                )
            return name, variant
    raise ConfigError(
        f"{path}: expected the layers of {', '.join(VARIANTS)}, found {listed(sorted(parts))}"
    )


def _first_words(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def convert(
    directory: Path,
    variant: Variant,
    tensors: Tensors,
    rna: RnaSpec | None,
    clinical: ClinicalColumns | None,
) -> Fusion:
    """Build our fusion with the checkpoint's weights, moved to our columns.

    Raises:
        ConfigError: The tensors fit neither each other nor the other files.
    """
    try:
        state = {ours: tensors[theirs] for theirs, ours in variant.tensors.items()}
        settings = _settings(variant, state)
        if rna is not None:
            weight = state["branches.rna.0.weight"]
            _check_width(directory / GENES, "genes", weight, len(rna.genes))
            state["branches.rna.0.weight"] = weight * torch.from_numpy(rna.sd).float()
        if clinical is not None:
            _move_clinical(directory / CLINICAL, variant, state, clinical)
        slide = state.get("branches.slide.project.0.weight")
        dims = Dims(
            embedding=0 if slide is None else slide.shape[1],
            genes=0 if rna is None else len(rna.genes),
            clinical=0 if clinical is None else len(clinical.spec.columns),
        )
        fusion = build_fusion(variant.fusion, settings, dims)
        fusion.load_state_dict(state)
    except (IndexError, TypeError, ValueError, RuntimeError) as error:
        found = reason_of(error)
        raise ConfigError(
            f"{directory / CHECKPOINT}: expected tensors of shapes that fit, found {found}"
        ) from error
    return fusion.eval()


def _settings(variant: Variant, state: Tensors) -> dict[str, object]:
    """Read the widths off the tensors, which have our names by now."""
    settings: dict[str, object] = {"modalities": variant.modalities}
    if "slide" in variant.modalities:
        settings["slide_width"] = len(state["branches.slide.project.0.weight"])
        settings["attention_width"] = len(state["branches.slide.value.0.weight"])
    if "rna" in variant.modalities:
        settings["rna_widths"] = tuple(len(state[f"{layer}.bias"]) for layer in _RNA.values())
    for index, pair in enumerate(variant.pairs):
        settings["rank"] = len(state[f"pairs.blocks.{index}.x.weight"])
        settings["_".join(_PAIRS[pair])] = len(state[f"pairs.blocks.{index}.out.weight"])
    return settings


def _move_clinical(path: Path, variant: Variant, state: Tensors, clinical: ClinicalColumns) -> None:
    """Move the weights on clinical columns to ours: in the pairs, or in abmil's one layer."""
    for index, pair in enumerate(variant.pairs):
        if "clinical" in _PAIRS[pair]:
            name = f"pairs.blocks.{index}.y.weight"
            _check_width(path, "columns", state[name], len(clinical.places))
            state[name] = clinical.spread(state[name])
    if not variant.pairs:
        # It sees slide ‖ clinical ‖ RNA; ours sees slide ‖ RNA ‖ clinical.
        ends = len(state["branches.slide.project.0.bias"]), -len(state["branches.rna.6.bias"])
        slide, theirs, rna = state["head.0.weight"].tensor_split(ends, dim=1)
        _check_width(path, "columns", theirs, len(clinical.places))
        state["head.0.weight"] = torch.cat([slide, rna, clinical.spread(theirs)], dim=1)


def _check_width(path: Path, what: str, weight: torch.Tensor, found: int) -> None:
    if weight.shape[1] != found:
        raise ConfigError(
            f"{path}: expected the checkpoint's {weight.shape[1]} {what}, found {found}"
        )
