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
        "hidden": 6,
        "inner": 4,
        "between": 5,
        "rank": 3,
        "head": (9, 7),
        "dropout": 0.1,
    },
    "porpoise": {"slide_width": 8, "attention_width": 5, "width": 7, "gated": 4},
    "mlp": {"widths": (9, 7)},
    "snn": {"widths": (9, 7)},
    "abmil": {"width": 16, "attention_width": 8, "head": (12,)},
    "meanpool": {"width": 8, "hidden": 7},
    "deepattnmisl": {"phenotypes": 3, "width": 8, "hidden": 7},
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
    return [
        CaseInputs(
            bag=torch.randn(size, DIMS.embedding, generator=draw),
            coords=torch.randint(0, 10_000, (size, 2), generator=draw),
            rna=torch.randn(DIMS.genes, generator=draw),
            clinical=torch.randn(DIMS.clinical, generator=draw),
        )
        for size in sizes
    ]


def without(case: CaseInputs, modality: Modality) -> CaseInputs:
    """Return the case as it is when a modality is absent."""
    if modality == "slide":
        return replace(case, bag=None, coords=None)
    return replace(case, **{modality: None})
