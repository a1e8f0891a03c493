"""What a cohort may be: a manifest with wide tables, a folder of jobs, the CHIMERA download."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from cohorts import INLINE, read_predictions, score, scorer, write_bundle, write_records
from job_files import CHIMERA, CLINICAL, PATHS, RNA, SLIDE, write_inputs
from jobs import record_contents, write_job
from small_bundles import PANEL, build_bundle

from model.bundle import Bundle
from model.case import SlideFile
from model.cohort import Cohort, score_cohort
from model.errors import ConfigError
from model.manifest import Row, list_cases

pytestmark = pytest.mark.usefixtures("quick_page")

CASES = 4


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "bundle.safetensors")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> list[str]:
    """Return the times of cases whose records lie in files of their own."""
    folder = tmp_path_factory.mktemp("files")
    return times(Cohort(write_records(folder / "data", CASES), folder / "out"), bundle)


def times(cohort: Cohort, bundle: Path) -> list[str]:
    score(cohort, scorer(bundle))
    return [row["time"] for row in read_predictions(cohort.output)]


def write_download_case(folder: Path, name: str) -> None:
    """Write a case's records as the CHIMERA download has them."""
    folder.mkdir(parents=True)
    for part, socket in (("CD", CLINICAL), ("RNA", RNA)):
        (folder / f"{name}_{part}.json").write_text(json.dumps(record_contents()[socket]))


def write_wide(path: Path, part: str) -> Path:
    """Write the records of all cases as one table, the last case first."""
    records = {f"C{index:03}": record_contents(seed=index)[part] for index in range(CASES)}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        names = list(records["C000"])
        writer.writerow(["case_id", *names])
        for case_id in reversed(records):
            writer.writerow([case_id, *(records[case_id].get(name, "") for name in names)])
    return path


def test_wide_tables_give_the_predictions_of_single_files(
    tmp_path: Path, bundle: Path, expected: list[str]
) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("case_id\n" + "".join(f"C{index:03}\n" for index in range(CASES)))
    cohort = Cohort(
        manifest,
        tmp_path / "out",
        rna_table=write_wide(tmp_path / "rna.csv", RNA),
        clinical_table=write_wide(tmp_path / "clinical.csv", CLINICAL),
    )
    assert times(cohort, bundle) == expected
    with (tmp_path / "clinical.csv").open("a") as file:
        file.write("\n")
    with pytest.raises(ConfigError, match="found results of another clinical table; name another"):
        score(cohort, scorer(bundle))


def test_a_row_of_the_tables_fails_its_own_case_alone(
    tmp_path: Path, bundle: Path, expected: list[str]
) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("case_id\n" + "".join(f"C{index:03}\n" for index in range(CASES)))
    path = write_wide(tmp_path / "rna.csv", RNA)
    header, *lines = path.read_text().splitlines()
    width = header.count(",")
    blank, garbled = "C001" + "," * width, "C002" + ",low" * width
    path.write_text("\n".join([header, lines[0], garbled, blank, lines[-1]]) + "\n")
    cohort = Cohort(
        manifest,
        tmp_path / "out",
        rna_table=path,
        clinical_table=write_wide(tmp_path / "clinical.csv", CLINICAL),
    )
    said: list[str] = []
    score_cohort(
        cohort, scorer(bundle), INLINE, say=said.append, warn=said.append, progress=lambda _: None
    )
    assert any(
        line.endswith(": 0 with slides, 3 with RNA, 4 with a clinical record") for line in said
    )
    rows = read_predictions(tmp_path / "out")
    assert [rows[0]["time"], rows[2]["time"], rows[3]["time"]] == [expected[0], "", expected[3]]
    assert (rows[1]["modalities"], rows[1]["error"]) == ("clinical", "")
    assert "rna.csv: expected at most" in rows[2]["error"]


