import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
from pydantic import ValidationError
from sksurv.metrics import concordance_index_censored
from synthetic import no_warning

from model.errors import ConfigError
from model.interface import read_interface
from model.manifest import Tables, build_case, list_download
from train.simulate import SimulateConfig, _outcomes, simulate_cohort, simulate_latents
from train.simulate_records import GENES, gene_panel

ROOT = Path(__file__).parent.parent
TINY = SimulateConfig(cases=3, width_um=512, centre_b=0.3, seed=4)
FILES = ("CD.json", "HE.tif", "HE_mask.tif", "RNA.json")
KEYS = (
    "age sex smoking tumor stage substage grade reTUR LVI variant EORTC no_instillations BRS "
    "progression Time_to_prog_or_FUend"
)


def quiet(done: int, total: int) -> None:
    """Take progress and say nothing."""


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def truth(directory: Path) -> list[dict[str, str]]:
    with (directory / "truth.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cohort")
    simulate_cohort(directory, TINY, progress=quiet)
    return directory


def test_layout_is_that_of_the_public_download(cohort: Path) -> None:
    ids = ["3A_001", "3A_002", "3B_301"]
    expected = [f"data/{case}/{case}_{name}" for case in ids for name in FILES]
    assert sorted(contents(cohort)) == sorted([*expected, "simulate.json", "truth.csv"])

    interface = read_interface("chimera_task3", [ROOT / "resources/interfaces"])
    rows = list_download(cohort)
    cases = [build_case(row, interface, Tables(), warn=no_warning) for row in rows]
    assert [case.case_id for case in cases] == ids
    assert all(case.slides[0].mask and case.rna and case.clinical for case in cases)


def test_slide_opens_as_a_pyramid_with_its_mask(cohort: Path) -> None:
    stem = cohort / "data" / "3A_001" / "3A_001_HE"
    with openslide.OpenSlide(f"{stem}.tif") as slide, openslide.OpenSlide(f"{stem}_mask.tif") as m:
        assert slide.level_dimensions == ((2048, 2048), (512, 512), (128, 128))
        assert slide.level_downsamples == (1.0, 4.0, 16.0)
        assert slide.properties["tiff.ResolutionUnit"] == "centimeter"
        assert float(slide.properties["tiff.XResolution"]) == pytest.approx(1e4 / 0.25)
        assert m.dimensions == (128, 128)
        mask = np.asarray(m.read_region((0, 0), 0, m.dimensions))[..., 0]
        overview = np.asarray(slide.read_region((0, 0), 2, (128, 128)))[..., :3].astype(int)
        centre = np.asarray(slide.read_region((896, 896), 0, (256, 256)))[..., :3].astype(int)
    assert set(np.unique(mask)) == {0, 1}
    assert 0.3 < mask.mean() < 0.7
    # The mask lies on what is stained, and glass is grey: pink and purple lack green.
    np.testing.assert_allclose(np.median(overview[mask == 0], axis=0), 244, atol=2)
    red, green, blue = overview[mask == 1].mean(axis=0)
    assert green + 25 < min(red, blue)
    assert centre.std() > 10


def test_records_have_the_real_schema(cohort: Path) -> None:
    for row in truth(cohort):
        stem = cohort / "data" / row["case_id"] / row["case_id"]
        clinical = json.loads(Path(f"{stem}_CD.json").read_text())
        rna = json.loads(Path(f"{stem}_RNA.json").read_text())
        assert " ".join(clinical) == KEYS
        assert clinical["progression"] == int(row["event"])
        assert clinical["Time_to_prog_or_FUend"] == int(row["time"]) >= 1
        assert row["centre"] == row["case_id"][1]
        assert list(rna) == GENES.read_text().split()


def test_oracle_risk_ranks_the_outcomes() -> None:
    config = SimulateConfig()
    latents = simulate_latents(400, 0.5, 0, dims=(2, 2, 2), sigma=config.sigma)
    oracle = concordance_index_censored(latents.event, latents.time, latents.eta)[0]
    assert oracle > 0.8
    assert latents.event.mean() == pytest.approx(0.36, abs=0.01)


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_outcomes_follow_the_written_process(lam: float) -> None:
    latents = simulate_latents(1000, lam, 2)
    assert (latents.h.shape, latents.r.shape, latents.c.shape) == ((1000, 8), (1000, 8), (1000, 4))
    h, r, c = latents.h, latents.r, latents.c
    products = h[:, 0] * r[:, 0] + h[:, 1] * c[:, 0] + r[:, 1] * c[:, 1]
    parts = lam**0.5 * products + (1 - lam) ** 0.5 * (h + r)[:, 0] + (1 - lam) ** 0.5 * c[:, 0]
    np.testing.assert_allclose(latents.eta, 1.5 * parts / np.sqrt(3))
    assert latents.event.mean() == pytest.approx(0.36, abs=0.01)
    # With products alone, no factor on its own tells anything.
    for factors in (h, r, c) if lam == 1 else ():
        for column in factors.T:
            c_index = concordance_index_censored(latents.event, latents.time, column)[0]
            assert abs(c_index - 0.5) < 0.06


