"""Reading records: of a job, of the public download; each broken file has its one line."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from job_files import (
    CHIMERA,
    CLINICAL,
    GENES,
    PATHS,
    PATIENT,
    RNA,
    chimera_items,
    make_job,
    no_warning,
    write_image,
    write_inputs,
    write_json,
)

from model.case import (
    Case,
    Record,
    SlideFile,
    read_case,
    read_record,
)
from model.errors import CaseError
from model.interface import ClinicalSchema
from model.json_files import read_json
from model.manifest import Tables, build_case, list_download
from train.labels import case_labels, label_value


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return make_job(tmp_path / "input")


NO_RECORDS = [
    None,
    {},
    {"TP53": None, "RB1": math.nan},
    {"TP53": "", "RB1": " NA "},
    {"Progression": 1},
]


@pytest.mark.parametrize("content", NO_RECORDS, ids=repr)
def test_a_record_without_a_value_is_none(job: Path, content: object) -> None:
    write_json(job / PATHS[RNA], content)
    write_inputs(job, chimera_items())
    case = read_case(job, CHIMERA, warn=no_warning)
    assert case.rna is None
    assert case.clinical is not None


def test_the_value_in_the_item_is_read_where_the_file_is_absent(job: Path) -> None:
    (job / PATHS[CLINICAL]).unlink()
    write_inputs(job, chimera_items(value={"age": 81, "PROGRESSION": 1})[3:])
    case = read_case(job, CHIMERA, warn=no_warning)
    assert case.clinical == Record({"age": 81}, job / PATHS[CLINICAL])


def test_the_file_goes_before_the_value_in_the_item(job: Path) -> None:
    write_inputs(job, chimera_items(value={"age": 81})[3:])
    case = read_case(job, CHIMERA, warn=no_warning)
    assert case.clinical is not None and case.clinical.values["age"] == 72


@pytest.mark.parametrize(
    "change", [str, str.lower, str.upper, str.title, str.swapcase, " {} ".format]
)
@pytest.mark.parametrize(
    "label", ["progression", "Time_to_prog_or_FUend", "time_to_HG_recur_or_FUend"]
)
def test_labels_are_stripped_in_any_case(
    job: Path, label: str, change: Callable[[str], str]
) -> None:
    write_json(job / PATHS[CLINICAL], {"age": 72, change(label): 7})
    case = read_case(job, CHIMERA, warn=no_warning)
    assert case.clinical == Record({"age": 72}, job / PATHS[CLINICAL])


def test_the_expression_of_a_job_holds_genes_alone(job: Path) -> None:
    write_json(job / PATHS[RNA], {**GENES, "event": 1, "Time": 7, "CASE_ID": 3, "": 0})
    case = read_case(job, CHIMERA, warn=no_warning)
    assert case.rna == Record(GENES, job / PATHS[RNA])


def test_a_record_may_hold_nan_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "rna.json"
    path.write_bytes(b'\xef\xbb\xbf{"TP53": NaN, "RB1": 7.5}')
    record = read_record(path, warn=no_warning)
    assert record is not None
    assert repr(record.values) == "{'TP53': nan, 'RB1': 7.5}"


def test_a_key_twice_is_answered_with_a_warning(job: Path) -> None:
    (job / PATHS[CLINICAL]).write_text('{"age": 72, "age": 50}')
    (job / PATHS[RNA]).write_text('{"age": 7.5, "age": 50}')
    warnings: list[str] = []
    case = read_case(job, CHIMERA, warn=warnings.append)
    assert case.clinical == Record({"age": 72}, job / PATHS[CLINICAL])
    assert case.rna == Record({"age": 7.5}, job / PATHS[RNA])
    assert warnings == [
        f"{job / PATHS[slug]}: expected each key once, found more of age; the first is used"
        for slug in (RNA, CLINICAL)
    ]


BROKEN = {
    "inputs.json is cut": ("inputs.json", b'[{"socket": ', "valid JSON, found Expecting value"),
    "inputs.json is empty": ("inputs.json", b"", "valid JSON, found Expecting value"),
    "inputs.json is an object": (
        "inputs.json",
        b"{}",
        "a JSON list with one item per socket, found a dict",
    ),
    "an item is a string": ("inputs.json", b'["x"]', "items with a socket and its slug, found x"),
    "an item has no socket": ("inputs.json", b"[{}]", "items with a socket and its slug, found {}"),
    "a socket is a string": (
        "inputs.json",
        b'[{"socket": "tissue-mask"}]',
        "items with a socket and its slug, found {'socket': 'tissue-mask'}",
    ),
    "a socket has no slug": (
        "inputs.json",
        b'[{"socket": {"pk": 1}}]',
        "items with a socket and its slug, found {'socket': {'pk': 1}}",
    ),
    "a slug is a list": (
        "inputs.json",
        b'[{"socket": {"slug": ["tissue-mask"]}}]',
        "items with a socket and its slug, found {'socket': {'slug': ['tissue-mask']}}",
    ),
    "RNA is cut": (PATHS[RNA], b'{"A1BG": 7.6,\n"A1CF"', "valid JSON, found Expecting ':'"),
    "RNA is binary": (PATHS[RNA], b"\xff\xfe\x00\x01\x80", "valid JSON, found 'utf-16-le' codec"),
    "RNA is deep": (
        PATHS[RNA],
        b'{"A1BG": ' + 100_000 * b"[" + 100_000 * b"]" + b"}",
        "valid JSON, found maximum recursion depth exceeded",
    ),
    "RNA is a list": (PATHS[RNA], b"[7.6, 6.7]", "a JSON object, found a list"),
    "clinical is a string": (PATHS[CLINICAL], b'"72 years"', "a JSON object, found a str"),
    "clinical is a number": (PATHS[CLINICAL], b"72", "a JSON object, found a int"),
}


@pytest.mark.parametrize(("name", "content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_one_line_that_names_it(
    job: Path, name: str, content: bytes, message: str
) -> None:
    (job / name).write_bytes(content)
    with pytest.raises(CaseError) as caught:
        read_case(job, CHIMERA, warn=no_warning)
    text = str(caught.value)
    assert text.removeprefix("case input: ").startswith(f"{job / name}: expected {message}")
    assert "\n" not in text


def test_a_listed_record_without_a_file_is_an_error(job: Path) -> None:
    (job / PATHS[RNA]).unlink()
    write_inputs(job, chimera_items())
    with pytest.raises(CaseError) as caught:
        read_case(job, CHIMERA, warn=no_warning)
    assert str(caught.value) == (
        f"case 3A_001_HE: {job / PATHS[RNA]}: expected a JSON file, found no file"
    )


def test_a_record_that_is_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CaseError) as caught:
        read_json(tmp_path, warn=no_warning)
    assert str(caught.value) == f"{tmp_path}: expected a readable JSON file, found Is a directory"


def test_a_job_without_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CaseError) as caught:
        read_case(tmp_path / "input", CHIMERA, warn=no_warning)
    assert str(caught.value) == f"{tmp_path}/input: expected the folder of a job, found no folder"


# --- the public download --------------------------------------------------------------------------


@pytest.fixture
def download(tmp_path: Path) -> Path:
    data = tmp_path / "task3" / "data"
    for case_id in ("3B_002", "3A_001"):
        write_image(data / case_id / f"{case_id}_HE.tif")
        write_image(data / case_id / f"{case_id}_HE_mask.tif")
        write_json(data / case_id / f"{case_id}_CD.json", PATIENT)
        write_json(data / case_id / f"{case_id}_RNA.json", GENES)
    write_json(data / "3A_003" / "3A_003_CD.json", {"age": 50})
    write_image(data / "3A_004" / "3A_004_HE.tif")
    (data / "3A_005").mkdir()
    (data / "task3_quality_control.csv").write_text("case_id\n3A_001\n")
    return tmp_path / "task3"


def read_download(root: Path) -> list[Case]:
    return [build_case(row, CHIMERA, Tables(), warn=no_warning) for row in list_download(root)]


@pytest.mark.parametrize("part", ["", "data"])
def test_the_download_is_read_as_it_lies(download: Path, part: str) -> None:
    cases = read_download(download / part)
    assert [case.case_id for case in cases] == ["3A_001", "3A_003", "3A_004", "3A_005", "3B_002"]
    folder = download / "data" / "3A_001"
    whole, clinical_only, slide_only, nothing, _ = cases
    assert whole.slides == (SlideFile(folder / "3A_001_HE.tif", folder / "3A_001_HE_mask.tif"),)
    assert whole.rna == Record(GENES, folder / "3A_001_RNA.json")
    assert whole.clinical == Record({"age": 72, "sex": "Male"}, folder / "3A_001_CD.json")
    assert whole.default_mpp == 0.25
    assert (clinical_only.slides, clinical_only.rna) == ((), None)
    assert slide_only.slides[0].mask is None
    assert (slide_only.rna, slide_only.clinical) == (None, None)
    assert nothing == Case("3A_005", default_mpp=0.25)


def test_a_broken_record_of_the_download_is_named(download: Path) -> None:
    path = download / "data" / "3A_001" / "3A_001_RNA.json"
    path.write_text("{")
    with pytest.raises(CaseError, match=r"3A_001_RNA\.json: expected valid JSON, found [^\n]*$"):
        read_download(download)


def test_labels_are_there_for_training(download: Path, tmp_path: Path) -> None:
    path = download / "data" / "3A_001" / "3A_001_CD.json"
    assert case_labels(path, CHIMERA.clinical) == (0, 110)
    older = write_json(tmp_path / "older.json", {"Progression": 1, "TIME_to_HG_recur_or_FUend": 7})
    assert case_labels(older, CHIMERA.clinical) == (1, 7)
    spaced = write_json(tmp_path / "spaced.json", {" progression": 1, "Time_to_prog_or_FUend ": 7})
    assert case_labels(spaced, CHIMERA.clinical) == (1, 7)
    assert case_labels(older, ClinicalSchema()) == (None, None)
    assert case_labels(write_json(tmp_path / "null.json", None), CHIMERA.clinical) == (None, None)


def test_label_value_takes_the_first_name_there_is() -> None:
    values = {"B": 2, "A": None}
    assert label_value(values, ("c", "b", "a")) == 2
    assert label_value(values, ("a", "b")) is None
    assert label_value(values, ("c",)) is None