def test_a_folder_of_jobs_is_a_cohort(tmp_path: Path, bundle: Path, expected: list[str]) -> None:
    for index in range(CASES):
        write_job(tmp_path / "jobs" / f"job {index}", record_contents(seed=index))
    (tmp_path / "jobs" / "notes").mkdir()
    (tmp_path / "jobs" / "notes" / "of the study.txt").touch()
    (tmp_path / "jobs" / "job 4, lost on the way").mkdir()
    write_inputs(tmp_path / "jobs" / "job 2", [{}])
    found = times(Cohort(tmp_path / "jobs", tmp_path / "out"), bundle)
    assert found == [*expected[:2], "", *expected[3:], ""]
    *rows, last = read_predictions(tmp_path / "out")
    assert [row["case_id"] for row in rows] == ["job 0", "job 1", "job 2", "job 3"]
    assert "inputs.json: expected items with a socket and its slug" in rows[2]["error"]
    assert last["error"].startswith("case job 4, lost on the way: clinical: expected the modality")


def test_a_file_name_that_is_no_text_does_not_end_the_run(
    tmp_path: Path, bundle: Path, expected: list[str]
) -> None:
    """Of a name in Latin-1, Python makes what UTF-8 cannot hold."""
    job = write_job(tmp_path / "jobs" / "A", record_contents())
    (job / "inputs.json").unlink()
    (job / PATHS[SLIDE]).mkdir(parents=True)
    for name in (b"M\xfcller.tif", b"M\xfcller 2.tif"):
        (job / PATHS[SLIDE] / os.fsdecode(name)).touch()
    assert times(Cohort(tmp_path / "jobs", tmp_path / "out"), bundle) == expected[:1]
    (row,) = read_predictions(tmp_path / "out")
    assert "found 2; using M\\udcfcller 2.tif" in row["warnings"]


def test_the_download_is_a_cohort(tmp_path: Path, bundle: Path, expected: list[str]) -> None:
    for index in range(CASES):
        records = record_contents(seed=index)
        folder = tmp_path / "chimera" / "data" / f"3A_{index:03}"
        folder.mkdir(parents=True)
        labels = {"progression": 1, "Time_to_prog_or_FUend": 3}
        clinical = json.dumps(records[CLINICAL] | labels)
        (folder / f"{folder.name}_CD.json").write_text(clinical)
        (folder / f"{folder.name}_RNA.json").write_text(json.dumps(records[RNA]))
    assert times(Cohort(tmp_path / "chimera", tmp_path / "out"), bundle) == expected


def test_a_folder_of_the_download_without_its_files_is_a_row(
    tmp_path: Path, bundle: Path, expected: list[str]
) -> None:
    write_download_case(tmp_path / "data" / "A", "A")
    write_download_case(tmp_path / "data" / "B", "X")
    (tmp_path / "data" / "C").mkdir()
    (tmp_path / "data" / ".cache").mkdir()
    assert times(Cohort(tmp_path, tmp_path / "out"), bundle) == [expected[0], "", ""]
    errors = [row["error"].split(":")[0] for row in read_predictions(tmp_path / "out")]
    assert errors == ["", "case B", "case C"]


@pytest.mark.parametrize("layout", ["jobs", "download"])
def test_the_folders_of_a_run_are_no_cases(
    tmp_path: Path, bundle: Path, expected: list[str], layout: str
) -> None:
    if layout == "jobs":
        write_job(tmp_path / "A", record_contents())
    else:
        write_download_case(tmp_path / "A", "A")
    (tmp_path / "scored").mkdir()  # as `docker run -v` leaves it
    (tmp_path / "bags").mkdir()
    cohort = Cohort(tmp_path, tmp_path / "scored" / "today")
    by = scorer(bundle, embeddings=tmp_path / "bags")
    for kept in (0, 1):
        assert score(cohort, by).kept == kept
        assert [row["time"] for row in read_predictions(cohort.output)] == expected[:1]


def test_a_case_that_holds_the_folders_of_a_run_is_one(tmp_path: Path) -> None:
    write_job(tmp_path / "jobs" / "A", record_contents())
    write_download_case(tmp_path / "download" / "A", "A")
    for layout in ("jobs", "download"):
        root = tmp_path / layout
        (row,) = list_cases(root, CHIMERA, apart=[root / "A" / "scored"])
        assert row.has_files


def test_the_results_of_another_run_are_no_case(tmp_path: Path, bundle: Path) -> None:
    write_download_case(tmp_path / "download" / "A", "A")
    for name in ("scored", "scored_again"):
        score(Cohort(tmp_path / "download", tmp_path / "download" / name), scorer(bundle))
    ids = [row["case_id"] for row in read_predictions(tmp_path / "download" / "scored_again")]
    assert ids == ["A"]
    (tmp_path / "download" / "scored" / "results.jsonl").unlink()
    assert [row.case_id for row in list_cases(tmp_path / "download", CHIMERA)] == [
        "A",
        "scored",
    ]


