"""The models of the second-place CHIMERA repository as our fusions: names, widths, columns.

Source: hassancpu/ChimeraChallenge2025_Task_3 (commit 46c95e4), models/model_abmil.py.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from model.batch import MODALITIES, Dims, Modality
from model.errors import ConfigError
from model.fusion import Fusion, build_fusion
from model.rna import RnaSpec
from train.importer_files import CHECKPOINT, CLINICAL, GENES, ClinicalColumns, Tensors

_PAIRS: dict[str, tuple[Modality, Modality]] = {
    "fuse_hr": ("slide", "rna"),
    "fuse_hc": ("slide", "clinical"),
    "fuse_rc": ("rna", "clinical"),
}
_FACTORS = {"f1": "x", "f2": "y", "out": "out"}
_BRANCHES: dict[Modality, str] = {"slide": "attention_net", "rna": "rna_encoder"}
_ATTENTION = {
    "attention_net.0": "branches.slide.project.0",
    "attention_net.3.attention_a.0": "branches.slide.value.0",
    "attention_net.3.attention_b.0": "branches.slide.gate.0",
    "attention_net.3.attention_c": "branches.slide.score",
}


@dataclass(frozen=True)
class Variant:
    """A model of the foreign repository; `pairs` are its bilinear blocks, in our order."""

    modalities: tuple[Modality, ...]
    pairs: tuple[str, ...] = ()
    head: str = "classifier"

    @property
    def parts(self) -> set[str]:
        """The first words of its tensors' names."""
        branches = {part for modality, part in _BRANCHES.items() if modality in self.modalities}
        return branches | {*self.pairs, self.head}

    @property
    def fusion(self) -> str:
        """Our name of the model."""
        return "pairwise" if self.pairs else "concat"

    def rename(self, layer: str) -> str:
        """Return our name of a layer.

        Raises:
            KeyError: The model has no such layer.
        """
        part, _, rest = layer.partition(".")
        if part in self.pairs:
            return f"pairs.blocks.{self.pairs.index(part)}.{_FACTORS[rest]}"
        if part == self.head:
            return "head" if self.pairs else "head.0"
        if part == _BRANCHES["rna"]:
            return f"branches.rna.{rest.removeprefix('encoder.')}"
        return _ATTENTION[layer]


VARIANTS = {
    "abmil": Variant(MODALITIES, head="classifiers"),
    "pg": Variant(MODALITIES, pairs=("fuse_hr", "fuse_hc", "fuse_rc")),
    "img": Variant(("slide",)),
    "imgcli": Variant(("slide", "clinical"), pairs=("fuse_hc",)),
    "imgrna": Variant(("slide", "rna"), pairs=("fuse_hr",)),
    "rnacli": Variant(("rna", "clinical"), pairs=("fuse_rc",)),
}


def find_variant(path: Path, tensors: Tensors) -> tuple[str, Variant]:
    """Tell the model by the parts that its tensors name."""
    parts = {name.partition(".")[0] for name in tensors}
    for name, variant in VARIANTS.items():
        if variant.parts == parts:
            return name, variant
    raise ConfigError(
        f"{path}: expected the layers of {', '.join(VARIANTS)}, "
        f"found {', '.join(sorted(parts)) or 'none'}"
    )


def convert(
    directory: Path,
    variant: Variant,
    tensors: Tensors,
    rna: RnaSpec | None,
    clinical: ClinicalColumns | None,
) -> Fusion:
    """Build our fusion with the checkpoint's weights, moved to our columns.

    Raises:
        ConfigError: The tensors are not the variant's, or do not fit the other files.
    """
    try:
        state = {}
        for name, tensor in tensors.items():
            layer, _, kind = name.rpartition(".")
            state[f"{variant.rename(layer)}.{kind}"] = tensor
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
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        found = " ".join(str(error).split())
        raise ConfigError(
            f"{directory / CHECKPOINT}: expected the layers and shapes of its model, found {found}"
        ) from error
    return fusion.eval()


def _settings(variant: Variant, state: Tensors) -> dict[str, object]:
    """Read the widths off the tensors, which have our names by now."""
    settings: dict[str, object] = {"modalities": variant.modalities}
    if "slide" in variant.modalities:
        settings["slide_width"] = len(state["branches.slide.project.0.weight"])
        settings["attention_width"] = len(state["branches.slide.value.0.weight"])
    if "rna" in variant.modalities:
        settings["rna_widths"] = _rna_widths(state)
    for index, pair in enumerate(variant.pairs):
        settings["rank"] = len(state[f"pairs.blocks.{index}.x.weight"])
        settings["_".join(_PAIRS[pair])] = len(state[f"pairs.blocks.{index}.out.weight"])
    return settings


def _rna_widths(state: Tensors) -> tuple[int, ...]:
    biases = [n for n in state if n.startswith("branches.rna.") and n.endswith(".bias")]
    return tuple(len(state[n]) for n in sorted(biases, key=lambda n: int(n.split(".")[2])))


def _move_clinical(path: Path, variant: Variant, state: Tensors, clinical: ClinicalColumns) -> None:
    """Move the weights on clinical columns to ours: in the pairs, or in abmil's one layer."""
    for index, pair in enumerate(variant.pairs):
        if "clinical" in _PAIRS[pair]:
            name = f"pairs.blocks.{index}.y.weight"
            _check_width(path, "columns", state[name], len(clinical.places))
            state[name] = clinical.spread(state[name])
    if not variant.pairs:
        # It sees slide ‖ clinical ‖ RNA; ours sees slide ‖ RNA ‖ clinical.
        ends = len(state["branches.slide.project.0.weight"]), -_rna_widths(state)[-1]
        slide, theirs, rna = state["head.0.weight"].tensor_split(ends, dim=1)
        _check_width(path, "columns", theirs, len(clinical.places))
        state["head.0.weight"] = torch.cat([slide, rna, clinical.spread(theirs)], dim=1)


def _check_width(path: Path, what: str, weight: torch.Tensor, found: int) -> None:
    if weight.shape[1] != found:
        raise ConfigError(
            f"{path}: expected the checkpoint's {weight.shape[1]} {what}, found {found}"
        )
