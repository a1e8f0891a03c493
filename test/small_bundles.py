"""Bundles with random weights for the tests, made by the code that makes real ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from job_files import CHIMERA, no_warning

from model.batch import MODALITIES, Dims, Modality
from model.bundle import Bundle, Manifest, Task
from model.case import Record
from model.clinical import ClinicalSpec
from model.encoders import ENCODERS
from model.fusion import build_fusion
from model.member import Member
from model.patches import PatchSpec
from model.rna import RnaSpec
from train.calibrate import fit_mapping
from train.simulate import simulate_latents
from train.simulate_records import clinical_record, gene_panel, rna_record

PATCHES = PatchSpec(size_px=64, stride_px=64)
PANEL = gene_panel().genes[:200]
MEMBERS = 2
CASES = 60

SETTINGS: dict[str, Any] = {
    "slide_width": 16,
    "attention_width": 8,
    "rna_widths": [16, 8],
}
PAIRS = {"rank": 8, "slide_rna": 8, "slide_clinical": 8, "rna_clinical": 8}


def build_bundle(
    *,
    optional: Sequence[Modality] = (),
    modalities: Sequence[Modality] = MODALITIES,
    encoder: str = "efficientnet_lite0",
    unit: str = "months",
    interface: str = "chimera_task3",
) -> Bundle:
    """Build a bundle whose specs and mapping are fitted to simulated cases, its weights to none."""
    rna, clinical = _specs(modalities)
    name = "pairwise" if len(modalities) > 1 else "concat"
    pairs = PAIRS if name == "pairwise" else {}
    settings = SETTINGS | pairs | {"modalities": modalities, "optional": optional}
    dims = Dims(
        embedding=ENCODERS[encoder].width if "slide" in modalities else 0,
        genes=len(rna.genes) if rna else 0,
        clinical=len(clinical.columns) if clinical else 0,
    )
    members = []
    for seed in range(MEMBERS):
        torch.manual_seed(seed)
        fusion = build_fusion(name, settings, dims).eval()
        members.append(Member(fusion, rna, clinical, risk_mean=0.1 * seed, risk_sd=0.5))
    latents = simulate_latents(CASES, 0.5, seed=0)
    mapping = fit_mapping(
        "rmst",
        event=latents.event,
        time=latents.time,
        risk=latents.eta + np.random.default_rng(0).normal(size=CASES),
        warn=no_warning,
    )
    manifest = Manifest(
        notice="random weights, for tests alone",
        task=Task(endpoint="time to nothing", unit=unit, interface=interface),
        encoder=ENCODERS[encoder] if "slide" in modalities else None,
        patches=PATCHES if "slide" in modalities else None,
        fusion=name,
        settings=members[0].fusion.config.model_dump(mode="json"),
        members=tuple(member.manifest() for member in members),
        mapping="rmst",
        provenance={},
    )
    return Bundle(manifest, tuple(members), mapping)


def _specs(modalities: Sequence[Modality]) -> tuple[RnaSpec | None, ClinicalSpec | None]:
    """Fit the preprocessing of those modalities that are used to simulated patients."""
    rng = np.random.default_rng(0)
    rna = clinical = None
    if "rna" in modalities:
        profiles = [rna_record(rng.normal(size=2), 0.0, rng) for _ in range(CASES)]
        rna = RnaSpec.fit(
            [Record(dict(profile), Path()) for profile in profiles], scale="log", panel=PANEL
        )
    if "clinical" in modalities:
        patients = [clinical_record(rng.normal(size=2), 0.1, rng) for _ in range(CASES)]
        clinical = ClinicalSpec.fit(
            [Record(dict(patient), Path()) for patient in patients], CHIMERA.clinical
        )
    return rna, clinical
