"""The simulated part of the benchmark: what is fitted and kept, and the words about it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from toy_fusions import NAMES, TOY_SETTINGS

from model.errors import ConfigError
from train.benchmark_oracle import (
    COX,
    MAIN_EFFECTS,
    PRODUCTS,
    OracleConfig,
    OracleJob,
    OracleResult,
    run_oracle,
)
from train.benchmark_oracle_page import oracle_section
from train.cohort import outcomes
from train.config import validate
from train.kept import file_name
from train.simulate import simulate_latents
from train.simulate_inputs import SimulatedCohort
from train.views import Cases, FloatArray

SMALL = {"slide_width": 4, "attention_width": 4, "rna_widths": [4], "dropout": 0.0}


def toy_config(*overrides: str) -> OracleConfig:
    content = {
        "sizes": {40: 2, 60: 1},
        "unseen": 50,
        "seeds": [0, 1],
        "learning_rates": [1e-2],
        "fit": {"inner_folds": 2, "batch_cases": 16},
        "models": [
            {"label": "concat", "name": "concat", "settings": SMALL},
            {"label": "Slides alone", "name": "meanpool", "settings": {"width": 4, "hidden": 4}},
        ],
    }
    return validate(OracleConfig, content, overrides, source="toy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("oracle")


@pytest.fixture(scope="module")
def results(folder: Path) -> list[OracleResult]:
    return run_oracle(toy_config(), folder, say=lambda text: None)


# -- what is fitted and kept ---------------------------------------------------------------------


@dataclass
class Known:
    """A model whose risks are given; it notes which cases it was fitted on and which it scored."""

    risk: dict[str, float]
    fitted: tuple[str, ...] = ()
    scored: tuple[str, ...] = ()

    def fit(self, cases: Cases) -> "Known":
        self.fitted = tuple(case.case_id for case in cases)
        return self

    def __call__(self, cases: Cases) -> FloatArray:
        self.scored = tuple(case.case_id for case in cases)
        return np.array([self.risk[case.case_id] for case in cases])


def known(cohort: SimulatedCohort, eta: FloatArray, folder: Path) -> tuple[OracleResult, Known]:
    model = Known({f"case{i}": float(value) for i, value in enumerate(eta)})
    job = OracleJob("known", ("slide",), model, 25, 0, folder / "known.json", {})
    return job.run(cohort), model


def test_the_oracle_s_share_is_1_and_that_of_a_constant_0(tmp_path: Path) -> None:
    cohort = SimulatedCohort.draw(40, 60, 0.5, 0)
    latents = simulate_latents(100, 0.5, 0)

    oracle, model = known(cohort, latents.eta, tmp_path)
    constant, _ = known(cohort, np.zeros(100), tmp_path)
    additive, _ = known(cohort, latents.h[:, 0] + latents.r[:, 0] + latents.c[:, 0], tmp_path)

    assert oracle.share == 1
    assert constant.share == 0
    assert 0 < additive.share == additive.additive_share < 1
    assert model.fitted == tuple(f"case{i}" for i in range(25))
    assert model.scored == tuple(f"case{i}" for i in range(40, 100))
    assert oracle.events == latents.event[40:].sum()
    assert oracle.train_events == latents.event[:25].sum()


@pytest.mark.slow
def test_every_model_is_fitted_to_every_size_and_seed(results: list[OracleResult]) -> None:
    found = [(result.seed, result.cases, result.label) for result in results]

    labels = (MAIN_EFFECTS, PRODUCTS, "concat", "Slides alone")
    assert found == [(s, n, label) for s in (0, 1) for n in (40, 60) for label in labels]
    assert {result.unseen for result in results} == {50}
    assert {r.label: r.sees for r in results}["Slides alone"] == ("slide",)


def test_unseen_cases_never_enter_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unseen cases are looked at once a model, all of them, when it has been fitted."""
    seen: list[set[str]] = []
    fold = SimulatedCohort.fold

    def noted(self: SimulatedCohort, cases: Cases, *args: object) -> object:
        seen.append({case.case_id for case in cases})
        return fold(self, cases, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(SimulatedCohort, "fold", noted)
    run_oracle(toy_config("seeds=[0]", "sizes={60=1}"), tmp_path, say=lambda text: None)

    unseen = {f"case{i}" for i in range(60, 110)}
    assert len(seen) == 2 * (2 * 2 + 2)  # models: (inner folds: train, validate), train, score
    assert [ids & unseen for ids in seen] == 2 * [*(5 * [set()]), unseen]


@pytest.mark.slow
def test_results_are_kept_and_read_again(results: list[OracleResult], folder: Path) -> None:
    said: list[str] = []

    again = run_oracle(toy_config(), folder, say=said.append)

    assert not said
    assert again == results
    kept = json.loads((folder / "slides-alone-n40-seed1.json").read_text())
    assert kept["result"]["c_index"] == next(
        r.c_index for r in results if (r.label, r.cases, r.seed) == ("Slides alone", 40, 1)
    )


def test_a_label_of_the_cox_models_is_refused() -> None:
    with pytest.raises(ConfigError, match="models: expected labels that differ"):
        toy_config("models=[{label='COX: main effects', name='mlp'}]")


@pytest.mark.slow
def test_another_label_that_is_spelt_alike_in_files_is_the_one_shown(
    results: list[OracleResult], folder: Path
) -> None:
    config = toy_config()
    models = tuple(
        model.model_copy(update={"label": f"({model.label})"}) for model in config.models
    )

    again = run_oracle(config.model_copy(update={"models": models}), folder, say=pytest.fail)

    labels = [f"({r.label})" if r.label not in COX else r.label for r in results]
    assert [result.label for result in again] == labels


@pytest.mark.parametrize(
    ("override", "refitted"),
    [
        ("interaction=0.4", {MAIN_EFFECTS, PRODUCTS, "concat", "Slides alone"}),
        ("fit.weight_decay=0.5", {"concat", "Slides alone"}),
        ("sizes={40=3, 60=1}", {"concat", "Slides alone"}),
    ],
)
@pytest.mark.slow
def test_another_origin_is_fitted_anew(
    results: list[OracleResult], folder: Path, tmp_path: Path, override: str, refitted: set[str]
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    said: list[str] = []

    run_oracle(toy_config(override, "seeds=[0]"), tmp_path, say=said.append)

    names = {Path(line.split(":")[0]).name for line in said}
    sizes = (40,) if override.startswith("sizes") else (40, 60)
    assert names == {f"{file_name(label)}-n{n}-seed0.json" for label in refitted for n in sizes}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fit.inner_folds=1", "fit.inner_folds: expected greater"),
        ("sizes={}", "sizes: Dictionary should have at least 1 item"),
        ("interaction=2", "interaction: expected less than or equal to 1"),
    ],
)
def test_a_wrong_config_is_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        toy_config(override)
    assert "\n" not in str(error.value)


