"""Manifests and wide tables: which files and records a case consists of."""

import json
import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from job_files import CHIMERA, PRESETS
from jobs import record_contents, write_job
from synthetic import no_warning

from model.case import Record, SlideFile
from model.errors import CaseError, ConfigError
from model.manifest import (
    Row,
    Tables,
    build_case,
    list_download,
    list_jobs,
    list_table,
    read_tables,
)
from model.rna import RnaSpec
from model.rows import SUFFIXES

CHIMERA_GENES = PRESETS.parents[2] / "shared" / "data" / "chimera" / "gene_order_19359.txt"
NO_TABLES = Tables(rna={}, clinical={})


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def write_table(path: Path, table: pd.DataFrame) -> Path:
    """Write a table in the format that the path's suffix names."""
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)
    return path


# -- rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_row_names_files_relative_to_the_manifest(tmp_path: Path, suffix: str) -> None:
    table = pd.DataFrame(
        {
            "case_id": ["007", "B"],
            "slide": ["a.tif; /data/b.svs", None],
            "mask": ["m.tif;", None],
            "rna": [None, "b/rna.json"],
            "clinical": ["a.json", None],
            "Note": ["first", "ä; b"],
        }
    )
    first, second = list_table(write_table(tmp_path / f"manifest{suffix}", table))
    assert first.case_id == "007"  # and not 7
    assert first.slides == (
        SlideFile(tmp_path / "a.tif", tmp_path / "m.tif"),
        SlideFile(Path("/data/b.svs"), None),
    )
    assert (first.rna, first.clinical) == (None, tmp_path / "a.json")
    assert (second.slides, second.rna) == ((), tmp_path / "b/rna.json")
    assert [first.fields["note"], second.fields["note"]] == ["first", "ä; b"]


def test_cells_that_say_that_nothing_is_known_name_no_files(tmp_path: Path) -> None:
    """As R writes them."""
    lines = (
        "case_id,slide,mask,rna,clinical\nA,NA,NA,NA,n/a\nB,b.tif,NA,NaN,b.json\nC,c;NA;d,NA;m,,\n"
    )
    a, b, c = list_table(write(tmp_path / "manifest.csv", lines))
    assert (a.slides, a.rna, a.clinical) == ((), None, None)
    assert (b.slides, b.rna) == ((SlideFile(tmp_path / "b.tif"),), None)
    assert c.slides == (SlideFile(tmp_path / "c"), SlideFile(tmp_path / "d", tmp_path / "m"))


def test_typed_columns_of_parquet_are_text(tmp_path: Path) -> None:
    table = pd.DataFrame({"case_id": [7, 8], "time": [1.5, np.nan], "event": [True, False]})
    first, second = list_table(write_table(tmp_path / "manifest.parquet", table))
    assert first.fields == {"case_id": "7", "time": "1.5", "event": "True"}
    assert second.fields["time"] == ""