@pytest.mark.parametrize("layout", ["jobs", "download"])
def test_a_folder_name_that_is_no_text_does_not_end_the_run(
    tmp_path: Path, bundle: Path, expected: list[str], layout: str
) -> None:
    name = os.fsdecode(b"3A_\xff")
    folder = tmp_path / "cohort" / name
    if layout == "jobs":
        write_job(folder, record_contents())
    else:
        write_download_case(folder, name)
    assert times(Cohort(tmp_path / "cohort", tmp_path / "out"), bundle) == expected[:1]
    (row,) = read_predictions(tmp_path / "out")
    assert row["case_id"] == "3A_\\udcff"


def test_a_job_is_told_from_a_download(tmp_path: Path) -> None:
    write_job(tmp_path / "jobs" / "A", record_contents())
    (row,) = list_cases(tmp_path / "jobs", CHIMERA)
    assert (row.case_id, row.job) == ("A", tmp_path / "jobs" / "A")
    (tmp_path / "data" / "B").mkdir(parents=True)
    (tmp_path / "data" / "C").mkdir()
    (tmp_path / "data" / "B" / "B_HE.tif").touch()
    row, empty = list_cases(tmp_path / "data", CHIMERA)
    assert (row.case_id, row.job) == ("B", None)
    assert empty == Row("C")
    assert [slide.path.name for slide in row.slides] == ["B_HE.tif"]
    (tmp_path / "data" / "B" / "B_HE.tif").rename(tmp_path / "data" / "B" / "slide.tif")
    with pytest.raises(ConfigError, match=r"found a folder without cases$"):
        list_cases(tmp_path / "data", CHIMERA)


def test_a_suffix_of_the_download_may_be_in_upper_case(tmp_path: Path) -> None:
    folder = tmp_path / "3A_001"
    folder.mkdir()
    for name in ("HE.TIF", "HE_mask.Tif", "RNA.JSON", "CD.json", "CD.JSON"):
        (folder / f"3A_001_{name}").touch()
    (row,) = list_cases(tmp_path, CHIMERA)
    assert row.slides == (SlideFile(folder / "3A_001_HE.TIF", folder / "3A_001_HE_mask.Tif"),)
    assert (row.rna, row.clinical) == (folder / "3A_001_RNA.JSON", folder / "3A_001_CD.json")


def test_a_table_gives_the_genes_of_every_member(tmp_path: Path) -> None:
    """Panels are chosen in each fold, so that members differ in theirs."""
    whole = build_bundle(modalities=("rna", "clinical"), optional=("rna",))
    one, two = whole.members
    assert one.rna and two.rna
    renamed = {gene: f"X{index}" for index, gene in enumerate(two.rna.genes)}
    other = replace(two, rna=replace(two.rna, genes=tuple(renamed.values())))
    members = (one, other)
    manifest = whole.manifest.model_copy(update={"members": tuple(m.manifest() for m in members)})
    Bundle(manifest, members, whole.mapping).save(tmp_path / "bundle.safetensors")
    records = {f"C{index:03}": record_contents(seed=index) for index in range(3)}
    (tmp_path / "m.csv").write_text(
        "case_id,clinical\n" + "".join(f"{i},{i}.json\n" for i in records)
    )
    lines = [",".join(["case_id", *PANEL, *(renamed[g] for g in PANEL)])]
    for case_id, record in records.items():
        (tmp_path / f"{case_id}.json").write_text(json.dumps(record[CLINICAL]))
        values = [str(record[RNA][gene]) for gene in PANEL]
        lines.append(",".join([case_id, *values, *values]))
    (tmp_path / "rna.csv").write_text("\n".join(lines))
    cohort = Cohort(tmp_path / "m.csv", tmp_path / "out", rna_table=tmp_path / "rna.csv")
    assert score(cohort, scorer(tmp_path / "bundle.safetensors")).failed == 0
    assert [row["modalities"] for row in read_predictions(cohort.output)] == ["rna, clinical"] * 3
