"""Readers of the public tables: who takes part, what is a feature, what is never one."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from table_files import CASES, FEATURES, GENES, write_tables

from model.batch import Modality
from model.case import Record
from model.errors import ConfigError
from train.tables import Source, Table, fit_histology, histology_bag, read_table

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no public tables in {DATA}")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(tmp_path_factory.mktemp("data"))


def read(data: Path, *modalities: Modality, source: Source = "survpath") -> Table:
    return read_table(data, source, "abcd", endpoint="dss", modalities=modalities)


def test_patients_with_every_modality_take_part_once(data: Path) -> None:
    everyone = read(data, "clinical")
    with_rna = read(data, "rna", "clinical")
    with_all = read(data, "slide", "rna", "clinical")

    assert len(everyone.cases) == CASES
    assert {case.case_id for case in everyone.cases} - {c.case_id for c in with_rna.cases} == {
        "TCGA-0007"
    }
    assert len(with_all.cases) == CASES - 2
    assert len({case.case_id for case in with_all.cases}) == len(with_all.cases)
    assert [int(c.case_id[-4:]) % 3 for c in with_all.cases] == with_all.fold.tolist()


def test_both_sources_read_the_same_patients_alike(data: Path) -> None:
    first, second = read(data, "clinical"), read(data, "clinical", source="mmp")

    for one, other in zip(first.cases, second.cases, strict=True):
        assert (one.case_id, one.event) == (other.case_id, other.event)
        assert one.time == pytest.approx(other.time)
        assert one.case.clinical is not None
        assert other.case.clinical is not None
        assert one.case.clinical.values == pytest.approx(other.case.clinical.values)
    assert first.cases[3].case.clinical is not None
    assert "age" not in first.cases[3].case.clinical.values
    assert first.cases[5].case.clinical is not None
    assert "stage" not in first.cases[5].case.clinical.values
    assert Counter(c.event for c in first.cases)[True] > 20


def test_stages_are_numbers_in_their_order(data: Path) -> None:
    raw = pd.read_csv(data / "tcga/survpath/tcga_abcd_clinical.csv.gz").set_index("case_id")
    stages = ["0", "I", "II", "III", "IV"]
    seen = set()
    for case in read(data, "clinical").cases:
        written = raw["stage"][case.case_id]
        if written in stages:
            assert case.case.clinical is not None
            assert case.case.clinical.values["stage"] == stages.index(written)
            seen.add(written)
    assert seen == {"I", "II", "III", "IV"}


def test_censorship_becomes_event(data: Path) -> None:
    table = read(data, "clinical")
    raw = pd.read_csv(data / "tcga/survpath/tcga_abcd_metadata.csv.gz").drop_duplicates("case_id")

    assert [case.event for case in table.cases] == (raw["censorship_dss"] == 0).tolist()
    assert [case.time for case in table.cases] == raw["survival_months_dss"].tolist()


def test_any_change_of_the_data_shows(data: Path) -> None:
    table = read(data, "rna", "clinical")
    first, *others = table.cases
    clinical = replace(first.case, clinical=Record({"age": 1.0}, Path("x")))
    changed = [
        replace(first, event=not first.event),
        replace(first, time=first.time + 1),
        replace(first, case=clinical),
        replace(first, case=replace(first.case, rna=None)),
        replace(first, histology=(Record({"area": 1.0}, Path("x")),)),
    ]
    found = {replace(table, cases=(case, *others)).sha256() for case in (first, *changed)}
    found.add(replace(table, fold=table.fold + 1).sha256())
    assert len(found) == 7
    assert read(data, "rna", "clinical").sha256() == table.sha256()


def test_aliquots_of_a_patient_are_averaged(data: Path) -> None:
    raw = pd.read_csv(data / "tcga/survpath/tcga_abcd_rna_xena1577.csv.gz", index_col=0)
    assert raw.index.duplicated().any()

    case = read(data, "rna", "clinical").cases[0]

    assert case.case.rna is not None
    expected = raw.loc[case.case_id].mean()
    assert case.case.rna.values == pytest.approx(expected.to_dict())


def test_z_scores_are_squeezed_and_copy_numbers_left_out(data: Path) -> None:
    raw = pd.read_csv(data / "tcga/porpoise/tcga_abcd_all_clean.csv.zip").set_index("case_id")

    case = read(data, "rna", source="mmp").cases[4]

    assert case.case.rna is not None
    values = case.case.rna.values
    assert list(values) == [f"G{i}" for i in range(GENES)]
    for gene, value in values.items():
        x = raw.loc[case.case_id, f"{gene}_rnaseq"]
        assert value == pytest.approx(np.copysign(np.log(1 + abs(x)), x))


def test_outcomes_in_the_histology_table_are_no_features(data: Path) -> None:
    table = read(data, "slide", "clinical")

    assert {tuple(record.values) for case in table.cases for record in case.histology} == {FEATURES}
    assert [len(case.histology) for case in table.cases[:3]] == [1, 2, 1]


def test_histology_is_standardised_by_training_slides(data: Path) -> None:
    cases = read(data, "slide", "clinical").cases
    spec = fit_histology(cases[:40])

    bags = [histology_bag(case, spec) for case in cases]

    rows = np.concatenate([bag for bag in bags[:40] if bag is not None])
    assert rows.shape == (41, len(FEATURES))
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(rows.std(axis=0), 1, atol=1e-5)
    without = read(data, "clinical").cases[0]
    assert histology_bag(without, spec) is None
    with pytest.raises(ConfigError, match="histology: expected features of some training case"):
        fit_histology([without])


def test_an_absent_table_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"tcga_abcd_metadata\.csv\.gz: expected a readable table"
    ):
        read(tmp_path, "clinical")


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(
    ("source", "study", "modalities", "patients", "events"),
    [
        ("survpath", "blca", ("rna", "clinical"), 359, 113),
        ("survpath", "coadread", ("rna", "clinical"), 296, 37),
        ("survpath", "stad", ("rna", "clinical"), 318, 84),
        ("survpath", "brca", ("slide", "clinical"), 809, 55),
        ("survpath", "stad", ("slide", "rna", "clinical"), 315, 84),
        ("mmp", "luad", ("slide", "rna", "clinical"), 391, 93),
    ],
)
def test_public_tables_hold_the_patients_that_are_known(
    source: Source, study: str, modalities: tuple[Modality, ...], patients: int, events: int
) -> None:
    table = read_table(DATA, source, study, endpoint="dss", modalities=modalities)

    assert (len(table.cases), sum(case.event for case in table.cases)) == (patients, events)
    assert len({case.case_id for case in table.cases}) == patients
    assert set(table.fold.tolist()) == {0, 1, 2, 3, 4}
    if "slide" in modalities:
        known = [len(record.values) for case in table.cases for record in case.histology]
        assert max(known) == 607
        assert min(known) >= 0.8 * 607