def test_a_csv_of_excel_is_read(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes("\ufeffCase_ID,slide\r\nA,a.tif\r\n,\r\n,,\r\n\r\n".encode())
    (row,) = list_table(path)
    assert (row.case_id, row.slides) == ("A", (SlideFile(tmp_path / "a.tif"),))


def test_a_note_may_have_several_lines(tmp_path: Path) -> None:
    note = "T1, high grade\n\nre-resection, no tumour, no CIS"
    path = write(tmp_path / "manifest.csv", f'case_id,note,age\nA,"{note}",70\nB,,71\n')
    first, second = list_table(path)
    assert (first.fields["note"], second.case_id) == (note, "B")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case_id\n", "expected rows below the header, found none"),
        ("", "expected columns case_id (separated by commas), found "),
        ("case_id;slide\nA;a\n", "expected columns case_id (separated by commas), found case_id;s"),
        ("case_id,a,a\nA,1,2\n", "expected each column once, found more of a"),
        ("case_id,time,Time\nA,1,2\n", "expected each column once, found more of time"),
        ("case_id,a\nA,1\nB,1,2\n", "line 3: expected 2 cells, found 3"),
        (
            'case_id,note\nA,"x\nB,y\nC,z\n',
            "line 2: expected cells with quotes in pairs, of at most ",
        ),
        ('case_id,note\n\nA,"x\nB,y\nC,z"\n', "line 3: expected a row, found a quoted cell with "),
        ('case_id,a,b\nA,"1,2\n\nB,1,2\nC,1",2\n', "line 2: expected a row, found a quoted cell"),
        ('case_id,a\n"A,1\r\n",2\n', "line 2: expected a row, found a quoted cell with further"),
        ("case_id\nA\nB\nA\n", "expected each case once, found A 2 times"),
        ("case_id\n../A\n", "expected case ids that can name a file, found '../A'"),
        ("case_id,a\n,1\n", "expected case ids that can name a file, found ''"),
        (
            f"case_id\n{'ä' * 119}\n{'ä' * 120}\n",
            "expected case ids of at most 229 bytes, as files ",
        ),
        ("case_id,slide,mask\nA,a;b,m\n", "case A: expected a mask for each slide (as 'a.tif;;c"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = write(tmp_path / "manifest.csv", text)
    with pytest.raises(ConfigError, match="^" + re.escape(f"{path}: {message}")) as caught:
        list_table(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("manifest.xlsx", b"PK", "expected a table (.csv or .parquet), found another kind of file"),
        ("absent.csv", None, "expected a table (.csv or .parquet), found no file"),
        ("manifest.csv", "case_id\nÄ\n".encode("latin-1"), "expected a readable table, found: "),
        ("manifest.parquet", b"PAR1 and more", "expected a readable table, found: "),
    ],
)
def test_a_file_that_is_no_table_is_one_line(
    tmp_path: Path, name: str, content: bytes | None, found: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="^" + re.escape(f"{path}: {found}")) as caught:
        list_table(path)
    assert "\n" not in str(caught.value)


# -- records ---------------------------------------------------------------------------------------


def test_records_are_read_from_the_rows_own_files_without_labels(tmp_path: Path) -> None:
    write(tmp_path / "rna.json", json.dumps({"TP53": 1.5}))
    write(tmp_path / "cd.json", json.dumps({"age": 70, "Progression": 1}))
    path = write(tmp_path / "m.csv", "case_id,rna,clinical\nA,rna.json,cd.json\n")
    case = build_case(list_table(path)[0], CHIMERA, NO_TABLES, warn=no_warning)
    assert case.rna == Record({"TP53": 1.5}, tmp_path / "rna.json")
    assert case.clinical == Record({"age": 70}, tmp_path / "cd.json")
    assert case.default_mpp == CHIMERA.default_mpp


def test_an_absent_record_names_the_case(tmp_path: Path) -> None:
    (row,) = list_table(write(tmp_path / "m.csv", "case_id,rna\nA,rna.json\n"))
    with pytest.raises(CaseError, match=r"^case A: .*rna\.json: expected a JSON file, found no fi"):
        build_case(row, CHIMERA, NO_TABLES, warn=no_warning)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_wide_tables_give_the_records_of_single_files(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    genes = [f"G{i}" for i in range(300)]
    ids = ["001", "B", "C"]
    rna = pd.DataFrame(rng.normal(8, 2, (3, 300)), columns=genes)
    rna.insert(1, "case_id", ids)  # pandas does not always put an index first
    clinical = pd.DataFrame({"case_id": ids, "age": [70, 71, 72], "Progression": [1, 0, 1]})
    clinical["sex"] = ["Male", None, "Female"]
    rows = list_table(write(tmp_path / "m.csv", "case_id\nB\n001\n"))
    rna_path = write_table(tmp_path / f"rna{suffix}", rna)
    clinical_path = write_table(tmp_path / f"clinical{suffix}", clinical)
    tables = read_tables(rows, CHIMERA, rna=rna_path, clinical=clinical_path, warn=no_warning)
    cases = [build_case(row, CHIMERA, tables, warn=no_warning) for row in rows]

    single = [
        Record(dict(zip(genes, rna.loc[i, genes].astype(float), strict=True)), Path("x.json"))
        for i in (1, 0)
    ]
    for case, record in zip(cases, single, strict=True):
        assert case.rna is not None
        assert case.rna.source == rna_path
        assert dict(case.rna.values) == record.values
    spec, expected = (
        RnaSpec.fit(records, scale="log")
        for records in ([case.rna for case in cases if case.rna is not None], single)
    )
    np.testing.assert_array_equal(spec.mean, expected.mean)
    assert spec.genes == expected.genes
    assert cases[0].clinical == Record({"age": "71"}, clinical_path)
    assert cases[1].clinical == Record({"age": "70", "sex": "Male"}, clinical_path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_table_of_everything_gives_neither_outcome_nor_index_as_genes(
    tmp_path: Path, suffix: str
) -> None:
    ours = {"Event": [1], "TIME": [7.5], "patient_id": [3], "Centre": [2], "Progression": [1]}
    index = {"": [0], "Unnamed: 0": [0], "__index_level_0__": [0]}
    path = write_table(
        tmp_path / f"all{suffix}",
        pd.DataFrame({**index, "case_id": ["A"], **ours, "age": [70], "TP53": [1.5]}),
    )
    rows = list_table(write(tmp_path / "m.csv", "case_id\nA\n"))
    warnings: list[str] = []
    tables = read_tables(rows, CHIMERA, rna=path, clinical=path, warn=warnings.append)
    assert dict(tables.rna["A"].values) == {"age": 70, "TP53": 1.5}
    assert not {"Event", "TIME", "Progression"} & set(tables.clinical["A"].values)
    names = "'', 'Unnamed: 0', '__index_level_0__', 'Event', 'TIME' and 3 more"
    assert warnings == [f"{path}: left out as no genes: {names}"]
    # A bundle that knows its genes has nothing to be told.
    read_tables(rows, CHIMERA, rna=path, clinical=None, genes={"TP53"}, warn=no_warning)


def test_a_file_of_its_own_gives_no_outcome_as_genes(tmp_path: Path) -> None:
    content = {"": 0, "Event": 1, "time": 7.5, "centre": 2, "Progression": 1, "age": 70}
    write(tmp_path / "all.json", json.dumps(content))
    path = write(tmp_path / "m.csv", "case_id,rna,clinical\nA,all.json,all.json\n")
    case = build_case(list_table(path)[0], CHIMERA, NO_TABLES, warn=no_warning)
    assert case.rna == Record({"age": 70}, tmp_path / "all.json")
    assert case.clinical == Record({"": 0, "centre": 2, "age": 70}, tmp_path / "all.json")


@pytest.mark.skipif(not CHIMERA_GENES.is_file(), reason="the shared data folder is not here")
def test_no_gene_of_chimera_is_taken_for_something_else() -> None:
    genes = CHIMERA_GENES.read_text().split()
    assert len(genes) == 19359
    assert not CHIMERA.hidden("rna") & {gene.lower() for gene in genes}


def test_an_empty_cell_of_a_gene_is_missing_and_not_zero(tmp_path: Path) -> None:
    rows = list_table(write(tmp_path / "m.csv", "case_id\nA\n"))
    path = write(tmp_path / "rna.csv", "case_id,G1,G2,G3,G4\nA,,NA,nan,0\n")
    tables = read_tables(rows, CHIMERA, rna=path, clinical=None, warn=no_warning)
    values = tables.rna["A"].values
    assert [np.isnan(values[gene]) for gene in ("G1", "G2", "G3", "G4")] == [True] * 3 + [False]
    assert values.get("G5") is None


def test_case_tells_genes_apart_and_not_clinical_fields(tmp_path: Path) -> None:
    rows = list_table(write(tmp_path / "m.csv", "case_id\nA\n"))
    path = write(tmp_path / "table.csv", "case_id,Kras,KRAS\nA,1,2\n")  # mouse and human
    tables = read_tables(rows, CHIMERA, rna=path, clinical=None, warn=no_warning)
    assert dict(tables.rna["A"].values) == {"Kras": 1, "KRAS": 2}
    with pytest.raises(ConfigError, match=r"expected each column once, found more of kras$"):
        read_tables(rows, CHIMERA, rna=None, clinical=path, warn=no_warning)


def test_a_cell_that_is_no_number_is_missing_for_its_case_alone(tmp_path: Path) -> None:
    rows = list_table(write(tmp_path / "m.csv", "case_id\nA\nB\nC\nD\n"))
    cells = 'A,1,2\nB,1_000,#N/A\nC,"7,5",4\nD,n/a,1e3\nX,high,high\n'
    path = write(tmp_path / "rna.csv", f"case_id,G1,G2\n{cells}")
    warnings: list[str] = []
    tables = read_tables(rows, CHIMERA, rna=path, clinical=None, warn=warnings.append)
    found = {case_id: [*record.values.values()] for case_id, record in tables.rna.items()}
    assert repr(found) == (
        "{'A': [1.0, 2.0], 'B': [nan, nan], 'C': [nan, 4.0], 'D': [nan, 1000.0]}"
    )
    assert warnings == [
        f"{path}: expected numbers, found 2 other cells; they count as missing, for B, C"
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_row_without_a_value_is_no_expression(tmp_path: Path, suffix: str) -> None:
    table = pd.DataFrame({"case_id": ["A", "B"], "age": [70, None], "sex": ["Male", None]})
    path = write_table(tmp_path / f"table{suffix}", table)
    rows = list_table(write(tmp_path / "m.csv", "case_id\nA\nB\n"))
    tables = read_tables(rows, CHIMERA, rna=path, clinical=path, genes={"age"}, warn=no_warning)
    assert (list(tables.rna), list(tables.clinical)) == (["A"], ["A", "B"])
    # Genes by other names are no gap: the bundle says which it misses.
    tables = read_tables(rows, CHIMERA, rna=path, clinical=None, genes={"TP53"}, warn=no_warning)
    assert [len(record.values) for record in tables.rna.values()] == [0, 0]


def test_a_file_of_its_own_comes_before_a_tables_row(tmp_path: Path) -> None:
    write(tmp_path / "a.json", json.dumps({"G": 5.0}))
    rows = list_table(write(tmp_path / "m.csv", "case_id,rna\nA,a.json\nB,\n"))
    path = write(tmp_path / "rna.csv", "case_id,G\nB,2\n")  # and nobody misses A here
    tables = read_tables(rows, CHIMERA, rna=path, clinical=None, warn=no_warning)
    found = [build_case(row, CHIMERA, tables, warn=no_warning).rna for row in rows]
    assert [dict(record.values) for record in found if record] == [{"G": 5.0}, {"G": 2.0}]


def test_tables_that_no_case_needs_are_not_used(tmp_path: Path) -> None:
    rows = list_table(write(tmp_path / "m.csv", "case_id,rna,clinical\nA,a.json,b.json\n"))
    path = write(tmp_path / "table.csv", "case_id,G\nA,2\n")
    warnings: list[str] = []
    tables = read_tables(rows, CHIMERA, rna=path, clinical=path, warn=warnings.append)
    assert (tables.rna, tables.clinical) == ({}, {})
    assert warnings == [f"{path}: not used, as every case has a file of its own"] * 2


def test_cases_without_a_row_are_told(tmp_path: Path) -> None:
    rows = list_table(write(tmp_path / "m.csv", "case_id\nA\nB\nC\n"))
    path = write(tmp_path / "rna.csv", "case_id,G\nB,2\nX,1\n")
    warnings: list[str] = []
    tables = read_tables(rows, CHIMERA, rna=path, clinical=None, warn=warnings.append)
    assert warnings == [f"{path}: no row for 2 of 3 cases: A, C"]
    assert build_case(rows[0], CHIMERA, tables.of("A"), warn=warnings.append).rna is None
    assert build_case(rows[1], CHIMERA, tables.of("B"), warn=no_warning).rna is not None
    assert warnings[1:] == [f"{path}: nothing of this case"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "gene,A,B\nTP53,1,2\n",
            "expected one row per case, with its id in a column case_id (separated by ",
        ),
        ("case_id,G\nX,1\nY,2\n", "expected rows of the manifest's cases (A), found X, Y"),
        ("case_id,G\nA,1\nA,2\n", "expected each case once, found more of A"),
        ("case_id,G,G\nA,1,2\n", "expected each column once, found more of G"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    rows = list_table(write(tmp_path / "m.csv", "case_id\nA\n"))
    path = write(tmp_path / "rna.csv", text)
    with pytest.raises(ConfigError, match="^" + re.escape(f"{path}: {message}")):
        read_tables(rows, CHIMERA, rna=path, clinical=None, warn=no_warning)


def test_a_row_that_is_too_short(tmp_path: Path) -> None:
    path = write(tmp_path / "manifest.csv", "case_id,a\nA,1\nB\n")
    with pytest.raises(ConfigError, match=r"line 3: expected 2 cells, found 1$"):
        list_table(path)


def test_a_csv_of_excel_may_quote_its_header(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes('\ufeff"case_id","slide"\r\n"A","a.tif"\r\n'.encode())
    (row,) = list_table(path)
    assert (row.case_id, row.slides) == ("A", (SlideFile(tmp_path / "a.tif"),))


def test_a_suffix_may_be_in_upper_case(tmp_path: Path) -> None:
    assert [row.case_id for row in list_table(write(tmp_path / "M.CSV", "case_id\nA\n"))] == ["A"]


def test_an_id_of_invisible_characters_names_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected case ids that can name a file, found 'A.*B'"):
        list_table(write(tmp_path / "m.csv", "case_id\nA\x07B\n"))


def test_cases_that_nobody_asks_for_may_be_there_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "rna.csv", "case_id,G\nX,1\nA,2\nX,3\n")
    tables = read_tables([Row("A")], CHIMERA, rna=path, clinical=None, warn=no_warning)
    assert dict(tables.rna["A"].values) == {"G": 2}


def test_of_two_names_that_differ_in_case_the_lower_is_taken(tmp_path: Path) -> None:
    (tmp_path / "C").mkdir()
    for name in ("C_HE.TIF", "C_HE.tif"):
        (tmp_path / "C" / name).touch()
    (row,) = list_download(tmp_path)
    assert row.slides == (SlideFile(tmp_path / "C" / "C_HE.tif"),)


def test_a_folder_is_no_file_of_a_case(tmp_path: Path) -> None:
    (tmp_path / "C" / "C_HE.tif").mkdir(parents=True)
    (tmp_path / "C" / "C_CD.json").touch()
    (row,) = list_download(tmp_path)
    assert (row.slides, row.clinical) == ((), tmp_path / "C" / "C_CD.json")


def test_a_jobs_own_records_come_before_a_tables_row(tmp_path: Path) -> None:
    write_job(tmp_path / "J", record_contents())
    table = Record({"age": "1"}, tmp_path / "t.csv")
    case = build_case(
        Row("J", job=tmp_path / "J"), CHIMERA, Tables({"J": table}, {"J": table}), warn=no_warning
    )
    assert case.rna and case.rna.source != table.source
    assert case.clinical and case.clinical.source != table.source


def test_a_file_of_gaps_is_no_expression(tmp_path: Path) -> None:
    write(tmp_path / "rna.json", json.dumps({"TP53": None, "KRAS": "NA"}))
    row = Row("A", rna=tmp_path / "rna.json", clinical=tmp_path / "rna.json")
    case = build_case(row, CHIMERA, NO_TABLES, warn=no_warning)
    assert case.rna is None
    assert case.clinical is not None


def test_a_jobs_folder_that_may_not_be_read_is_a_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_job(tmp_path / "J1", record_contents())
    (tmp_path / "J2").mkdir()
    iterdir = Path.iterdir

    def refuse(path: Path):  # the tests may run as root
        if path.name == "J2":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert [row.case_id for row in list_jobs(tmp_path, CHIMERA)] == ["J1", "J2"]


def test_a_mask_without_a_slide_is_told(tmp_path: Path) -> None:
    text = "case_id,slide,mask\nA,,m\nB,a;,m;\nC,a; ,m\nD,;b,m;n\n"
    none, *others = list_table(write(tmp_path / "manifest.csv", text))
    first, second = (
        SlideFile(tmp_path / "a", tmp_path / "m"),
        SlideFile(tmp_path / "b", tmp_path / "n"),
    )
    assert (none.slides, none.unused) == ((), (tmp_path / "m",))
    assert [row.slides for row in others] == [(first,), (first,), (second,)]
    assert [row.unused for row in others] == [(), (), (tmp_path / "m",)]
    said: list[str] = []
    build_case(none, CHIMERA, NO_TABLES, warn=said.append)
    assert said == [f"{tmp_path}: not used: m"]


def test_files_of_a_download_may_be_spelt_in_other_ways(tmp_path: Path) -> None:
    case = tmp_path / "3A_1"
    case.mkdir()
    for name in ("3a_1_he.TIFF", "3A_1_HE_MASK.tif", "3A_1_rna.json", "3A_1_CD.JSON", "notes.txt"):
        (case / name).touch()
    (row,) = list_download(tmp_path)
    assert row.slides == (SlideFile(case / "3a_1_he.TIFF", case / "3A_1_HE_MASK.tif"),)
    assert (row.rna, row.clinical) == (case / "3A_1_rna.json", case / "3A_1_CD.JSON")
    assert row.unused == ()


def test_files_beside_those_of_a_case_that_lacks_one_are_told(tmp_path: Path) -> None:
    case = tmp_path / "3A_1"
    case.mkdir()
    for name in ("3A_1_RNAseq.json", "3A_1_CD.json", ".DS_Store"):
        write(case / name, "{}")
    (row,) = list_download(tmp_path)
    said: list[str] = []
    build_case(row, CHIMERA, NO_TABLES, warn=said.append)
    assert f"{case}: not used: 3A_1_RNAseq.json" in said


def test_a_gene_may_be_there_twice_where_it_is_not_wanted(tmp_path: Path) -> None:
    path = write(tmp_path / "rna.csv", "case_id,Y_RNA,G,Y_RNA\nA,1,2,3\n")
    for genes, found in ((frozenset({"G"}), {"G": 2}), (frozenset({"G", "Y_RNA"}), None)):
        with nullcontext() if found else pytest.raises(ConfigError, match="found more of Y_RNA"):
            tables = read_tables(
                [Row("A")], CHIMERA, rna=path, clinical=None, genes=genes, warn=no_warning
            )
            assert dict(tables.rna["A"].values) == found


def test_a_table_of_semicolons_is_told_in_a_short_line(tmp_path: Path) -> None:
    genes = ";".join(f"ENSG{index:011}" for index in range(5000))
    path = write(tmp_path / "rna.csv", f"case_id;{genes}\nA;1\n")
    with pytest.raises(
        ConfigError, match=r"\(separated by commas\), found columns case_id;"
    ) as told:
        read_tables([Row("A")], CHIMERA, rna=path, clinical=None, warn=no_warning)
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(
    "columns", [{"slide": "a.tif;b.tif"}, {"slide": "a.tif;b.tif", "mask": ""}]
)
def test_slides_need_no_masks(tmp_path: Path, columns: dict[str, str]) -> None:
    text = ",".join(["case_id", *columns]) + "\n" + ",".join(["A", *columns.values()]) + "\n"
    (row,) = list_table(write(tmp_path / "m.csv", text))
    assert row.slides == (SlideFile(tmp_path / "a.tif"), SlideFile(tmp_path / "b.tif"))
