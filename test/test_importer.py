"""Importing a checkpoint of the second-place repository: the same predictions, from one file."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from foreign_checkpoint import VARIANTS, Foreign, case_of, ignore, imported, our_risk, state_dict
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from model.bundle import Bundle
from model.encoders import ENCODERS
from model.errors import TriSurvError
from model.predictor import Predictor
from train.importer import import_checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("categories", [10, 11])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_bundle_predicts_what_the_checkpoint_does(
    tmp_path: Path, name: str, categories: int
) -> None:
    foreign = Foreign(tmp_path / "results", name, categories=categories)
    bundle = imported(foreign, tmp_path / "bundle")
    cases = [foreign.case() for _ in range(12)]
    expected = np.array([foreign.risk(*case) for case in cases])
    found = np.array([our_risk(bundle, *case) for case in cases])
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert bundle.mapping.time(found).tolist() == [foreign.time(risk) for risk in expected]


def test_times_are_the_same_for_any_risk(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path / "results", "img")
    mapping = imported(foreign, tmp_path / "bundle").mapping
    risks = np.concatenate([np.linspace(-9, 9, 400), foreign.curve["train_risks"]])
    assert mapping.time(risks).tolist() == [foreign.time(risk) for risk in risks.tolist()]


UNUSUAL: dict[str, dict[str, object]] = {
    "-1 where no training case had it": {"grade": "-1"},
    "a new value": {"variant": "Squamous"},
    "-1 for a number": {"no_instillations": -1, "age": 20},
    "no value": {"stage": None},
}


@pytest.mark.parametrize("change", UNUSUAL.values(), ids=UNUSUAL)
def test_what_the_preprocessor_does_not_know_counts_the_same(
    tmp_path: Path, change: dict[str, object]
) -> None:
    foreign = Foreign(tmp_path / "results", "pg")
    bundle = imported(foreign, tmp_path / "bundle")
    case, bag = foreign.case()
    assert case.rna is not None
    assert case.clinical is not None
    odd = case_of(case.rna.values, {**case.clinical.values, **change})
    assert our_risk(bundle, odd, bag, ignore) == pytest.approx(foreign.risk(odd, bag), abs=1e-5)


def test_a_missing_gene_counts_as_zero_and_two_of_120_are_refused(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path / "results", "imgrna")
    bundle = imported(foreign, tmp_path / "bundle")
    case, bag = foreign.case()
    assert case.rna is not None
    values = dict(case.rna.values)
    del values["GENE7"]
    one = case_of(values, {})
    assert our_risk(bundle, one, bag, ignore) == pytest.approx(foreign.risk(one, bag), abs=1e-5)
    assert our_risk(bundle, one, bag, ignore) != our_risk(bundle, case, bag)
    del values["GENE8"]
    with pytest.raises(TriSurvError, match="at most 1 of 120 genes missing, found 2"):
        our_risk(bundle, case_of(values, {}), bag)


def test_columns_may_come_in_any_order_and_be_numbers_or_absent(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path / "results", "rnacli")
    table = pd.DataFrame(
        {
            "centre": [3, 1, 2, 3],
            "LVI": ["No", None, "Yes", None],
            "age": [50.0, 60.0, 70.0, 81.0],
        }
    )
    foreign.preprocessor = ColumnTransformer(
        [
            ("cat", OneHotEncoder(handle_unknown="ignore"), ["LVI", "centre"]),
            ("num", StandardScaler(), ["age"]),
        ]
    ).fit(table)
    foreign.state = state_dict("rnacli", 7, foreign.rng)
    foreign.write()
    bundle = imported(foreign, tmp_path / "bundle")
    case, bag = foreign.case()
    assert case.rna is not None
    for row in table.to_dict("records"):
        one = case_of(case.rna.values, {str(key): value for key, value in row.items()})
        assert our_risk(bundle, one, bag) == pytest.approx(foreign.risk(one, bag), abs=1e-5)


def test_the_predictor_serves_an_imported_bundle(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path / "results", "rnacli")
    bundle = imported(foreign, tmp_path / "bundle")
    predictor = Predictor(bundle, weights_dirs=[], device=torch.device("cpu"))
    case, bag = foreign.case()
    prediction = predictor.predict(case, progress=lambda done, total: None)
    assert prediction.risk == pytest.approx(foreign.risk(case, bag), abs=1e-5)
    assert (prediction.time, prediction.unit) == (foreign.time(prediction.risk), "months")
    assert prediction.warnings == (bundle.manifest.notice,)
    # Nothing but the cohort's curve is known: S(12 months) is the last step up to there.
    known = foreign.curve["km_probs"][foreign.curve["km_times"] <= 12][-1]
    assert prediction.survival[12] == pytest.approx(known)


def test_the_manifest_says_where_the_model_comes_from(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path / "results", "pg")
    manifest = imported(foreign, tmp_path / "bundle").manifest
    assert manifest.encoder == ENCODERS["uni"]
    assert manifest.encoder.weights_sha256 is None
    assert manifest.patches is not None
    assert (manifest.patches.mpp, manifest.patches.size_px) == (1.0, 224)
    assert (manifest.task.interface, manifest.task.unit) == ("chimera_task3", "months")
    assert (manifest.fusion, manifest.mapping) == ("pairwise", "km_nearest")
    assert manifest.provenance["imported"] == "pg"
    files = manifest.provenance["files"]
    assert isinstance(files, dict)
    assert len(files) == 4


def test_without_slides_there_is_no_encoder(tmp_path: Path) -> None:
    manifest = imported(Foreign(tmp_path / "results", "rnacli"), tmp_path / "bundle").manifest
    assert (manifest.encoder, manifest.patches) == (None, None)


def test_a_model_trained_on_several_gpus_has_the_same_layers(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path / "results", "img")
    bundle = imported(foreign, tmp_path / "bundle")
    wrapped = {
        n.replace("attention_net.", "attention_net.module."): t for n, t in foreign.state.items()
    }
    torch.save(wrapped, foreign.folder / "s_0_checkpoint.pt")
    again = import_checkpoint(
        foreign.folder, trust_pickle=True, warn=ignore, output=tmp_path / "again"
    )
    case = foreign.case()
    assert our_risk(Bundle.load(again), *case) == our_risk(bundle, *case)


def test_only_the_files_that_the_model_needs_are_asked_for(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path / "results", "img")
    (foreign.folder / "gene_order.json").unlink()
    (foreign.folder / "clinical_preprocessor.pkl").unlink()
    assert set(imported(foreign, tmp_path / "bundle").manifest.provenance["files"]) == {  # type: ignore[arg-type]
        "s_0_checkpoint.pt",
        "km_curve.pkl",
    }


def test_a_curve_that_ends_at_0_is_taken(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path / "results", "img")
    times, survival = foreign.curve["km_times"], foreign.curve["km_probs"].copy()
    survival[-1] = 0.0  # the last of the cohort had an event
    foreign.curve["km_probs"] = survival
    foreign.write()
    mapping = imported(foreign, tmp_path / "bundle").mapping
    drops = np.flatnonzero(np.diff(survival) < 0) + 1
    kept = drops[survival[drops] > 0]
    assert mapping.event_times.tolist() == times[kept].tolist()
    np.testing.assert_allclose(np.exp(-mapping.cum_hazard), survival[kept])
