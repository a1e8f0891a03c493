"""The benchmark command: tables to page, resumed from what is on disk, and the bars it holds."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines.utils import concordance_index
from matplotlib.image import imread
from table_files import write_tables

from model.batch import Modality
from model.errors import ConfigError
from model.fusion import NAMES
from train.baselines import build_baselines, out_of_fold
from train.benchmark import run_benchmark
from train.benchmark_config import BenchmarkConfig, CohortTable, title
from train.benchmark_published import read_published
from train.benchmark_results import reading, summary
from train.benchmark_scores import CohortRisks, ModelRisks, Scores, score
from train.cohort import outcomes
from train.config import read_toml
from train.estimate import Outcome
from train.metrics import harrell_c
from train.table_fusion import Chosen
from train.tables import SCHEMA, Endpoint, Source, read_table

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CONFIGS = Path(__file__).resolve().parents[1] / "train" / "configs" / "benchmark"

CONFIG = """
data = "{root}/data"
output = "{root}/runs"
results = "{root}/RESULTS.md"
seeds = [0, 1]
resamples = 30

learning_rates = [1e-2]

[fit]
epochs = 2
inner_folds = 2

[[cohorts]]
source = "survpath"
study = "abcd"
modalities = ["rna", "clinical"]

[[models]]
label = "MLP on RNA"
name = "concat"
modalities = ["rna"]
settings = {{ rna_widths = [4] }}
baseline = true

[[models]]
label = "MLP on histology"
name = "concat"
modalities = ["slide"]
baseline = true

[[models]]
label = "pairwise"
name = "pairwise"
settings = {{ rna_widths = [4], rank = 2, rna_clinical = 2 }}

[[models]]
label = "pairwise, 2 components"
name = "pairwise"
components = 2
settings = {{ rna_widths = [4], rank = 2, rna_clinical = 2 }}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("benchmark")
    write_tables(root / "data")
    path = root / "config.toml"
    path.write_text(CONFIG.format(root=root))
    return path


@pytest.fixture(scope="module")
def said(config: Path) -> list[str]:
    """Run the benchmark once, and return what it said."""
    lines: list[str] = []
    run_benchmark(config, [], lines.append)
    return lines


# -- the command ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_has_every_model_and_says_how_it_was_run(config: Path, said: list[str]) -> None:
    page = (config.parent / "RESULTS.md").read_text()

    assert "## ABCD, RNA + clinical" in page
    assert f"python -m train benchmark {config}" in page
    assert "89 patients" in page
    for model in ("Kaplan-Meier", "joint Cox", "late fusion", "MLP on RNA", "pairwise *(fusion)*"):
        assert f"\n| {model} | " in page
    assert "MLP on histology" not in page  # this cohort has none
    published = "their files; OS; last epoch: MCAT (wsi+omics) 0.624 ± 0.038, SNN (omics) 0.540"
    assert f"\n- {published}\n" in page
    assert "0.99" not in page  # another study's
    assert said[-1].startswith(f"wrote {config.parent / 'RESULTS.md'}")


@pytest.mark.slow
def test_the_numbers_are_those_of_the_risks_on_disk(config: Path, said: list[str]) -> None:
    """The pooled C-index by lifelines, of the mean over the two seeds."""
    folder = config.parent / "runs" / "survpath-abcd-dss-rna-clinical"
    run = json.loads((folder / "pairwise.json").read_text())
    cases = read_table(
        config.parent / "data", "survpath", "abcd", endpoint="dss", modalities=("rna", "clinical")
    ).cases
    ids = [case.case_id for case in cases]
    assert list(run["risks"]) == ids

    seeds = np.array([run["risks"][i] for i in ids])
    assert seeds.shape == (len(ids), 2)
    assert not np.allclose(seeds[:, 0], seeds[:, 1])
    risk = seeds.mean(axis=1)
    outcome = outcomes(cases)
    expected = concordance_index(outcome.time, -risk, outcome.event)

    page = (config.parent / "RESULTS.md").read_text()
    line = next(row for row in page.splitlines() if row.startswith("| pairwise *(fusion)*"))
    assert line.startswith(f"| pairwise *(fusion)* | {expected:.3f} [")
    epochs = sorted(choice["epochs"] for choice in run["chosen"])
    assert len(epochs) == 3  # folds: the first seed chooses for both
    assert line.endswith(f"| 0.01 × 3; {epochs[0]} to {epochs[-1]}, median {epochs[1]} |")


