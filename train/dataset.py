"""Bags, RNA, clinical records and outcomes of a fold become batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from model.bags import bag_path, read_bag
from model.batch import MODALITIES, Bag, CaseInputs, Dims, Modality
from model.clinical import ClinicalSpec
from model.clinical_text import ClinicalText
from model.encoders import EncoderSpec
from model.errors import CaseError, ConfigError, Warn, about_case
from model.fusion import FUSIONS, build_fusion
from model.fusion.base import Labels
from model.interface import ClinicalSchema
from model.member import Member
from model.messages import failures
from model.patches import PatchSpec
from train.cohort import LabelledCase, clinical_records, outcomes
from train.config import TrainConfig
from train.gene_sets import GeneSets, place_gene_sets
from train.panel import fit_rna
from train.text_encoder import load_text_encoder


@dataclass
class Bags:
    """The cohort's bags on disk; as long as they fit into `cache_bytes`, they stay in memory."""

    directory: Path
    encoder: EncoderSpec
    patches: PatchSpec
    cache_bytes: int = 4 << 30
    _kept: dict[str, Bag] = field(default_factory=dict)

    def get(self, case_id: str) -> Bag | None:
        """Return a case's bag, None where it has no slide.

        Raises:
            ConfigError: The bag was made with other settings.
        """
        if case_id in self._kept:
            return self._kept[case_id]
        path = bag_path(self.directory, case_id)
        if not path.is_file():
            return None
        bag = read_bag(path, self.encoder, self.patches)
        if bag.embeddings.nbytes <= self.cache_bytes:
            self.cache_bytes -= bag.embeddings.nbytes
            self._kept[case_id] = bag
        return bag


@dataclass(frozen=True)
class Fold:
    """Labelled cases as one member sees them.

    Attributes:
        case_ids: Of the cases, in their order.
        inputs: Each case's RNA and clinical tensors, and its bag where `bags` is None.
        bags: Where a bag is read from when it is needed.
        dims: Widths of the member's inputs.
        optional: Modalities that may be absent, and that training drops at random.
        event: (n,) bool.
        time: (n,) float64.
        strata: (n,) int64, the stratum of the Cox loss of each case.
    """

    case_ids: tuple[str, ...]
    inputs: tuple[CaseInputs, ...]
    bags: Bags | None
    dims: Dims
    optional: tuple[Modality, ...]
    event: torch.Tensor
    time: torch.Tensor
    strata: torch.Tensor

    def __len__(self) -> int:
        return len(self.case_ids)

    def case(self, index: int) -> CaseInputs:
        """Return a case with its bag."""
        bag = self.bags.get(self.case_ids[index]) if self.bags and self.dims.embedding else None
        if bag is None:
            return self.inputs[index]
        return replace(
            self.inputs[index],
            bag=bag.embeddings,
            coords=bag.coords,
            slide_index=bag.slide_index,
        )

    def labels(self, rows: torch.Tensor, device: torch.device) -> Labels:
        """Return what happened to some of the cases, their times as quantiles of all events'."""
        events = self.time[self.event].sort().values
        before = torch.searchsorted(events, self.time[rows])
        # Later than all events is in the last bin, too.
        quantile = (before.clamp(max=len(events) - 1) + 0.5) / len(events)
        return Labels(self.event[rows].to(device), quantile.to(device))


@dataclass(frozen=True)
class FoldBags:
    """The bags (N, D) of a fold, one in memory at a time; can be gone through more than once."""

    fold: Fold

    def __iter__(self) -> Iterator[torch.Tensor]:
        cases = (self.fold.case(row) for row in range(len(self.fold)))
        return (case.bag for case in cases if case.bag is not None)


@dataclass(frozen=True)
class CohortBags:
    """The bags (N, D) of cases, one in memory at a time; can be gone through more than once."""

    bags: Bags
    case_ids: tuple[str, ...]

    def __iter__(self) -> Iterator[torch.Tensor]:
        found = (self.bags.get(case_id) for case_id in self.case_ids)
        return (bag.embeddings for bag in found if bag is not None)


def start_member(
    cases: Sequence[LabelledCase],
    bags: Bags,
    config: TrainConfig,
    schema: ClinicalSchema,
) -> Member:
    """Fit the preprocessing on training cases and build an untrained member on top of it.

    Raises:
        ConfigError: The cases lack a modality that the fusion uses, or genes of the gene sets, or
            the text encoder that the fusion's clinical sentences need is absent.
    """
    settings = config.fusion.read()
    rna = clinical = text = None
    gene_sets: dict[str, tuple[int, ...]] = {}
    if "rna" in settings.modalities:
        rna, gene_sets = fit_rna(cases, config.rna)
    if "clinical" in settings.modalities:
        records = clinical_records(cases)
        clinical = ClinicalSpec.fit(records, schema)
        if FUSIONS[config.fusion.name].READS_TEXT:
            encode = load_text_encoder(config.clinical_text)
            text = ClinicalText.fit(records, clinical, schema, encode)
    dims = Dims(
        embedding=bags.encoder.width if "slide" in settings.modalities else 0,
        genes=len(rna.genes) if rna else 0,
        clinical=len(clinical.columns) if clinical else 0,
        outputs=config.fit.outputs,
        gene_sets=gene_sets,
        clinical_tokens=text.shape if text else (0, 0),
    )
    fusion = build_fusion(config.fusion.name, config.fusion.settings, dims)
    return Member(fusion, rna, clinical, risk_mean=0.0, risk_sd=1.0, clinical_text=text)


