"""The labelled cohort: labels of a download and of a manifest, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from job_files import CHIMERA, PRESETS
from synthetic import no_warning

from model.case import Case, Record
from model.errors import ConfigError
from model.interface import Interface, read_interface
from train.cohort import LabelledCase, outcomes, read_cohort, with_strata
from train.config import CohortConfig
from train.labels import to_event, to_time

LEOPARD = read_interface("leopard", [PRESETS])
TIME_KEYS = ("Time_to_prog_or_FUend", "time_to_HG_recur_or_FUend")


def write_case(root: Path, case_id: str, event: object, time: object, *, key: str) -> None:
    folder = root / "data" / case_id
    folder.mkdir(parents=True)
    record = {"age": 70, "progression": event, key: time}
    (folder / f"{case_id}_CD.json").write_text(json.dumps(record))


def write_download(root: Path) -> Path:
    """Write ten cases, half of them with an event, under both names of the time."""
    for i in range(10):
        case_id = f"3{'AB'[i // 6]}_{i:03d}"
        write_case(root, case_id, i % 2, 10 + i, key=TIME_KEYS[i % 2])
    return root


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines))
    return path


def rows_of(n: int = 10, **changes: object) -> list[dict[str, Any]]:
    """Return rows of a manifest, every other one with an event; `changes` are of the third."""
    rows = [{"case_id": f"C{i}", "event": i % 2, "time": 10 + i} for i in range(n)]
    rows[2] |= changes
    return rows


def read(root: Path, interface: Interface = CHIMERA, **settings: Any) -> list[LabelledCase]:
    return read_cohort(CohortConfig(root=root, **settings), interface, warn=no_warning)


# -- the download ----------------------------------------------------------------------------------


def test_labels_of_the_download_are_read_under_both_names(tmp_path: Path) -> None:
    cases = read(write_download(tmp_path))
    outcome = outcomes(cases)
    assert outcome.event.tolist() == [False, True] * 5
    assert outcome.time.tolist() == list(range(10, 20))
    assert [case.centre for case in cases] == ["3A"] * 6 + ["3B"] * 4
    assert all(case.case.clinical and case.case.clinical.values == {"age": 70} for case in cases)


def test_an_id_without_an_underscore_names_no_centre(tmp_path: Path) -> None:
    write_download(tmp_path)
    write_case(tmp_path, "P007", 1, 17, key=TIME_KEYS[0])
    assert [case.centre for case in read(tmp_path)] == ["3A"] * 6 + ["3B"] * 4 + [""]


def test_the_duplicate_folder_is_left_out_with_a_warning(tmp_path: Path) -> None:
    write_download(tmp_path)
    write_case(tmp_path, "3B_007_", 1, 17, key=TIME_KEYS[0])
    warnings: list[str] = []
    cases = read_cohort(CohortConfig(root=tmp_path), CHIMERA, warn=warnings.append)
    assert len(cases) == 10
    assert warnings == ["3B_007_: left out as a duplicate of 3B_007"]


def test_folders_without_files_of_a_case_are_left_out_with_a_warning(tmp_path: Path) -> None:
    write_download(tmp_path)
    (tmp_path / "data" / "3A_100").mkdir()
    warnings: list[str] = []
    assert len(read_cohort(CohortConfig(root=tmp_path), CHIMERA, warn=warnings.append)) == 10
    assert warnings == [f"{tmp_path}: left out, as they hold none of a case's files: 3A_100"]


def test_a_case_without_labels_is_named(tmp_path: Path) -> None:
    write_download(tmp_path)
    write_case(tmp_path, "3B_100", None, 17, key=TIME_KEYS[0])
    with pytest.raises(ConfigError, match=r": case 3B_100: .*CD\.json: progression: expected 1 or"):
        read(tmp_path)
    (tmp_path / "data" / "3A_200").mkdir()
    (tmp_path / "data" / "3A_200" / "3A_200_RNA.json").write_text('{"G0": 1}')
    told = "2 cases: 3A_200, 3B_100; the first, case 3A_200: expected a clinical record with labels"
    with pytest.raises(ConfigError, match="^" + re.escape(f"{tmp_path}: {told}, found none")):
        read(tmp_path)


def test_an_interface_without_label_fields_needs_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^interface leopard: expected names of the lab"):
        read(write_download(tmp_path), LEOPARD)


def test_tables_belong_to_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a manifest beside rna_table or clinical_table"):
        read(write_download(tmp_path), rna_table=tmp_path / "rna.csv")


@pytest.mark.parametrize("name", ["absent", "cohort.xlsx"])
def test_a_cohort_that_is_nowhere_is_one_line(tmp_path: Path, name: str) -> None:
    message = f"{tmp_path / name}: expected a folder in the CHIMERA download's layout or a manifest"
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        read(tmp_path / name)


# -- a manifest ------------------------------------------------------------------------------------


def test_a_manifest_gives_labels_centres_and_patients(tmp_path: Path) -> None:
    rows = [
        row | {"centre": "XY"[i % 2], "patient_id": {3: "P", 4: "P_"}.get(i, "NA" if i % 2 else "")}
        for i, row in enumerate(rows_of())
    ]
    rows[9]["case_id"] = "C8_"
    cases = read(write_manifest(tmp_path / "m.csv", rows))
    assert [case.case_id for case in cases] == [row["case_id"] for row in rows]
    assert [case.centre for case in cases] == list("XY" * 5)
    assert [case.patient_id for case in cases[2:5]] == ["C2", "P", "P"]
    assert cases[8].patient_id == cases[9].patient_id == "C8"


def test_records_of_a_manifest_come_from_tables(tmp_path: Path) -> None:
    root = write_manifest(tmp_path / "m.csv", rows_of())
    rna = tmp_path / "rna.csv"
    rna.write_text("case_id,TP53\n" + "".join(f"C{i},{i}.5\n" for i in range(10)))
    clinical = tmp_path / "clinical.csv"
    clinical.write_text("case_id,age,progression\n" + "".join(f"C{i},7{i},1\n" for i in range(10)))
    cases = read(root, rna_table=rna, clinical_table=clinical)
    record = cases[4].case.rna
    assert record is not None
    assert (dict(record.values), record.source) == ({"TP53": 4.5}, rna)
    assert cases[4].case.clinical == Record({"age": "74"}, clinical)


def test_cases_that_a_table_lacks_are_told_in_one_line(tmp_path: Path) -> None:
    root = write_manifest(tmp_path / "m.csv", rows_of())
    rna = tmp_path / "rna.csv"
    rna.write_text("case_id,TP53\nC1,1.5\n")
    said: list[str] = []
    read_cohort(CohortConfig(root=root, rna_table=rna), CHIMERA, warn=said.append)
    assert said == [f"{rna}: no row for 9 of 10 cases: C0, C2, C3, C4, C5 and 4 more"]


@pytest.mark.parametrize(
    ("code", "event"),
    [("1", True), ("1.0", True), ("TRUE", True), ("0", False), ("0.0", False), ("false", False)],
)
def test_event_codes(tmp_path: Path, code: str, event: bool) -> None:
    cases = read(write_manifest(tmp_path / "m.csv", rows_of(14, event=code)))
    assert cases[2].event is event


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"event": 2},
            "event: expected 1 or true (event), 0 or false (censored), found '2'; 1 may",
        ),
        ({"event": "dead"}, "event: expected 1 or true (event), 0 or false (censored), found 'de"),
        ({"event": ""}, "event: expected 1 or true (event), 0 or false (censored), found ''"),
        ({"time": 0}, "time: expected a time above 0, found '0'"),
        ({"time": -3}, "time: expected a time above 0, found '-3'"),
        ({"time": "inf"}, "time: expected a time above 0, found 'inf'"),
        ({"time": ""}, "time: expected a time above 0, found ''"),
        ({"time": "12 months"}, "time: expected a time above 0, found '12 months'"),
    ],
)
def test_a_wrong_label_is_one_line_that_names_the_case(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    root = write_manifest(tmp_path / "m.csv", rows_of(**changes))
    with pytest.raises(ConfigError, match="^" + re.escape(f"{root}: case C2: {message}")) as caught:
        read(root)
    assert "\n" not in str(caught.value)


def test_all_wrong_labels_are_told_in_one_line(tmp_path: Path) -> None:
    rows = rows_of(time="")
    rows[5]["event"] = "dead"
    root = write_manifest(tmp_path / "m.csv", rows)
    message = (
        f"{root}: 2 cases: C2, C5; the first, case C2: time: expected a time above 0, found ''"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        read(root)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (
            [1] * 10,
            "expected censored cases beside the events, found 10 events in 10 cases; is the",
        ),
        ([0] * 10, "expected at least 5 events, found 0 in 10 cases"),
        ([1] * 4 + [0] * 6, "expected at least 5 events, found 4 in 10 cases"),
    ],
)
def test_a_cohort_that_cannot_be_fitted_is_refused(
    tmp_path: Path, events: list[int], message: str
) -> None:
    rows = [row | {"event": event} for row, event in zip(rows_of(), events, strict=True)]
    root = write_manifest(tmp_path / "m.csv", rows)
    with pytest.raises(ConfigError, match="^" + re.escape(f"{root}: {message}")):
        read(root)


def test_a_manifest_for_training_needs_outcomes(tmp_path: Path) -> None:
    rows = [{"case_id": row["case_id"], "event": row["event"]} for row in rows_of()]
    with pytest.raises(ConfigError, match="expected columns event and time, found no time"):
        read(write_manifest(tmp_path / "m.csv", rows))


# -- the unit of the times -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "interface", "expected"),
    [
        (None, CHIMERA, 12.0),
        ("months", CHIMERA, 12.0),
        ("years", CHIMERA, 144.0),
        ("days", CHIMERA, 12 * 12 / 365.25),
        ("days", LEOPARD, 12 / 365.25),
        ("months", LEOPARD, 1.0),
    ],
)
def test_times_become_the_tasks_unit(
    tmp_path: Path, unit: str | None, interface: Interface, expected: float
) -> None:
    root = write_manifest(tmp_path / "m.csv", rows_of())
    config = CohortConfig(root=root, time_unit=unit)
    warnings: list[str] = []
    cases = read_cohort(config, interface, warn=warnings.append)
    assert cases[2].time == pytest.approx(expected, rel=1e-12)
    # The last of ten cases leaves at 19.
    short = {"days": "0.624"}.get(unit or "", "")
    asked = f"{root}: the longest follow-up is {short} months; are the times in days (cohort.time_u"
    assert [text.startswith(asked) for text in warnings] == [True] * bool(short)


def test_days_that_are_taken_for_months_are_refused(tmp_path: Path) -> None:
    root = write_manifest(tmp_path / "m.csv", rows_of(time=3650))
    message = f"{root}: expected times in months, found follow-up of 304 years; say their unit in "
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        read(root)
    assert read(root, time_unit="days")[2].time == pytest.approx(119.92, abs=0.01)


# -- strata ----------------------------------------------------------------------------------------


def test_small_centres_and_cases_of_none_share_a_stratum(tmp_path: Path) -> None:
    """One place for a whole cohort, so that its folds and batches agree."""
    centres = ["large"] * 20 + ["small"] * 19 + ["", "own"]
    rows = [{**row, "centre": centre} for row, centre in zip(rows_of(41), centres, strict=True)]
    cases = with_strata(read(write_manifest(tmp_path / "m.csv", rows)))
    assert [case.centre for case in cases] == centres
    assert [case.stratum for case in cases] == ["large"] * 20 + [""] * 21


# -- where bags lie --------------------------------------------------------------------------------


def test_bags_lie_beside_the_data(tmp_path: Path) -> None:
    assert CohortConfig(root=tmp_path).bag_dir == tmp_path / "bags"
    assert CohortConfig(root=tmp_path / "m.csv").bag_dir == tmp_path / "bags"
    assert CohortConfig(root=tmp_path, bags=Path("elsewhere")).bag_dir == Path("elsewhere")


@pytest.mark.parametrize("time", ["0.5", " 1 ", "1e-3"])
def test_any_time_above_0_is_one(time: str) -> None:
    assert to_time(time, "time") == float(time)


def test_cases_of_a_patient_share_their_number() -> None:
    patients = ["P2", None, "P1", "P2_", "C1"]
    cases = [
        LabelledCase(Case(f"C{i}"), event=True, time=1.0, centre="", patient=patient)
        for i, patient in enumerate(patients)
    ]
    numbers = outcomes(cases).patient.tolist()
    assert numbers[0] == numbers[3] and numbers[1] == numbers[4]
    assert len(set(numbers)) == 3


def test_blanks_around_an_event_code() -> None:
    assert to_event(" 1\n", "") is True


def test_a_trailing_underscore_alone_is_no_duplicate(tmp_path: Path) -> None:
    write_download(tmp_path)
    write_case(tmp_path, "3B_417_", 1, 17, key=TIME_KEYS[0])
    cases = read_cohort(CohortConfig(root=tmp_path), CHIMERA, warn=no_warning)
    assert cases[-1].case_id == "3B_417_" and cases[-1].patient_id == "3B_417"
    assert len(cases) == 11


def test_a_centre_that_is_not_known_is_none(tmp_path: Path) -> None:
    rows = [row | {"centre": ("X", "NA", "", "n/a")[i % 4]} for i, row in enumerate(rows_of())]
    assert [c.centre for c in read(write_manifest(tmp_path / "m.csv", rows))][:4] == [
        "X",
        "",
        "",
        "",
    ]


@pytest.mark.parametrize("table", ["rna_table", "clinical_table"])
def test_each_table_belongs_to_a_manifest(tmp_path: Path, table: str) -> None:
    with pytest.raises(ConfigError, match="expected a manifest beside rna_table or clinical_table"):
        read(write_download(tmp_path), **{table: tmp_path / "t.csv"})


def test_times_of_a_download_become_the_tasks_unit(tmp_path: Path) -> None:
    cases = read(write_download(tmp_path), time_unit="years")
    assert [case.time for case in cases] == [12.0 * (10 + i) for i in range(10)]


@pytest.mark.parametrize(("last", "told"), [(17.9, True), (18.0, False)])
def test_a_follow_up_of_less_than_18_months_is_asked_about(
    tmp_path: Path, last: float, told: bool
) -> None:
    rows = [row | {"time": last} for row in rows_of()]
    warnings: list[str] = []
    root = write_manifest(tmp_path / "m.csv", rows)
    read_cohort(CohortConfig(root=root), CHIMERA, warn=warnings.append)
    assert bool(warnings) == told
