"""Small bundles of two members, without an encoder or for one."""

from dataclasses import replace
from typing import Any

import numpy as np
from toy_fusions import DIMS, build_toy

from model.bundle import Bundle, Manifest, Task
from model.clinical import CategoryColumn, ClinicalSpec, NumberColumn
from model.clinical_text import CategoryText, ClinicalText, ClinicalTextSpec, NumberText
from model.encoders import EncoderSpec
from model.fusion import FUSIONS, build_fusion
from model.interface import Sentences
from model.member import Member
from model.patches import PatchSpec
from model.rna import RnaSpec
from model.survival import TimeMapping

MAPPING = TimeMapping(
    kind="rmst",
    slope=0.7,
    center=0.1,
    spread=1.3,
    tau=60.0,
    event_times=np.array([10.0, 20.0, 40.0]),
    cum_hazard=np.array([0.1, 0.3, 0.9]),
    km_times=np.array([0.0, 10.0, 20.0, 40.0]),
    km_survival=np.array([1.0, 0.8, 0.6, 0.3]),
    risks=np.array([-1.0, 0.0, 0.5, 2.0]),
)
RNA = RnaSpec(
    genes=tuple(f"G{index}" for index in range(DIMS.genes)),
    scale="log",
    mean=np.linspace(3.7, 12, DIMS.genes),
    sd=np.linspace(0.5, 2, DIMS.genes),
    max_missing=0.2,
)
CLINICAL = ClinicalSpec(
    numbers=(NumberColumn(name="age", mean=70.0, sd=9.0),),
    categories=(CategoryColumn(name="stage", values=("t1hg",)),),
    missing=("-1",),
)
CLINICAL_TEXT = ClinicalText(
    ClinicalTextSpec(
        numbers=(NumberText(name="age", words=Sentences.of("age"), step=1, least=71, most=73),),
        categories=(CategoryText(name="stage", words=Sentences.of("stage"), values=("t1hg",)),),
        missing=("-1",),
    ),
    vectors=np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32),
)


def make_bundle(name: str = "pairwise", **changes: Any) -> Bundle:
    """Make a bundle of two members whose patches would be six wide embeddings of no encoder.

    They can do without RNA.
    """
    uses_rna = "rna" in FUSIONS[name].Config().modalities
    members = tuple(
        Member(
            fusion=build_toy(name, optional=("rna",) if uses_rna else (), seed=seed),
            rna=RNA,
            clinical=CLINICAL,
            risk_mean=0.25 * seed,
            risk_sd=1.0 + seed,
            clinical_text=CLINICAL_TEXT,
        )
        for seed in range(2)
    )
    manifest = Manifest(
        notice="demonstration",
        task=Task(endpoint="time to nothing", unit="months", interface="chimera_task3"),
        encoder=None,
        patches=None,
        fusion=name,
        settings=members[0].fusion.config.model_dump(mode="json"),
        members=tuple(member.manifest() for member in members),
        mapping=MAPPING.kind,
        provenance={"version": "0.1.0", "metrics": {"c_index": 0.625}},
    )
    return Bundle(manifest.model_copy(update=changes), members, MAPPING)


def bundle_with(encoder: dict[str, Any], *, width: int, patches: PatchSpec | None = None) -> Bundle:
    """Make a bundle for an encoder, with a fusion of that embedding width."""
    dims = DIMS.model_copy(update={"embedding": width})
    bundle = make_bundle("concat", encoder=EncoderSpec.model_validate(encoder), patches=patches)
    settings = bundle.manifest.settings
    member = replace(bundle.members[0], fusion=build_fusion("concat", settings, dims))
    manifest = bundle.manifest.model_copy(update={"members": (member.manifest(),)})
    return Bundle(manifest, (member,), MAPPING)