# -- what is said --------------------------------------------------------------------------------


def made_up(shares: dict[str, dict[int, tuple[float, ...]]]) -> list[OracleResult]:
    """Return results of these shares by seed, where the oracle has 0.8 and main effects 0.68."""
    one = OracleResult(
        "", ("slide", "rna"), 0, 0, 54, 2000, 720, 0.5, oracle=0.8, additive=0.68, seconds=1.0
    )
    return [
        replace(one, label=label, cases=n, seed=seed, c_index=0.5 + 0.3 * share)
        for label, sizes in shares.items()
        for n, values in sizes.items()
        for seed, share in enumerate(values)
    ]


def test_the_words_follow_the_numbers() -> None:
    shares: dict[str, dict[int, tuple[float, ...]]] = {
        MAIN_EFFECTS: {150: (0.4, 0.5), 2000: (0.5, 0.6)},
        PRODUCTS: {150: (0.3, 0.3), 2000: (0.9, 0.9)},
        "early": {150: (0.6, 0.7), 2000: (0.4, 0.7)},
        "late": {150: (0.1, 0.2), 2000: (0.8, 0.9)},
    }

    page = oracle_section(toy_config(), made_up(shares))

    assert "| early | slide + rna | 0.65 (0.60 to 0.70); C 0.695 | 0.55 (0.40 to 0.70)" in page
    assert page.index(f"| {MAIN_EFFECTS}") < page.index("| late") < page.index("| early")
    assert (
        "At n = 150 early (0.65) reaches most of the fusions; the Cox model of the main effects "
        "0.45. Above that model in every seed: early (0.65); 1 of 2 are not." in page
    )
    assert (
        "At n = 2,000 late (0.85) reaches most of the fusions; the Cox model of the main effects "
        "0.55. Above that model in every seed: late (0.85); 1 of 2 are not." in page
    )
    assert "From n = 2,000 to 150 the median fusion falls from 0.70 to 0.40" in page
    assert "reach 0.60; with products above that in every seed, at n = 2,000: late (0.85)." in page
    assert "has a C-index of 0.80 (0.80 to 0.80)" in page
    assert "(720 events)" in page


@pytest.mark.slow
def test_the_section_of_a_run_has_all_its_models(results: list[OracleResult]) -> None:
    page = oracle_section(toy_config(), results)

    for label in (MAIN_EFFECTS, PRODUCTS, "concat", "Slides alone"):
        cell = [r.share for r in results if (r.label, r.cases) == (label, 60)]
        row = next(line for line in page.splitlines() if line.startswith(f"| {label} |"))
        assert f"{np.mean(cell):.2f} ({min(cell):.2f} to {max(cell):.2f})" in row
    cohort = SimulatedCohort.draw(60, 50, 0.5, 0)
    assert str(int(outcomes(cohort.unseen).event.sum())) in page


# -- every fusion --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_fusion_can_be_fitted_to_the_simulation(name: str, tmp_path: Path) -> None:
    config = toy_config("sizes={40=1}", "seeds=[0]", "unseen=20", "fit.batch_cases=40")
    toy = {"label": name, "name": name, "settings": TOY_SETTINGS.get(name, {})}
    config = validate(OracleConfig, {**config.model_dump(), "models": [toy]}, (), source="toy")

    (*_, result) = run_oracle(config, tmp_path, say=lambda text: None)

    assert result.label == name
    assert 0 < result.c_index < 1