@pytest.mark.slow
def test_the_picture_shows_every_model(config: Path, said: list[str]) -> None:
    page = (config.parent / "RESULTS.md").read_text()
    assert "![C-index of every model on every cohort](RESULTS.png)" in page
    picture = imread(config.parent / "RESULTS.png")
    assert picture.shape[0] > 300
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 10


@pytest.mark.slow
def test_what_is_on_disk_is_not_fitted_again(config: Path, said: list[str]) -> None:
    before = (config.parent / "RESULTS.md").read_text()
    again: list[str] = []

    run_benchmark(config, [], again.append)

    assert len(said) == 8 + 3 + 1  # baselines, three deep models, the page
    assert len(again) == 1
    assert (config.parent / "RESULTS.md").read_text() == before


@pytest.mark.slow
def test_other_settings_are_fitted_anew(config: Path, said: list[str]) -> None:
    again: list[str] = []

    run_benchmark(
        config, ["fit.epochs=1", "seeds=[0]", f"results={config.parent}/other.md"], again.append
    )

    assert [Path(line.split(":")[0]).name for line in again[:-1]] == [
        "mlp-on-rna.json",
        "pairwise.json",
        "pairwise-2-components.json",
    ]


COHORT = "{source='mmp', study='abcd', modalities=['rna']}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fit.epoch=5", "fit: expected one of epochs, "),
        ("fit.inner_folds=0", "fit.inner_folds: expected greater than or equal to 2"),
        ("seeds=[]", "seeds: Tuple should have at least 1 item"),
        ("learning_rates=[inf]", "learning_rates.0: expected a finite number"),
        ("data=nowhere", "published_results.csv: expected a table"),
        ("colour=red", "expected one of data, output, results, "),
        ("models=[{label='Joint Cox', name='mlp'}]", "found ['joint Cox', 'Joint Cox']"),
        (f"cohorts=[{', '.join(2 * [COHORT])}]", "found ['mmp-abcd-dss-rna', 'mmp-abcd-dss-rna']"),
    ],
)
def test_a_wrong_config_is_one_line(config: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        run_benchmark(config, [override], print)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_configs_are_valid(path: Path) -> None:
    config = read_toml(BenchmarkConfig, path)

    assert {model.name for model in config.models} == set(NAMES) - {"patchgcn", "hvtsurv"}


ENDPOINTS: tuple[Endpoint, ...] = ("dss", "pfi")


def test_one_study_by_two_endpoints_is_two_cohorts() -> None:
    by = [
        CohortTable(source="mmp", study="abcd", modalities=("rna",), endpoint=endpoint)
        for endpoint in ENDPOINTS
    ]
    assert [cohort.name for cohort in by] == ["mmp-abcd-dss-rna", "mmp-abcd-pfi-rna"]
    assert [title(cohort) for cohort in by] == ["ABCD, RNA", "ABCD, RNA, PFI"]


def test_published_numbers_need_their_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"published_results\.csv: expected a table"):
        read_published(tmp_path, "abcd")


@pytest.mark.parametrize("source", ["survpath", "mmp"])
def test_progression_has_its_own_events_and_times(config: Path, source: Source) -> None:
    data = config.parent / "data"
    raw = pd.read_csv(data / "tcga/survpath/tcga_abcd_metadata.csv.gz").drop_duplicates("case_id")

    cases = read_table(data, source, "abcd", endpoint="pfi", modalities=("clinical",)).cases

    assert [case.event for case in cases] == (raw["censorship_pfi"] == 0).tolist()
    assert [case.time for case in cases] == pytest.approx(raw["survival_months_pfi"].tolist())
    assert (raw["censorship_pfi"] != raw["censorship_dss"]).any()
    assert (raw["survival_months_pfi"] != raw["survival_months_dss"]).all()


# -- the scores ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_counts_the_pairs_and_names_them_by_cohort() -> None:
    page = summary([made_up(noise=0.2), made_up(noise=4.0)], (), "x.png")

    words = r"Of 4 pairs .* best baseline 3; .* above 0\) 1, to be worse \(interval below 0\) 1\."
    assert re.search(words, page)
    better, worse = (line for line in page.splitlines() if line.startswith("- **ABCD"))
    assert better == "- **ABCD, clinical**, against clinical Cox. Better: fusion. Worse: none."
    assert worse == "- **ABCD, clinical**, against clinical Cox. Better: none. Worse: fusion."