def test_times_are_weibull() -> None:
    """Without censoring and risk, the share beyond t is exp(-(t/60)^0.9)."""
    latents = simulate_latents(20_000, 0.0, 0, sigma=0.0, censored=0.0)
    for time in (10.0, 60.0, 150.0):
        expected = np.exp(-((time / 60) ** 0.9))
        assert (latents.time > time).mean() == pytest.approx(expected, abs=0.012)


def test_times_beyond_all_numbers_are_the_end_of_the_study() -> None:
    drawn = simulate_latents(3, 0.5, 0)
    latents = replace(drawn, event=np.full(3, fill_value=True), time=np.array([0.2, 10.1, 1e30]))
    event, months = _outcomes(latents)
    assert (event.tolist(), months.tolist()) == ([True, True, False], [1, 41, 202])


def test_equal_settings_give_equal_bytes(cohort: Path, tmp_path: Path) -> None:
    simulate_cohort(tmp_path, TINY, progress=quiet)
    assert contents(tmp_path) == contents(cohort)


def test_interrupted_run_is_completed(cohort: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_cohort(tmp_path, TINY, progress=interrupt)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["3A_001"]
    untouched = (tmp_path / "data/3A_001/3A_001_HE.tif").stat().st_mtime_ns
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / "3A_002_CD.json").write_text("{")

    seen = []
    simulate_cohort(tmp_path, TINY, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert (tmp_path / "data/3A_001/3A_001_HE.tif").stat().st_mtime_ns == untouched
    assert contents(tmp_path) == contents(cohort)


def test_other_settings_are_refused(cohort: Path) -> None:
    other = TINY.model_copy(update={"seed": 5})
    with pytest.raises(ConfigError, match=r"other settings: seed=4 not 5$"):
        simulate_cohort(cohort, other, progress=quiet)


def test_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="expected a new or empty folder, found other files"):
        simulate_cohort(tmp_path, TINY, progress=quiet)


@pytest.mark.parametrize("content", ["{", '{"sigmas": 1}'])
def test_broken_settings_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "simulate.json").write_text(content)
    with pytest.raises(ConfigError, match=r"simulate\.json: expected settings, found .+") as error:
        simulate_cohort(tmp_path, TINY, progress=quiet)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "field",
    [{"cases": 0}, {"censored": 1.0}, {"width_um": 1000}, {"x": 1}, {"rna_shift": math.inf}],
)
def test_settings_are_checked(field: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SimulateConfig.model_validate(field)


def test_only_the_other_centre_has_its_own_laboratory(tmp_path: Path) -> None:
    found = {}
    for name, shifts in {"none": (0.0, 0.0), "both": (3.0, 0.5)}.items():
        config = TINY.model_copy(update={"rna_shift": shifts[0], "stain_shift": shifts[1]})
        simulate_cohort(tmp_path / name, config, progress=quiet)
        found[name] = contents(tmp_path / name / "data")
    changed = {
        Path(path).name for path in found["none"] if found["none"][path] != found["both"][path]
    }
    assert changed == {"3B_301_HE.tif", "3B_301_RNA.json"}


def test_cases_have_noise_of_their_own(tmp_path: Path) -> None:
    simulate_cohort(tmp_path, TINY, progress=quiet)
    rows = truth(tmp_path)
    panel, residuals = gene_panel(), []
    for row in rows[:2]:  # of centre A
        path = tmp_path / "data" / row["case_id"] / f"{row['case_id']}_RNA.json"
        factors = np.array([float(row["r_1"]), float(row["r_2"])])
        values = np.array([*json.loads(path.read_text()).values()])
        residuals.append(values - panel.level - panel.loading[:, :2] @ factors)
    assert abs(np.corrcoef(residuals)[0, 1]) < 0.9
