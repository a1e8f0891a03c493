"""Which cases each fit of a run sees, how long it runs, and the scale that its risks are put on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_run import make_cases, make_results, make_run
from small_runs import write_run
from synthetic import no_warning

from model.errors import ConfigError
from model.interface import read_interface
from train import crossval, ensemble
from train.cohort import LabelledCase, read_cohort
from train.config import INTERFACES, read_config
from train.crossval import Run, cross_validate
from train.dataset import Bags, make_fold
from train.ensemble import build_bundle
from train.loop import EpochLog, predict_risks


@dataclass(frozen=True)
class Fit:
    """Whose ids one fit saw: for its preprocessing, its weights, and its validation."""

    preprocessed: set[str]
    trained: set[str]
    validated: set[str]


def ids(cases: Sequence[LabelledCase]) -> set[str]:
    return {case.case_id for case in cases}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    config = read_config(write_run(tmp_path), ["fit.inner_folds=2"])
    interface = read_interface(config.cohort.interface, [INTERFACES])
    cases = read_cohort(config.cohort, interface, warn=no_warning)
    bags = Bags(config.cohort.bag_dir, config.encoder.spec(), config.patches)
    (config.output / "folds").mkdir(parents=True)
    return Run(config, interface, cases, bags, warn=no_warning, say=lambda text: None)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[Fit]:
    """Note what each fit sees, in their order."""
    seen: list[Fit] = []
    started: list[set[str]] = []
    start, train = crossval.start_member, crossval.train_fusion

    def start_and_note(cases: Sequence[LabelledCase], *others: Any) -> Any:
        started.append(ids(cases))
        return start(cases, *others)

    def train_and_note(fusion: Any, fold: Any, plan: Any, *, validation: Any = None) -> Any:
        validated = set() if validation is None else set(validation.case_ids)
        seen.append(Fit(started[-1], set(fold.case_ids), validated))
        return train(fusion, fold, plan, validation=validation)

    monkeypatch.setattr(crossval, "start_member", start_and_note)
    monkeypatch.setattr(crossval, "train_fusion", train_and_note)
    return seen


def test_no_fit_of_a_fold_sees_its_test_cases_and_none_its_validation_cases(
    run: Run, fits: list[Fit]
) -> None:
    results = cross_validate(run)
    assert len(fits) == 3 * len(results) == 6  # two inner folds, and the member itself
    for number, result in enumerate(results):
        training = ids(run.cases) - {run.cases[row].case_id for row in result.test}
        *inner, member = fits[3 * number : 3 * number + 3]
        assert member == Fit(training, training, set())
        assert set.union(*(fit.validated for fit in inner)) == training
        for fit in inner:
            assert fit.validated
            assert fit.preprocessed == fit.trained == training - fit.validated


def test_each_repeat_has_folds_of_its_own_and_the_losses_of_its_inner_folds(run: Run) -> None:
    folds = run.config.folds.model_copy(update={"repeats": 2})
    results = cross_validate(replace(run, config=run.config.model_copy(update={"folds": folds})))
    cut = [{frozenset(result.test) for result in results[start : start + 2]} for start in (0, 2)]
    assert all(frozenset.union(*parts) == set(range(len(run.cases))) for parts in cut)
    assert not cut[0] & cut[1]
    assert all(entry.validation is not None for result in results for entry in result.log)


def test_a_members_training_risks_have_mean_0_and_deviation_1(run: Run) -> None:
    for result in cross_validate(run):
        training = [case for row, case in enumerate(run.cases) if row not in result.test]
        fold = make_fold(result.member, training, run.bags, warn=no_warning)
        own = predict_risks(result.member.fusion, fold, run.config.fit)
        scaled = (own - result.member.risk_mean) / result.member.risk_sd
        assert (scaled.mean(), scaled.std()) == pytest.approx((0, 1), abs=1e-6)
        unseen = [run.cases[row] for row in result.test]
        raw = predict_risks(
            result.member.fusion,
            make_fold(result.member, unseen, run.bags, warn=no_warning),
            run.config.fit,
        )
        expected = (raw - result.member.risk_mean) / result.member.risk_sd
        np.testing.assert_allclose(result.risk, expected, atol=1e-6)


def test_the_epochs_are_those_of_the_least_mean_validation_loss(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = iter([[3.0, 1.0, 2.0], [3.0, 2.5, 2.0]])

    def train(*_: Any, **__: Any) -> list[EpochLog]:
        return [EpochLog(at, 9.0 - at, loss) for at, loss in enumerate(next(validation))]

    monkeypatch.setattr(crossval, "train_fusion", train)
    epochs, log = crossval._choose_epochs(run, run.cases, (0,), Path("fold.safetensors"))
    assert epochs == 2
    assert [entry.validation for entry in log] == [3.0, 1.75, 2.0]
    assert [entry.loss for entry in log] == [9.0, 8.0, 7.0]


def test_a_refit_runs_for_the_folds_median_of_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, log_hazard = make_cases(60)
    results = [
        replace(result, epochs=epochs)
        for result, epochs in zip(make_results(cases, log_hazard), (3, 5, 20, 4, 18), strict=True)
    ]
    run = make_run(tmp_path, cases)
    run = replace(run, config=run.config.model_copy(update={"members": "refit"}))
    asked: list[int] = []

    def fit(_: Run, cases: Sequence[LabelledCase], epochs: int, *__: Any) -> Any:
        assert list(cases) == list(run.cases)
        asked.append(epochs)
        return results[0].member, []

    monkeypatch.setattr(ensemble, "fit_member", fit)
    assert len(build_bundle(run, results, {}).members) == 1
    assert asked == [5]


def test_slides_without_tissue_alone_train_nothing(run: Run) -> None:
    """That there are slides is known before they are embedded, that they have tissue after it."""
    settings = {"modalities": ["slide", "rna"], "optional": ["slide"]}
    fusion = run.config.fusion.model_copy(update={"settings": settings})
    of_slides = replace(run, config=run.config.model_copy(update={"fusion": fusion}))
    with pytest.raises(
        ConfigError, match=r"bags: expected a bag of some training case, found none"
    ):
        cross_validate(of_slides)