@pytest.mark.slow
def test_a_cell_is_empty_where_a_fusion_cannot_run() -> None:
    scores = made_up(noise=1.0)
    less = replace(scores, lines=scores.lines[:-1])
    page = summary([scores, less], (), "x.png")
    row = next(line for line in page.splitlines() if line.startswith("| fusion |"))
    assert re.fullmatch(r"\| fusion \| 0\.\d+ \(.+\) \|  \|", row)
    assert "| *best baseline* | *clinical Cox* 0." in page


def made_up(*, noise: float) -> Scores:
    """Score a good baseline, a useless one, and a fusion that is better or worse than the first."""
    rng = np.random.default_rng(0)
    n = 300
    truth = rng.normal(size=n)
    outcome = Outcome(event=rng.random(n) < 0.6, time=rng.exponential(np.exp(-2 * truth)) + 1e-6)

    def noisy(sd: float, seeds: int = 1) -> np.ndarray:
        return truth + rng.normal(size=(seeds, n)) * sd

    models = (
        ModelRisks("clinical Cox", True, noisy(1.0), (), 1.0),
        ModelRisks("nothing", True, np.zeros((1, n)), (), 1.0),
        ModelRisks("concat", False, noisy(1.0), (), 1.0),
        ModelRisks("fusion", False, noisy(noise, seeds=2), (Chosen(1e-2, 3), Chosen(1e-3, 7)), 1.0),
    )
    cohort = CohortTable(source="survpath", study="abcd", modalities=("clinical",))
    return score(CohortRisks(cohort, outcome, np.arange(n) % 3, models), resamples=100)


@pytest.mark.slow
def test_lines_hold_c_indices_and_leads() -> None:
    scores = made_up(noise=0.2)
    cox, nothing, concat, fusion = scores.lines
    models, outcome = scores.risks.models, scores.risks.outcome

    assert scores.best is cox
    assert scores.fusions == [concat, fusion]
    assert nothing.pooled.value == 0.5
    mean = models[3].risks.mean(axis=0)
    assert fusion.pooled.value == pytest.approx(harrell_c(mean, outcome))
    assert fusion.seeds == tuple(harrell_c(risk, outcome) for risk in models[3].risks)
    assert fusion.folds == tuple(
        harrell_c(mean[fold::3], outcome.take(np.arange(fold, 300, 3))) for fold in range(3)
    )
    assert fusion.lead is not None
    assert fusion.lead.value == pytest.approx(fusion.pooled.value - cox.pooled.value)
    assert fusion.lead.low is not None
    assert fusion.lead.low > 0
    assert fusion.gain is not None
    assert fusion.gain.value == pytest.approx(fusion.pooled.value - concat.pooled.value)
    assert concat.gain is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "pattern"),
    [
        (0.2, r"Better: fusion \(0\.\d+\)\."),
        (4.0, r"Worse: fusion \(0\.\d+\)\. .*age, sex and stage alone .* is above .*fusion\."),
        (1.4, r"Not told apart from it: concat \(0\.\d+\), fusion \(0\.\d+\)\."),
    ],
)
def test_the_words_follow_the_interval(noise: float, pattern: str) -> None:
    words = " ".join(reading(made_up(noise=noise)))

    assert re.search(pattern, words), words
    assert re.search(r"Against plain concatenation: fusion [+−]0\.\d+ \[", words), words


# -- the bars ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no public tables in {DATA}")
@pytest.mark.parametrize(("study", "bar"), [("blca", 0.654), ("coadread", 0.701), ("stad", 0.618)])
def test_joint_cox_reaches_its_bar_on_public_tables(study: str, bar: float) -> None:
    """Ridge Cox on 20 RNA components, age, sex and stage, mean over the published folds."""
    modalities: tuple[Modality, ...] = ("rna", "clinical")
    table = read_table(DATA, "survpath", study, endpoint="dss", modalities=modalities)
    tests = [np.flatnonzero(table.fold == fold) for fold in range(5)]

    risk = out_of_fold(build_baselines(modalities, SCHEMA)["joint Cox"], table.cases, tests)

    outcome = outcomes(table.cases)
    found = np.mean([harrell_c(risk[test], outcome.take(test)) for test in tests])
    assert found == pytest.approx(bar, abs=0.02)
