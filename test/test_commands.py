"""The commands of `python -m train`: what is refused before the work, and in which words."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from job_files import CHIMERA
from small_bundles import PATCHES, build_bundle
from small_runs import CASES, read_table, write_run, write_table
from synthetic import no_warning

from model.bags import bag_path, write_bag
from model.batch import Bag
from model.bundle import read_manifest
from model.encoders import ENCODERS
from model.fusion import FUSIONS
from train import commands, terminal
from train.__main__ import main
from train.cohort import read_cohort
from train.config import RnaConfig, read_config
from train.identity import count_trained, patient_hashes
from train.panel import check_genes

ROOT = Path(__file__).parent.parent
LITE = ENCODERS["efficientnet_lite0"]

no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def write_lite_bags(folder: Path) -> None:
    """Write a bag of each case of `write_run` into the folder's `bags`."""
    for seed in range(CASES):
        embeddings = torch.randn(3, LITE.width, generator=torch.Generator().manual_seed(seed))
        places = torch.zeros(3, 2, dtype=torch.int64)
        bag = Bag(embeddings, places, slide_index=torch.zeros(3, dtype=torch.int64))
        write_bag(bag_path(folder / "bags", f"P{seed:02d}"), bag, LITE, PATCHES)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Return the one line with which a command refuses; it must not have done any work."""
    assert main([str(argument) for argument in arguments]) == 1
    said = capsys.readouterr()
    assert "epoch" not in said.out and "scored" not in said.out
    assert said.err.count("\n") == 1
    return said.err.strip()


# -- all -------------------------------------------------------------------------------------------


def test_help_and_misspelt_commands_load_no_library() -> None:
    told = "import sys; from train.__main__ import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
    told += "    print('torch' in sys.modules)"
    for arguments in (["--help"], ["fit", "--help"], ["fitt"]):
        done = subprocess.run(
            [sys.executable, "-c", told, *arguments],
            cwd=ROOT,
            capture_output=True,
            check=False,
            text=True,
        )
        assert done.stdout.endswith("False\n"), done.stderr


@pytest.mark.slow
def test_a_terminal_that_goes_ends_no_run() -> None:
    script = '"$0" -m train models >/dev/full'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable], cwd=ROOT, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_of_several_processes_the_first_speaks_and_each_warns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    terminal.say("fold 1")
    terminal.warn("case C1: no resolution")
    assert capsys.readouterr().out == "warning: case C1: no resolution\n"


def test_ctrl_c_ends_a_run_in_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(config: Path, overrides: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "fit", interrupted)
    assert main(["fit", str(run)]) == 130
    assert capsys.readouterr() == ("", "stopped\n")


def test_a_fusion_without_slides_needs_no_bags(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(run)]) == 0
    assert capsys.readouterr().out == f"{run}: nothing to embed, as concat uses no slides here\n"


# -- fit -------------------------------------------------------------------------------------------


def test_a_config_in_latin_1_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run.write_bytes(run.read_bytes() + b"# M\xfcller\n")
    told = refusal(capsys, "fit", run)
    assert told.startswith(f"{run}: expected valid TOML, found: 'utf-8' codec can't decode")


def test_a_config_may_start_with_a_byte_order_mark(run: Path) -> None:
    config = read_config(run)
    run.write_bytes(b"\xef\xbb\xbf" + run.read_bytes())
    assert read_config(run) == config


def test_paths_may_begin_at_home(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    run.write_text(f'encoder.weights = ["~/weights"]\n{run.read_text()}')
    config = read_config(run, ["output=~/run", "cohort.bags=~no such user~/bags"])
    assert config.output == Path("/home/somebody/run")
    assert config.encoder.weights == (Path("/home/somebody/weights"),)
    assert config.cohort.bags == Path("~no such user~/bags")


@pytest.mark.parametrize("override", ["output=", "output=''", "cohort.root= "])
def test_an_empty_path_is_not_the_current_folder(
    run: Path, capsys: pytest.CaptureFixture[str], override: str
) -> None:
    told = refusal(capsys, "fit", run, override)
    assert told == f"{run}: {override.partition('=')[0]}: expected a path, found nothing"


def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    told = refusal(capsys, "simulate", tmp_path / "file" / "cohort")
    assert told.startswith(f"{tmp_path}/file/cohort: expected a folder to write in, found ")


@pytest.mark.parametrize("setting", ["rna_shift=inf", "sigma=1e300", "sigma=nan"])
def test_a_simulation_that_is_refused_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    told = refusal(capsys, "simulate", tmp_path / "cohort", setting)
    assert told.startswith(f"simulate: {setting.partition('=')[0]}: expected ")
    assert not list(tmp_path.iterdir())


def test_a_seed_below_0_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refusal(capsys, "fit", run, "seed=-1")
    assert told == f"{run}: seed: expected greater than or equal to 0, found -1"


@pytest.mark.parametrize("value", ["inf", "nan"])
@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "clip_norm"])
def test_settings_are_finite_numbers(
    run: Path, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    told = refusal(capsys, "fit", run, f"fit.{name}={value}")
    assert told == f"{run}: fit.{name}: expected a finite number, found {value}"


@no_card
def test_a_device_that_is_not_there_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refusal(capsys, "fit", run, "device=cuda")
    assert told.startswith("device: expected one that torch can use, found 'cuda:0': ")


def test_a_device_that_nobody_knows_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refusal(capsys, "fit", run, "device=gpu")
    assert told.startswith("device: expected one that torch can use, found 'gpu': Expected one of")


def test_foreign_bags_that_are_not_there_are_refused_beside_the_run_s_own(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lite_bags(run.parent)
    slides = 'fusion.settings.modalities=["slide", "rna"]'
    told = refusal(capsys, "fit", run, slides, f"cohort.foreign_bags={run.parent}/fetaures")
    assert told == (f"cohort.foreign_bags: expected a folder, found none at {run.parent}/fetaures")


def test_foreign_bags_of_slides_of_one_name_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, *rows = read_table(run.parent / "cases.csv")
    named = [[*row, f"{row[0]}/HE.svs"] for row in rows]
    write_table(run.parent / "cases.csv", [[*header, "slide"], *named])
    (run.parent / "clam").mkdir()
    (run.parent / "clam" / "HE.h5").touch()
    slides = 'fusion.settings.modalities=["slide", "rna"]'
    told = refusal(capsys, "fit", run, slides, f"cohort.foreign_bags={run.parent}/clam")
    assert told.startswith(f"{run.parent}/clam/HE.h5: expected one slide of that name, found ")


def test_a_panel_that_is_not_there_is_told_before_any_work(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.parent / "panel.txt"
    told = refusal(capsys, "fit", run, f"rna.panel={path}")
    assert told.startswith(f"{path}: expected a readable gene panel, found: [Errno 2] No such file")


def test_a_panel_of_unknown_genes_is_refused_and_names_them(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.parent / "panel.txt"
    path.write_text("TP53\nKRT5\n")
    told = refusal(capsys, "fit", run, f"rna.panel={path}")
    assert told == f"{path}: expected genes that the cohort has, found only others: TP53, KRT5"


def test_genes_of_the_panel_that_the_cohort_lacks_are_named(run: Path) -> None:
    path = run.parent / "panel.txt"
    path.write_bytes(b"\xef\xbb\xbfG0\r\nG1\r\nTP53\r\n")  # as Excel writes it
    cases = read_cohort(read_config(run).cohort, CHIMERA, warn=no_warning)
    warnings: list[str] = []
    check_genes(RnaConfig(panel=path), cases, warn=warnings.append)
    assert warnings == [f"{path}: 1 of 3 genes are in no case of the cohort: TP53"]


def test_outcomes_among_the_genes_are_told(run: Path) -> None:
    """Rounded and with gaps, in reverse, and as codes; equal values, or none, tell nothing."""
    labels = {row[0]: row for row in read_table(run.parent / "cases.csv")}
    header, *rows = read_table(run.parent / "rna.csv")
    header += ["OS_months", "left", "OS_status", "flat", "gone"]
    for i, row in enumerate(rows):
        _, event, time, _ = labels[row[0]]
        months = "" if i % 9 == 0 else f"{float(time) / 30.4:.1f}"
        row += [months, f"-{time}", f"{1 + int(event)}", "0", ""]
    write_table(run.parent / "rna.csv", [header, *rows])
    cases = read_cohort(read_config(run).cohort, CHIMERA, warn=no_warning)
    warnings: list[str] = []
    check_genes(RnaConfig(), cases, warn=warnings.append)
    assert warnings == [
        "OS_months, OS_status, left: expected genes, found values in the order of the cases' times "
        "or events; outcomes have no place among them"
    ]
    (run.parent / "panel.txt").write_text("G0\nG1\n")
    check_genes(RnaConfig(panel=run.parent / "panel.txt"), cases, warn=no_warning)


@pytest.mark.parametrize("genes", ["TP53\tKRT5", "G0\tG1"])
def test_gene_sets_that_do_not_fit_are_told_before_slides_are_embedded(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, genes: str
) -> None:
    (run.parent / "sets.gmt").write_text(f"one\t\t{genes}\n")
    monkeypatch.setattr(commands, "make_bags", None)
    sets = f"rna.gene_sets={run.parent}/sets.gmt"
    assert "expected" in refusal(capsys, "fit", run, sets, "rna.min_genes_per_set=3")


def test_records_that_lack_genes_are_all_told_before_slides_are_embedded(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run.parent / "rna.csv"
    rows = read_table(path)
    rows[8][1] = rows[32][2] = ""
    write_table(path, rows)
    monkeypatch.setattr(commands, "make_bags", None)
    assert refusal(capsys, "fit", run) == (
        f"{run.parent}/cases.csv: expected records that can be used of all 40 cases, found others "
        f"for 2: P07, P31; the first, case P07: {path}: expected at most 0 of 8 genes missing, "
        "found 1 missing: G0"
    )


def test_folds_that_do_not_fit_are_told_before_any_work(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.parent / "folds.csv"
    told = refusal(capsys, "fit", run, 'folds.by="file"', f"folds.file={path}")
    assert told == f"{path}: expected a table (.csv or .parquet), found no file"
    assert not (run.parent / "run").exists()


def test_bins_that_an_inner_fold_cannot_fill_are_told_before_any_work(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cohort has 6 event times; two folds of two inner ones leave some fit fewer."""
    path = run.parent / "cases.csv"
    header, *rows = read_table(path)
    few = [[row[0], row[1], i if i < 6 else 1, row[3]] for i, row in enumerate(rows, start=1)]
    write_table(path, [header, *few])
    said = refusal(capsys, "fit", run, "fit.loss=nll", "fit.bins=4", "fit.inner_folds=2")
    assert said.startswith("time bins: expected at least 4 distinct event times, one for each bin")
    assert not (run.parent / "run").exists()


