"""A fusion on a table's patients: its own modalities, its own training cases, its own epochs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from table_files import FEATURES, GENES, write_tables

from model.batch import Modality
from train import table_fusion
from train.baselines import out_of_fold
from train.cohort import outcomes
from train.config import FitConfig
from train.dataset import Fold
from train.folds import inner_folds
from train.loop import EpochLog, Plan
from train.metrics import harrell_c
from train.table_fusion import Chosen, TableEncoder, TableFusion
from train.tables import Table, read_table
from train.views import Components, Genes, Histology

EVERY: tuple[Modality, ...] = ("slide", "rna", "clinical")
SMALL = {"slide_width": 8, "attention_width": 4, "rna_widths": (8,), "dropout": 0.0}
FIT = FitConfig(epochs=6, inner_folds=2, learning_rate=1e-2, weight_decay=1e-2, batch_cases=16)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    data = write_tables(tmp_path_factory.mktemp("data"))
    return read_table(data, "survpath", "abcd", endpoint="dss", modalities=EVERY)


def fusion(table: Table, *modalities: Modality, seed: int = 0) -> TableFusion:
    settings: dict[str, Any] = {**SMALL, "modalities": modalities}
    return TableFusion("concat", settings, FIT, (1e-2,), TableEncoder(table, EVERY), seed)


def test_a_fold_holds_what_the_fusion_uses(table: Table) -> None:
    encoded = TableEncoder(table, EVERY).fit(table.cases[:40])

    whole = encoded.fold(table.cases, EVERY)
    one = encoded.fold(table.cases, ("clinical",))

    assert (whole.dims.embedding, whole.dims.genes) == (len(FEATURES), GENES)
    assert (one.dims.embedding, one.dims.genes) == (0, 0)
    assert one.dims.clinical == whole.dims.clinical > 0
    assert one.inputs[0].modalities == ("clinical",)
    # The second patient has two slides: two rows.
    bags = [case.bag for case in whole.inputs[:3]]
    assert [len(bag) for bag in bags if bag is not None] == [1, 2, 1]


def test_preprocessing_is_fitted_on_the_training_cases_alone(table: Table) -> None:
    encoder = TableEncoder(table, EVERY)
    some, others = encoder.fit(table.cases[:40]), encoder.fit(table.cases[40:])

    assert some.rna is not None
    assert others.rna is not None
    torch.testing.assert_close(some.rna[:40].mean(dim=0), torch.zeros(GENES), atol=1e-5, rtol=0)
    torch.testing.assert_close(others.rna[40:].mean(dim=0), torch.zeros(GENES), atol=1e-5, rtol=0)
    assert not torch.allclose(some.rna, others.rna)
    assert encoder.fit(table.cases[:40]) is some


@pytest.mark.slow
def test_the_fusion_orders_patients_it_has_not_seen(table: Table) -> None:
    tests = [np.flatnonzero(table.fold == fold) for fold in range(3)]

    longer = replace(fusion(table, *EVERY), config=FIT.model_copy(update={"epochs": 20}))

    risk = out_of_fold(longer, table.cases, tests)

    assert harrell_c(risk, outcomes(table.cases)) > 0.7


def test_the_seed_decides_the_fit(table: Table) -> None:
    train, others = table.cases[:60], table.cases[60:]

    first = fusion(table, "clinical").fit(train)(others)

    np.testing.assert_array_equal(first, fusion(table, "clinical").fit(train)(others))
    assert not np.allclose(first, fusion(table, "clinical", seed=1).fit(train)(others))


def test_components_are_those_of_the_training_cases(table: Table) -> None:
    train = table.cases[:40]
    encoded = TableEncoder(table, EVERY, components=2).fit(train)
    rna = encoded.rna[:40].double().numpy()
    values = Genes().fit(train)(train)
    centred = values - values.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:2].T
    np.testing.assert_allclose(np.abs(rna), np.abs(expected / expected.std(axis=0)), atol=1e-5)
    assert [bag.shape for bag in encoded.bags[:3]] == [(1, 2)] * 3  # a patient's slides averaged


def test_histology_is_the_mean_of_a_patients_slides(table: Table) -> None:
    train = table.cases[:40]
    slides = [bag.double().numpy() for bag in TableEncoder(table, EVERY).fit(train).bags]
    means = np.stack([bag.mean(axis=0) for bag in slides])
    assert len(slides[1]) == 2
    np.testing.assert_allclose(Histology().fit(train)(table.cases), means, atol=1e-5)
    # The patients' means are not about 0, as the slides are: one patient has two.
    components = Components(Histology(), 2).fit(train)(train)
    np.testing.assert_allclose(components.mean(axis=0), [0, 0], atol=1e-9)
    np.testing.assert_allclose(components.T @ components / 40, np.eye(2), atol=1e-9)


def test_genes_are_grouped_and_features_become_rows(table: Table) -> None:
    train = table.cases[:40]
    sets = {"early": ("G1", "G0", "unknown"), "late": ("G5",), "none": ("unknown",)}
    groups = {FEATURES[0]: 7, FEATURES[1]: 2, FEATURES[2]: 7}
    encoder = TableEncoder(table, EVERY, groups=groups)
    plain = TableEncoder(table, EVERY).fit(train)
    grouped = encoder.fit(train)

    assert grouped.fold(train, EVERY, sets).dims.gene_sets == {"early": (0, 1), "late": (5,)}
    assert grouped.fold(train, EVERY).dims.gene_sets == {}
    for one, many in zip(plain.bags[:3], grouped.bags[:3], strict=True):
        assert many.shape == (2 * len(one), len(FEATURES))  # a row a slide and group
        torch.testing.assert_close(many.unflatten(0, (len(one), 2)).sum(dim=1), one)
    first = sorted(FEATURES).index(FEATURES[1])
    assert grouped.bags[0][0].count_nonzero() == 1
    assert grouped.bags[0][0, first] == plain.bags[0][0, first]


def test_rate_and_epochs_are_those_of_the_least_validation_loss(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter(
        [
            [3.0, 2.0, 1.4, 2.0, 3.0, 4.0],
            [3.0, 1.0, 1.5, 2.0, 2.0, 2.0],  # mean losses at 1e-3: 3, 1.5, 1.45, 2, 2.5, 3
            [2.0, 1.0, 2.0, 2.0, 2.0, 2.0],
            [2.0, 1.2, 2.0, 2.0, 2.0, 1.0],  # at 1e-2: 2, 1.1, 2, 2, 2, 1.5
        ]
    )
    plans: list[tuple[float, int, list[str], list[str]]] = []

    def train_fusion(
        _: object, fold: Fold, plan: Plan, *, validation: Fold | None
    ) -> list[EpochLog]:
        held = [] if validation is None else list(validation.case_ids)
        plans.append((plan.config.learning_rate, plan.epochs, list(fold.case_ids), held))
        return (
            [] if validation is None else [EpochLog(i, 0.0, v) for i, v in enumerate(next(losses))]
        )

    monkeypatch.setattr(table_fusion, "train_fusion", train_fusion)
    train = table.cases[:60]
    model = replace(fusion(table, "clinical"), learning_rates=(1e-3, 1e-2))

    model.fit(train)

    inner = [
        ([c.case_id for c in rest], [c.case_id for c in held])
        for rest, held in inner_folds(train, 2)
    ]
    assert plans == [
        *((rate, 6, *split) for rate in (1e-3, 1e-2) for split in inner),
        (1e-2, 2, [case.case_id for case in train], []),
    ]
    assert list(model.advice.values()) == [Chosen(1e-2, 2)]

    replace(model, seed=1).fit(train)  # which takes the first seed's choice
    assert plans[5:] == [(1e-2, 2, [case.case_id for case in train], [])]


def test_the_clinical_record_comes_in_sentences(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(sentences: list[str]) -> np.ndarray:
        return np.array([[len(text), sum(map(ord, text))] for text in sentences], dtype=np.float32)

    monkeypatch.setattr(table_fusion, "load_text_encoder", lambda config: encode)
    train = table.cases[:40]
    encoded = TableEncoder(table, EVERY, text=True).fit(train)
    tokens = encoded.tokens
    assert tokens is not None
    assert tokens.shape == (len(table.cases), 3, 2)  # age, stage, sex
    assert encoded.fold(train, EVERY).dims.clinical_tokens == (3, 2)
    assert encoded.fold(train, ("rna",)).dims.clinical_tokens == (0, 0)
    sex = [str(case.case.clinical.values["sex"]) for case in table.cases]
    same, other = sex.index(sex[0], 1), next(i for i, x in enumerate(sex) if x != sex[0])
    torch.testing.assert_close(tokens[0, 2], tokens[same, 2])
    assert not torch.allclose(tokens[0, 2], tokens[other, 2])