def make_fold(member: Member, cases: Sequence[LabelledCase], bags: Bags, *, warn: Warn) -> Fold:
    """Apply a member's preprocessing to labelled cases.

    Raises:
        ConfigError: A case lacks a modality that the fusion cannot do without.
        CaseError: A record cannot be used.
    """
    config = member.fusion.config
    for case in cases:
        found = {
            "slide": bags.get(case.case_id) if "slide" in config.modalities else None,
            "rna": case.case.rna,
            "clinical": case.case.clinical,
        }
        for name in config.modalities:
            if found[name] is None and name not in config.optional:
                raise ConfigError(
                    f"case {case.case_id}: expected {name} (not optional in this run), found none"
                )
    strata = sorted({case.stratum for case in cases})
    return Fold(
        case_ids=tuple(case.case_id for case in cases),
        inputs=tuple(_inputs(member, case, warn=warn) for case in cases),
        bags=bags,
        dims=member.fusion.dims,
        optional=config.optional,
        event=torch.tensor([case.event for case in cases]),
        time=torch.tensor([case.time for case in cases], dtype=torch.float64),
        strata=torch.tensor([strata.index(case.stratum) for case in cases]),
    )


def check_records(member: Member, cases: Sequence[LabelledCase], source: str) -> None:
    """Refuse records that a member's preprocessing cannot be applied to, and name all their cases.

    What else there is to say of them is said in the folds.

    Raises:
        ConfigError: There are some.
    """
    failed: dict[str, CaseError] = {}
    for case in cases:
        try:
            _inputs(member, case, warn=lambda text: None)
        except CaseError as error:
            failed[case.case_id] = error
    if failed:
        raise ConfigError(
            f"{source}: expected records that can be used of all {len(cases)} cases, found others "
            f"for {len(failed)}: {failures(failed)}"
        )


def tensor_fold(
    cases: Sequence[LabelledCase],
    inputs: tuple[CaseInputs, ...],
    genes: Sequence[str],
    gene_sets: GeneSets | None,
) -> Fold:
    """Return cases of one centre whose tensors, bags too, are at hand; `genes` are the RNA's."""
    outcome, first = outcomes(cases), inputs[0]
    vectors = (first.bag, first.rna, first.clinical)
    embedding, rna, clinical = (0 if x is None else x.shape[-1] for x in vectors)
    sentences = first.clinical_tokens
    return Fold(
        case_ids=tuple(case.case_id for case in cases),
        inputs=inputs,
        bags=None,
        dims=Dims(
            embedding=embedding,
            genes=rna,
            clinical=clinical,
            gene_sets=place_gene_sets(gene_sets, genes, least=1) if gene_sets and rna else {},
            clinical_tokens=(0, 0) if sentences is None else (len(sentences), sentences.shape[1]),
        ),
        optional=(),
        event=torch.from_numpy(outcome.event),
        time=torch.from_numpy(outcome.time),
        strata=torch.zeros(len(cases), dtype=torch.int64),
    )


def _inputs(member: Member, case: LabelledCase, *, warn: Warn) -> CaseInputs:
    """Return a case's tensors, all but the bag; a table's row alone would not name the case."""
    with about_case(case.case_id):
        return member.inputs(case.case, None, warn=warn)


def subsample(case: CaseInputs, max_patches: int | None, rng: np.random.Generator) -> CaseInputs:
    """Draw patches of a bag without replacement, in their order; all when there are fewer."""
    if case.bag is None or max_patches is None or len(case.bag) <= max_patches:
        return case
    keep = torch.from_numpy(np.sort(rng.choice(len(case.bag), max_patches, replace=False)))
    coords = None if case.coords is None else case.coords[keep]
    slide_index = None if case.slide_index is None else case.slide_index[keep]
    return replace(case, bag=case.bag[keep], coords=coords, slide_index=slide_index)


def drop_modalities(
    case: CaseInputs, optional: Sequence[str], probability: float, rng: np.random.Generator
) -> CaseInputs:
    """Drop each optional modality at random; where that is all of a case's, one of them stays."""
    dropped = [
        name
        for name, draw in zip(MODALITIES, rng.random(len(MODALITIES)), strict=True)
        if name in optional and name in case.modalities and draw < probability
    ]
    if len(dropped) == len(case.modalities):
        del dropped[rng.integers(len(dropped))]
    return case.only([name for name in MODALITIES if name not in dropped])
