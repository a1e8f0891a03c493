"""A fusion of the registry on a table's patients, with the interface of a baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from model.batch import CaseInputs, Modality
from model.clinical import ClinicalSpec
from model.clinical_text import ClinicalText
from model.fusion import Fusion, build_fusion, read_settings
from train.baselines import Risks
from train.cohort import clinical_records
from train.config import ClinicalTextConfig, FitConfig
from train.dataset import Fold, tensor_fold
from train.folds import inner_folds
from train.gene_sets import GeneSets
from train.loop import EpochLog, Plan, predict_risks, train_fusion
from train.tables import SCHEMA, Table, fit_histology, histology_bag
from train.text_encoder import load_text_encoder
from train.views import Cases, Clinical, Components, FloatArray, Genes, Histology, View


class Folds(Protocol):
    """Cases under preprocessing that was fitted."""

    def fold(
        self, cases: Cases, modalities: tuple[Modality, ...], gene_sets: GeneSets | None = None
    ) -> Fold:
        """Return cases as a fusion of these modalities sees them, its genes perhaps in sets."""
        ...


class CaseEncoder(Protocol):
    """Preprocessing that is fitted on training cases."""

    def fit(self, cases: Cases) -> Folds:
        """Fit on training cases alone."""
        ...


@dataclass(frozen=True)
class Encoded:
    """All patients of a table under preprocessing that was fitted on some of them.

    Attributes:
        row: Case id → row.
        bags: (n,) bags (N, D), a row a slide; with `rna` (n, G) and `clinical` (n, C) None where
            the table lacks the modality.
        tokens: The clinical record in sentences (n, S, E), None where no fusion reads them.
        genes: Those of `rna`, in its order; none where they were made components of.
    """

    row: dict[str, int]
    bags: list[torch.Tensor] | None
    rna: torch.Tensor | None
    clinical: torch.Tensor | None
    tokens: torch.Tensor | None
    genes: Sequence[str]

    def fold(
        self, cases: Cases, modalities: tuple[Modality, ...], gene_sets: GeneSets | None = None
    ) -> Fold:
        """Return cases as a fusion of these modalities sees them, its genes perhaps in sets."""
        rows = (self.row[case.case_id] for case in cases)
        inputs = tuple(self._inputs(row).only(modalities) for row in rows)
        return tensor_fold(cases, inputs, self.genes, gene_sets)

    def _inputs(self, row: int) -> CaseInputs:
        return CaseInputs(
            bag=None if self.bags is None else self.bags[row],
            rna=None if self.rna is None else self.rna[row],
            clinical=None if self.clinical is None else self.clinical[row],
            clinical_tokens=None if self.tokens is None else self.tokens[row],
        )


@dataclass(frozen=True)
class TableEncoder:
    """Fits preprocessing on some patients of a table and applies it to all of them.

    What was fitted is kept: the models share their folds.

    Attributes:
        components: Give RNA and histology (averaged over a patient's slides) as so many principal
            components each, not as they are.
        text: Whether a fusion reads the clinical record in sentences.
        groups: Of the histology features, by name: a slide's row becomes one row a group, which is
            zero outside it.
    """

    table: Table
    modalities: tuple[Modality, ...]
    components: int | None = None
    text: bool = False
    groups: Mapping[str, int] = field(default_factory=dict)
    _kept: dict[frozenset[str], Encoded] = field(default_factory=dict)

    def fit(self, cases: Cases) -> Encoded:
        """Return all patients, encoded as the training cases say."""
        key = frozenset(case.case_id for case in cases)
        if key not in self._kept:
            self._kept[key] = self._encode(cases)
        return self._kept[key]

    def _encode(self, cases: Cases) -> Encoded:
        everyone = self.table.cases
        bags = rna = clinical = tokens = None
        genes: Sequence[str] = ()
        if "slide" in self.modalities:
            bags = self._bags(cases)
        if "rna" in self.modalities:
            rna = torch.from_numpy(self._view(Genes()).fit(cases)(everyone)).float()
            genes = Genes().spec(cases).genes if self.components is None else ()
        if "clinical" in self.modalities:
            clinical = torch.from_numpy(Clinical(SCHEMA).fit(cases)(everyone)).float()
            tokens = self._tokens(cases) if self.text else None
        rows = {case.case_id: row for row, case in enumerate(everyone)}
        return Encoded(rows, bags, rna, clinical, tokens, genes)

    def _view(self, view: View) -> View:
        return view if self.components is None else Components(view, self.components)

    def _tokens(self, cases: Cases) -> torch.Tensor:
        records = clinical_records(cases)
        encode = load_text_encoder(ClinicalTextConfig())
        text = ClinicalText.fit(records, ClinicalSpec.fit(records, SCHEMA), SCHEMA, encode)
        # A value beyond the training cases' has the nearest one's sentence: no line about it.
        rows = [
            text.apply(case.case.clinical, warn=lambda text: None)
            for case in self.table.cases
            if case.case.clinical is not None
        ]
        return torch.from_numpy(np.stack(rows))

    def _bags(self, cases: Cases) -> list[torch.Tensor]:
        if self.components is not None:
            rows = self._view(Histology()).fit(cases)(self.table.cases)
            return [torch.from_numpy(row[None]).float() for row in rows]
        spec = fit_histology(cases)
        found = [histology_bag(case, spec) for case in self.table.cases]
        bags = [torch.from_numpy(bag) for bag in found if bag is not None]
        if not self.groups:
            return bags
        group = torch.tensor([self.groups[feature] for feature in spec.genes])
        own = group == torch.unique(group)[:, None]  # (K, D)
        return [(bag[:, None] * own).flatten(0, 1) for bag in bags]


@dataclass(frozen=True)
class Chosen:
    """What inner folds have chosen for one training fold."""

    learning_rate: float
    epochs: int


@dataclass(frozen=True)
class TableFusion:
    """Trains a fusion at the rate and for as many epochs as inner folds of the cases advise.

    Attributes:
        name: In the registry.
        config: `inner_folds` of it choose among 1 to `epochs` epochs, by Cox's validation loss.
        learning_rates: The rates to choose among, by the same loss.
        gene_sets: For a fusion that groups genes.
        advice: What was chosen for some training cases, by their ids. Seeds share it: the first
            chooses for all.
    """

    name: str
    settings: dict[str, Any]
    config: FitConfig
    learning_rates: tuple[float, ...]
    encoder: CaseEncoder
    seed: int
    gene_sets: GeneSets | None = None
    advice: dict[frozenset[str], Chosen] = field(default_factory=dict)

    def fit(self, cases: Cases) -> Risks:
        """Choose rate and number of epochs, then train on all training cases."""
        key = frozenset(case.case_id for case in cases)
        if key not in self.advice:
            self.advice[key] = self._choose(cases)
        fusion, _ = self._train(cases, self.advice[key])
        encoded = self.encoder.fit(cases)

        def risks(others: Cases) -> Any:
            fold = encoded.fold(others, fusion.config.modalities, self.gene_sets)
            return predict_risks(fusion, fold, self.config)

        return risks

    def _choose(self, cases: Cases) -> Chosen:
        losses = np.array([self._inner_losses(cases, rate) for rate in self.learning_rates])
        rate, epoch = np.unravel_index(np.argmin(losses), losses.shape)
        return Chosen(self.learning_rates[rate], int(epoch) + 1)

    def _inner_losses(self, cases: Cases, rate: float) -> FloatArray:
        """Return the validation loss by epoch (epochs,), averaged over the inner folds."""
        most = Chosen(rate, self.config.epochs)
        losses = [
            [entry.validation for entry in self._train(rest, most, held)[1]]
            for rest, held in inner_folds(cases, self.config.inner_folds)
        ]
        return np.asarray(np.mean(np.array(losses, dtype=np.float64), axis=0))

    def _train(
        self, cases: Cases, chosen: Chosen, held: Cases | None = None
    ) -> tuple[Fusion, list[EpochLog]]:
        modalities = read_settings(self.name, self.settings).modalities
        encoded = self.encoder.fit(cases)
        fold = encoded.fold(cases, modalities, self.gene_sets)
        validation = None if held is None else encoded.fold(held, modalities, self.gene_sets)
        torch.manual_seed(self.seed)
        fusion = build_fusion(self.name, self.settings, fold.dims)
        config = self.config.model_copy(update={"learning_rate": chosen.learning_rate})
        plan = Plan(config, chosen.epochs, (self.seed,))
        return fusion, train_fusion(fusion, fold, plan, validation=validation)
