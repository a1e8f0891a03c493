"""What a run follows from: data that has changed is noticed, and the same data goes on."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from job_files import CHIMERA
from mean_colour import PATCHES, SPEC
from small_runs import read_table, write_run, write_table
from synthetic import no_warning

import model
from model.bags import bag_path, write_bag
from model.batch import Bag
from model.case import Case
from model.errors import ConfigError
from model.interface import Interface
from train.cohort import LabelledCase, read_cohort
from train.config import read_config
from train.identity import claim, cohort_sha256, count_trained, patient_hashes, run_identity


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with all that a run of every modality can be made of."""
    write_run(tmp_path)
    (tmp_path / "P00.json").write_text('{"G0": 1.5}')
    rows = read_table(tmp_path / "cases.csv")
    rows[0] += ["rna", "patient_id"]
    for row in rows[1:]:
        row += ["P00.json" if row[0] == "P00" else "", row[0]]
    write_table(tmp_path / "cases.csv", rows)
    (tmp_path / "panel.txt").write_text("G0\nG1\n")
    (tmp_path / "sets.gmt").write_text("one\t\tG0\n")
    write_table(tmp_path / "folds.csv", [["case_id", "fold"], *([r[0], "0"] for r in rows[1:])])
    write_test_bag(tmp_path, 0)
    return tmp_path


def write_test_bag(folder: Path, seed: int) -> None:
    embeddings = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    places = torch.zeros(5, 2, dtype=torch.int64)
    bag = Bag(embeddings=embeddings, coords=places, slide_index=places[:, 0].contiguous())
    write_bag(bag_path(folder / "bags", "P03"), bag, SPEC, PATCHES)


def start(folder: Path, *overrides: str, interface: Interface = CHIMERA) -> None:
    """Claim the run's folder, as `fit` does before its first fold."""
    files = [f"rna.panel={folder}/panel.txt", f"rna.gene_sets={folder}/sets.gmt"]
    folds = ['folds.by="file"', f"folds.file={folder}/folds.csv"]
    slides = 'fusion.settings.modalities=["slide", "rna", "clinical"]'
    config = read_config(folder / "run.toml", [*files, *folds, slides, *overrides])
    cases = read_cohort(config.cohort, interface, warn=no_warning)
    claim(config.output, run_identity(config, interface, cases))


def set_cell(path: Path, row: int, column: int, text: str) -> None:
    rows = read_table(path)
    assert rows[row][column] != text
    rows[row][column] = text
    write_table(path, rows)


def test_the_same_data_goes_on(folder: Path) -> None:
    start(folder)
    for path in folder.rglob("*.*"):
        os.utime(path, (1, 1))
    start(folder, "embed.workers=2", "device=cuda")


def test_a_cohort_that_has_moved_goes_on(folder: Path) -> None:
    start(folder)
    moved = folder.rename(folder.with_name("moved"))
    config = moved / "run.toml"
    config.write_text(config.read_text().replace(str(folder), str(moved)))
    start(moved, f"cohort.bags={moved}/bags", 'encoder.weights=["elsewhere"]')


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "event": (lambda f: set_cell(f / "cases.csv", 1, 1, "1"), "cases"),
    "centre": (lambda f: set_cell(f / "cases.csv", 1, 3, "Z"), "cases"),
    "patient": (lambda f: set_cell(f / "cases.csv", 2, 5, "P00"), "cases"),
    "RNA table": (lambda f: set_cell(f / "rna.csv", 40, 8, "9.75"), "RNA"),
    "RNA record": (lambda f: (f / "P00.json").write_text('{"G0": 1.6}'), "RNA"),
    "clinical table": (lambda f: set_cell(f / "clinical.csv", 1, 1, "51"), "clinical records"),
    "panel": (lambda f: (f / "panel.txt").write_text("G0\nG2\n"), "gene panel"),
    "gene sets": (lambda f: (f / "sets.gmt").write_text("one\t\tG1\n"), "gene sets"),
    "folds": (lambda f: set_cell(f / "folds.csv", 1, 1, "1"), "folds"),
    "bag": (lambda f: write_test_bag(f, 1), "bags"),
    "no bag": (lambda f: bag_path(f / "bags", "P03").unlink(), "bags"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_data_is_refused_and_named(folder: Path, name: str) -> None:
    change, differing = CHANGES[name]
    start(folder)
    change(folder)
    message = (
        f"{folder}/run: expected an empty folder or this run's own, found a run that differs in "
        f"{differing}"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        start(folder)


def test_a_program_that_has_changed_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(folder)
    (folder / "fusion").mkdir()
    (folder / "fusion" / "mine.py").write_text("width = 8")
    monkeypatch.setattr("model.__path__", [*model.__path__, str(folder / "fusion")])
    with pytest.raises(ConfigError, match=r"found a run that differs in program$"):
        start(folder)


def test_folds_of_nobody_knows_what_are_not_taken(folder: Path) -> None:
    start(folder)
    (folder / "run" / "run.json").unlink()
    start(folder)  # nothing was fitted yet
    (folder / "run" / "folds" / "repeat0-fold0.safetensors").touch()
    (folder / "run" / "run.json").unlink()
    with pytest.raises(ConfigError, match=r"or this run's own, found folds without run\.json$"):
        start(folder)
    assert not (folder / "run" / "run.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", "\ud800"])
def test_a_damaged_mark_is_told(folder: Path, content: str) -> None:
    start(folder)
    path = folder / "run" / "run.json"
    path.write_text(content, errors="surrogatepass")
    message = f"{path}: expected what a run writes, found damage"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        start(folder)


def test_an_interface_that_has_changed_is_refused(folder: Path) -> None:
    """It says which columns of the clinical record are used, and how."""
    start(folder)
    clinical = CHIMERA.clinical.model_copy(update={"numbers": ("age",)})
    with pytest.raises(ConfigError, match=r"found a run that differs in interface \(clinical.numb"):
        start(folder, interface=CHIMERA.model_copy(update={"clinical": clinical}))


def test_another_config_is_refused_and_a_bag_of_no_matter_is_not(folder: Path) -> None:
    without = 'fusion.settings.modalities=["rna", "clinical"]'
    start(folder, without)
    write_test_bag(folder, 1)
    start(folder, without)
    told = "found a run that differs in config (seed=0 not 1, fit.max_patches=none not 9)"
    with pytest.raises(ConfigError, match=f"{re.escape(told)}$"):
        start(folder, without, "seed=1", "fit.max_patches=9")


def test_genes_of_no_use_need_no_file(folder: Path) -> None:
    (folder / "panel.txt").unlink()
    (folder / "sets.gmt").unlink()
    start(folder, 'fusion.settings.modalities=["clinical"]')


def cohort(ids: list[str]) -> list[LabelledCase]:
    return [LabelledCase(Case(name), i % 2 == 0, float(i + 1), "A") for i, name in enumerate(ids)]


def test_a_bundle_does_not_tell_ids_and_counts_those_it_is_asked_for() -> None:
    one, other = cohort(["P1", "P2", "P3"]), cohort(["P1", "P2", "P4"])
    assert not set(patient_hashes(one)) & set(patient_hashes(other))  # each has its own salt

    provenance = {"cohort_sha256": cohort_sha256(one), "patients": patient_hashes(one)}
    assert count_trained(provenance, other) == 2
    del provenance["patients"]  # of an older bundle
    assert (count_trained(provenance, one), count_trained(provenance, other)) == (3, 0)