@pytest.mark.slow
def test_categories_that_are_rare_in_a_fold_are_told_once_a_column(
    run: Path, quick_training: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.parent / "clinical.csv"
    header, *rows = read_table(path)
    rare = [[*row, f"v{i}", f"g{i}"] for i, row in enumerate(rows)]
    write_table(path, [[*header, "variant", "grade"], *rare])
    assert main(["fit", str(run)]) == 0
    said = capsys.readouterr().out
    assert said.count(": expected one of ") == 2
    assert said.count(": variant: expected one of ") == said.count(": grade: expected one of ") == 1


@pytest.mark.slow
def test_folds_on_disk_are_kept_for_the_same_data_and_refused_for_other(
    run: Path, quick_training: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(run)]) == 0
    bundle = run.parent / "run" / "bundle.safetensors"
    first = bundle.read_bytes()
    assert main(["fit", str(run)]) == 0
    assert capsys.readouterr().out.count("on disk already") == 2
    assert bundle.read_bytes() == first
    path = run.parent / "rna.csv"
    rows = read_table(path)
    rows[1][1] = "9.75"
    write_table(path, rows)
    told = refusal(capsys, "fit", run)
    assert told.endswith(
        "run: expected an empty folder or this run's own, found a run that differs in RNA"
    )


def test_a_model_that_gives_all_cases_one_risk_is_told_before_the_report(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FUSIONS["concat"].forward
    monkeypatch.setattr(FUSIONS["concat"], "forward", lambda *given: 0 * real(*given))
    assert main(["fit", str(run)]) == 1
    (told,) = capsys.readouterr().err.splitlines()
    start = "fusion concat: expected out-of-fold risks that differ, found 0 for all 40 cases"
    assert told.startswith(start)
    assert not (run.parent / "run" / "report.html").exists()
    header, *rows = read_table(run.parent / "run" / "out_of_fold.csv")
    assert header == ["case_id", "event", "time", "risk"]
    labels = read_table(run.parent / "cases.csv")[1:]
    assert rows == [[name, event, f"{time}.0", "0.0"] for name, event, time, _ in labels]


# -- evaluate --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, quick_training: None) -> Path:
    """Return the folder of a run, with its bundle in `run`."""
    folder = tmp_path_factory.mktemp("fitted")
    assert main(["fit", str(write_run(folder))]) == 0
    return folder


def evaluate(fitted: Path, manifest: Path, *options: str | Path, exit_code: int = 0) -> None:
    tables = ("--rna-table", fitted / "rna.csv", "--clinical-table", fitted / "clinical.csv")
    arguments = ["evaluate", fitted / "run" / "bundle.safetensors", manifest, *tables, *options]
    assert main([str(argument) for argument in arguments]) == exit_code


@pytest.mark.parametrize(
    ("own", "strangers", "trained"), [(40, 0, 40), (25, 0, 25), (1, 20, 1), (0, 20, 0)]
)
@pytest.mark.slow
def test_training_patients_validate_nothing_in_whatever_order(
    fitted: Path, tmp_path: Path, own: int, strangers: int, trained: int
) -> None:
    """A shuffled training cohort, a part of it, and one of its patients among others."""
    header, *rows = read_table(fitted / "cases.csv")
    others = [[row[0], *row[1:], f"Q{row[0]}"] for row in rows[-strangers:] if strangers]
    mixed = [[*header, "patient_id"], *([*row, ""] for row in reversed(rows[:own])), *others]
    report = tmp_path / "report"
    evaluate(fitted, write_table(tmp_path / "m.csv", mixed), "--report", report)
    said = json.loads((report / "report.json").read_text())
    page = (report / "report.html").read_text()
    start = f"This is no validation, the model was trained on {trained} of these patients: C-index"
    assert said["verdict"]["sentence"].startswith(start) == (trained > 0)
    assert (said["verdict"]["beats"] is None) == (trained > 0)
    assert (said["kind"] == "external validation") == (trained == 0)
    assert ("nothing was fitted to these patients" in page) == (trained == 0)
    assert "patients" not in said["provenance"]


def test_a_bundle_tells_no_patient_and_an_older_one_knows_its_very_cohort(fitted: Path) -> None:
    provenance = read_manifest(fitted / "run" / "bundle.safetensors").provenance
    hashes = provenance["patients"]
    assert isinstance(hashes, list) and len(set(map(str, hashes))) == 40
    assert all(re.fullmatch("[0-9a-f]{8}", str(known)) for known in hashes)
    cases = read_cohort(read_config(fitted / "run.toml").cohort, CHIMERA, warn=no_warning)
    assert not set(patient_hashes(cases[:30])) & set(hashes)  # another cohort, other hashes
    older = {name: value for name, value in provenance.items() if name != "patients"}
    assert count_trained(older, cases) == 40
    assert count_trained(older, cases[::-1]) == 0
    assert count_trained({}, cases) == 0


@no_card
def test_evaluation_refuses_a_device_that_is_not_there(
    run: Path, lenient_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = run.parent / "cases.csv"
    told = refusal(capsys, "evaluate", lenient_bundle, cases, "--device", "cuda")
    assert told.startswith("device: expected one that torch can use, found 'cuda:0': ")


def test_evaluation_refuses_a_bundle_in_another_unit_than_its_preset(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = run.parent / "bundle.safetensors"
    build_bundle(modalities=("clinical",), unit="years").save(bundle)
    told = refusal(capsys, "evaluate", bundle, run.parent / "cases.csv")
    assert told == f"{bundle}: expected times in months, as chimera_task3, found years"


def manifest_with_records(fitted: Path, folder: Path, records: dict[str, str]) -> Path:
    """Write a manifest in which some cases have an RNA record of their own, with this text."""
    header, *rows = read_table(fitted / "cases.csv")
    for case_id, text in records.items():
        (folder / f"{case_id}.json").write_text(text)
    named = [[*row, f"{row[0]}.json" if row[0] in records else ""] for row in rows]
    return write_table(folder / "m.csv", [[*header, "rna"], *named])


def test_cases_that_fail_are_told_and_left_out(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One whose record is no JSON, and one that lacks genes."""
    manifest = manifest_with_records(fitted, tmp_path, {"P07": "{", "P31": '{"G0": 1}'})
    output, report = tmp_path / "new" / "scores.csv", tmp_path / "report"
    evaluate(fitted, manifest, "--output", output, "--report", report, exit_code=3)
    said = capsys.readouterr()
    broken, lacking = said.err.splitlines()
    assert broken.startswith(f"case P07: {tmp_path}/P07.json: expected valid JSON, found ")
    assert lacking.startswith(f"case P31: {tmp_path}/P31.json: expected at most 0 of 8 genes miss")
    assert "38 of 40 cases scored, 2 failed" in said.out
    scored = [row[0] for row in read_table(output)[1:]]
    assert scored == [f"P{i:02d}" for i in range(40) if i not in (7, 31)]
    numbers = json.loads((report / "report.json").read_text())
    assert numbers["evaluation"]["n"] == 38
    assert numbers["notes"] == ["2 of 40 cases could not be scored and are left out"]
    assert "trained on 38 of these patients" in numbers["verdict"]["sentence"]


def test_what_is_odd_about_the_cases_is_told_once_a_kind(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, *rows = read_table(fitted / "clinical.csv")
    odd = [[row[0], 131 + index, "Frau"] for index, row in enumerate(rows)]
    bundle = fitted / "run" / "bundle.safetensors"
    table = write_table(tmp_path / "clinical.csv", [header, *odd])
    arguments = [bundle, fitted / "cases.csv", "--rna-table", fitted / "rna.csv"]
    arguments += ["--clinical-table", table, "--report", tmp_path]
    assert main(["evaluate", *map(str, arguments)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "warning: research software, not for clinical use" in said
    assert (
        "warning: 40 of 40 cases: clinical.csv: sex: expected one of female, male, found …" in said
    )
    notes = json.loads((tmp_path / "report.json").read_text())["notes"]
    assert [f"warning: {note}" for note in notes] == [
        line for line in said if " of 40 cases:" in line
    ]
    assert len(notes) == 2


def test_too_few_cases_that_can_be_scored_leave_a_table_and_no_report(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, report = tmp_path / "scores.csv", tmp_path / "report"
    lacking = {f"P{i:02d}": '{"G0": 1}' for i in range(40) if i != 5}
    manifest = manifest_with_records(fitted, tmp_path, lacking)
    evaluate(fitted, manifest, "--output", output, "--report", report, exit_code=1)
    last = capsys.readouterr().err.splitlines()[-1]
    start = f"{manifest}: the cases that can be scored: expected at least 5 events, found "
    assert last.startswith(start)
    assert [row[0] for row in read_table(output)[1:]] == ["P05"]
    assert not list(report.iterdir())


def test_places_that_cannot_be_written_are_refused_before_any_work(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = (fitted / "run" / "bundle.safetensors", fitted / "cases.csv")
    (tmp_path / "file").touch()
    told = refusal(capsys, "evaluate", *own, "--output", tmp_path / "file" / "scores.csv")
    assert told == f"{tmp_path}/file: expected a folder to write in, found File exists"
    told = refusal(capsys, "evaluate", *own, "--output", tmp_path)
    assert told == f"{tmp_path}: expected a file to write, found a folder"
    told = refusal(capsys, "evaluate", *own, "--report", tmp_path / "file" / "report")
    assert told.startswith(f"{tmp_path}/file/report: expected a folder to write in, found Not a")
    new = tmp_path / "new"
    for folder in (new, new / "report"):
        told = refusal(capsys, "evaluate", *own, "--output", new, "--report", folder)
        assert told == f"{new}: expected a file to write, found the report's folder"
        assert not new.exists()
    told = refusal(capsys, "fit", fitted / "run.toml", f"output={tmp_path}/file")
    assert told == f"{tmp_path}/file: expected a folder to write in, found File exists"


@pytest.mark.parametrize("name", ["bundle.safetensors", "cases.csv", "rna.csv", "clinical.csv"])
def test_evaluation_writes_over_nothing_that_it_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).write_text("kept")
    (tmp_path / "link").symlink_to(name)
    own = (tmp_path / "bundle.safetensors", tmp_path / "cases.csv")
    tables = ("--rna-table", tmp_path / "rna.csv", "--clinical-table", tmp_path / "clinical.csv")
    for output in (tmp_path / name, tmp_path / "link"):
        told = refusal(capsys, "evaluate", *own, *tables, "--output", output)
        assert told == f"{output}: expected a file to write, found one that is read"
    assert (tmp_path / name).read_text() == "kept"


def test_bags_stand_in_for_slides_and_encoder(fitted: Path, tmp_path: Path) -> None:
    bundle, report = tmp_path / "bundle.safetensors", tmp_path / "report"
    build_bundle(modalities=("slide",)).save(bundle)
    write_lite_bags(tmp_path)
    options = ["--embeddings", f"{tmp_path}/bags", "--report", str(report)]
    assert main(["evaluate", str(bundle), str(fitted / "cases.csv"), *options]) == 0
    cohort = json.loads((report / "report.json").read_text())["cohort"]
    assert cohort[0]["slide"] == 40
