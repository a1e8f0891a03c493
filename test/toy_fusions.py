"""Every registered fusion at toy widths, and cases with all modalities for it."""

from dataclasses import replace
from typing import Any

import torch

from model.batch import CaseInputs, Dims, Modality
from model.fusion import FUSIONS, Fusion, build_fusion

DIMS = Dims(
    embedding=6,
    genes=10,
    clinical=4,
    gene_sets={"first": (0, 1, 2), "second": (2, 3, 4, 5, 6), "third": (7, 8, 9)},
    clinical_tokens=(2, 5),
)

_BRANCHES = {"slide_width": 8, "attention_width": 5, "rna_widths": (9, 7)}
_PAIRS = {**_BRANCHES, "rank": 4, "slide_rna": 5, "slide_clinical": 4, "rna_clinical": 3}

TOY_SETTINGS: dict[str, dict[str, Any]] = {
    "concat": _BRANCHES,
    "pairwise": _PAIRS,
    "pairwise_residual": _PAIRS,
    "lmf": {**_BRANCHES, "rank": 3},
    "hfb": {
        "slide_width": 8,
        "attention_width": 5,
        "hidden": 10,
        "inner": 6,
        "between": 8,
        "rank": 3,
        "head": (16, 12),
        "dropout": 0.05,
    },
    "porpoise": {"slide_width": 8, "attention_width": 5, "width": 7, "gated": 4},
    "mcat": {"width": 16, "heads": 2, "dropout": 0.0},
    "survpath": {"width": 12, "attended": 12, "hidden": 12, "genes_dropout": 0.1},
    "survpgc": {"width": 12, "attended": 12, "hidden": 12, "genes_dropout": 0.1},
    "survq": {"patch_queries": 5, "gene_queries": 4, "hidden": 9, "width": 8},
    "mlp": {"widths": (9, 7)},
    "snn": {"widths": (9, 7)},
    "abmil": {"width": 16, "attention_width": 8, "head": (12,)},
    "meanpool": {"width": 8, "hidden": 7},
    "deepattnmisl": {"phenotypes": 3, "width": 8, "hidden": 7},
    "motcat": {"width": 8, "heads": 2, "mass": 0.05, "dropout": 0.0},
    "mmp": {
        "prototypes": 3,
        "width": 8,
        "code_width": 4,
        "attention_width": 6,
        "dropout": 0.0,
    },
    "pibd": {"hidden": 12, "width": 8, "heads": 2},
    "ccl": {"width": 8, "heads": 2, "clusters": 3, "gene_dropout": 0.0, "dropout": 0.0},
    "hsfsurv": {"width": 8, "heads": 2, "dropout": 0.0},
    "mome": {"width": 8, "heads": 2, "landmarks": 12, "rounds": 1},
    "transmil": {"width": 8, "heads": 2, "landmarks": 4},
    "patchgcn": {"width": 8, "neighbours": 2, "attention_width": 5, "dropout": 0.0},
    "hvtsurv": {"width": 8, "heads": 2, "window": 4, "attention_width": 5},
}
"""Settings that keep a fusion small; one that is not named here is built as published."""

NAMES = sorted(FUSIONS)


def build_toy(
    name: str, *, outputs: int = 1, optional: tuple[Modality, ...] = (), seed: int = 0
) -> Fusion:
    """Build a fusion at toy widths, in evaluation mode."""
    torch.manual_seed(seed)
    settings = TOY_SETTINGS.get(name, {}) | {"optional": optional}
    return build_fusion(name, settings, DIMS.model_copy(update={"outputs": outputs})).eval()


def toy_cases(*sizes: int, seed: int = 1) -> list[CaseInputs]:
    """Make one case for each bag size, with all modalities."""
    draw = torch.Generator().manual_seed(seed)
    words = torch.Generator().manual_seed(seed + 1000)
    return [
        CaseInputs(
            bag=torch.randn(size, DIMS.embedding, generator=draw),
            coords=torch.randint(0, 10_000, (size, 2), generator=draw),
            rna=torch.randn(DIMS.genes, generator=draw),
            clinical=torch.randn(DIMS.clinical, generator=draw),
            clinical_tokens=torch.randn(DIMS.clinical_tokens, generator=words),
        )
        for size in sizes
    ]


def without(case: CaseInputs, modality: Modality) -> CaseInputs:
    """Return the case as it is when a modality is absent."""
    if modality == "slide":
        return replace(case, bag=None, coords=None)
    if modality == "clinical":
        return replace(case, clinical=None, clinical_tokens=None)
    return replace(case, rna=None)
