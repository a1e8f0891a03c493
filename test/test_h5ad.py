"""AnnData files as the specification lays them out, dense and sparse, become cases' expression."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse
from job_files import CHIMERA, no_warning
from numpy.typing import NDArray

from model.errors import ConfigError
from model.h5ad import read_h5ad
from model.manifest import Row, read_tables

IDS = [f"P{index:03}" for index in range(150)]  # more than a block of rows
GENES = [f"G{index}" for index in range(7)]
LAYOUTS = ("array", "csr_matrix", "csc_matrix")


def expression() -> NDArray[np.float32]:
    """Return values (150, 7), of which many are zeros."""
    rng = np.random.default_rng(0)
    values = rng.normal(8, 2, (len(IDS), len(GENES))) * (rng.random((len(IDS), len(GENES))) < 0.5)
    return values.astype(np.float32)


def write_h5ad(
    path: Path,
    values: NDArray[np.float32],
    *,
    layout: str = "array",
    ids: list[str] = IDS,
    genes: list[str] = GENES,
    nullable: bool = False,
) -> Path:
    """Write what AnnData writes of obs, var and X."""
    with h5py.File(path, "w") as file:
        for name, index in (("obs", ids), ("var", genes)):
            group = file.create_group(name)
            group.attrs.update({"encoding-type": "dataframe", "_index": "names"})
            if nullable:
                strings = group.create_group("names")
                strings.attrs["encoding-type"] = "nullable-string-array"
                strings["values"] = index
                strings["mask"] = np.zeros(len(index), dtype=bool)
            else:
                group["names"] = index
        if layout == "array":
            file["X"] = values
        else:
            sparse = getattr(scipy.sparse, layout)(values)
            group = file.create_group("X")
            group.attrs.update({"encoding-type": layout, "shape": values.shape})
            for part in ("data", "indices", "indptr"):
                group[part] = getattr(sparse, part)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_wanted_part_of_the_matrix_is_read(tmp_path: Path, layout: str) -> None:
    values = expression()
    path = write_h5ad(tmp_path / "a.h5ad", values, layout=layout)
    found = read_h5ad(path, {"P149", "P003", "P080", "absent"}, {"G5", "G1"})
    assert (found.ids, found.genes) == (("P003", "P080", "P149"), ("G1", "G5"))
    assert found.all_ids == tuple(IDS)
    np.testing.assert_array_equal(found.values, values[[3, 80, 149]][:, [1, 5]])
    whole = read_h5ad(path, set(IDS), None)
    np.testing.assert_array_equal(whole.values, values)


def test_an_index_may_be_nullable(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "a.h5ad", expression(), nullable=True)
    assert read_h5ad(path, {"P001"}, None).genes == tuple(GENES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_a_wide_table_of_a_manifest(tmp_path: Path, layout: str) -> None:
    values = expression()
    path = write_h5ad(tmp_path / "a.h5ad", values, layout=layout)
    warnings: list[str] = []
    tables = read_tables(
        [Row("P100"), Row("X"), Row("P007")],
        CHIMERA,
        rna=path,
        clinical=None,
        genes={"G2", "G0"},
        warn=warnings.append,
    )
    assert sorted(tables.rna) == ["P007", "P100"]
    assert dict(tables.rna["P100"].values) == {"G0": values[100, 0], "G2": values[100, 2]}
    assert tables.rna["P100"].source == path
    assert warnings == [f"{path}: no row for 1 of 3 cases: X"]


def test_a_row_of_gaps_is_no_record(tmp_path: Path) -> None:
    values = expression()
    values[7] = np.nan
    values[8, 1:] = np.nan
    path = write_h5ad(tmp_path / "a.h5ad", values)
    rows = [Row("P007"), Row("P008")]
    tables = read_tables(rows, CHIMERA, rna=path, clinical=None, warn=no_warning)
    assert list(tables.rna) == ["P008"]
    tables = read_tables(rows, CHIMERA, rna=path, clinical=None, genes={"X"}, warn=no_warning)
    assert list(tables.rna) == ["P007", "P008"]


def test_what_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"

    def refused(message: str) -> None:
        with pytest.raises(ConfigError, match="^" + re.escape(f"{path}: {message}")) as caught:
            read_tables([Row("P1")], CHIMERA, rna=path, clinical=None, warn=no_warning)
        assert "\n" not in str(caught.value)

    beginning = "expected an AnnData file with obs, var and X, found: "
    refused(beginning)
    path.write_bytes(b"no HDF5")
    refused(beginning)
    write_h5ad(path, expression())
    refused("expected rows of the manifest's cases (P1), found P000, P001, P002")
    write_h5ad(path, expression()[:, :3])
    refused(f"{beginning}X of shape (150, 3) for 150 observations of 7 variables")
    with h5py.File(path, "w") as file:
        file["X"] = expression()
    refused(f'{beginning}"Unable to')
    write_h5ad(path, expression(), layout="csr_matrix")
    with h5py.File(path, "a") as file:
        file["X"].attrs["encoding-type"] = "coo_matrix"
    refused(f"{beginning}'coo_matrix'")


@pytest.mark.parametrize("layout", ["csr_matrix", "csc_matrix"])
def test_what_a_sparse_matrix_stores_in_parts_adds_up(tmp_path: Path, layout: str) -> None:
    values = expression()
    path = write_h5ad(tmp_path / "a.h5ad", values, layout=layout)
    with h5py.File(path, "a") as file:
        parts = {name: file[f"X/{name}"][...] for name in ("data", "indices", "indptr")}
        del file["X/data"], file["X/indices"], file["X/indptr"]
        file["X/data"] = np.repeat(parts["data"] / 2, 2)
        file["X/indices"] = np.repeat(parts["indices"], 2)
        file["X/indptr"] = parts["indptr"] * 2
    np.testing.assert_array_equal(read_h5ad(path, set(IDS), None).values, values)


@pytest.mark.parametrize("layout", ["csr_matrix", "csc_matrix"])
@pytest.mark.parametrize(
    ("part", "place", "value", "message"),
    [
        ("indices", 0, 10_000, "X/indices outside 0 to "),
        ("indices", 0, -1, "X/indices outside 0 to "),
        ("indptr", -1, 10_000, "X/indptr that does not divide "),
        ("indptr", 1, 10_000, "X/indptr that does not divide "),
        ("indptr", 0, -1, "X/indptr that does not divide "),
    ],
)
def test_a_damaged_sparse_matrix_is_one_line(
    tmp_path: Path, layout: str, part: str, place: int, value: int, message: str
) -> None:
    path = write_h5ad(tmp_path / "a.h5ad", expression(), layout=layout)
    with h5py.File(path, "a") as file:
        numbers = file[f"X/{part}"][...]
        numbers[place] = value
        file[f"X/{part}"][...] = numbers
    with pytest.raises(ConfigError, match=f"^{path}: expected an AnnData file .*{message}"):
        read_h5ad(path, set(IDS), None)


def test_spaces_around_ids_and_genes_have_no_meaning(tmp_path: Path) -> None:
    genes = [f" {gene} " for gene in GENES]
    path = write_h5ad(tmp_path / "a.h5ad", expression(), genes=genes, ids=[f"{i} " for i in IDS])
    found = read_h5ad(path, {"P003"}, {"G1"})
    assert (found.ids, found.genes) == (("P003",), ("G1",))


def test_a_file_that_no_case_needs_is_not_used(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "a.h5ad", expression())
    rows, warnings = [Row("P001", rna=tmp_path / "rna.json")], list[str]()
    assert not read_tables(rows, CHIMERA, rna=path, clinical=None, warn=warnings.append).rna
    assert warnings == [f"{path}: not used, as every case has a file of its own"]


def test_outcomes_among_the_variables_are_no_genes(tmp_path: Path) -> None:
    genes = ["G0", "event", "Time", "G3", "Progression", "", "G6"]
    path = write_h5ad(tmp_path / "a.h5ad", expression(), genes=genes)
    warnings: list[str] = []
    tables = read_tables([Row("P001")], CHIMERA, rna=path, clinical=None, warn=warnings.append)
    values = expression()[1]
    assert dict(tables.rna["P001"].values) == {"G0": values[0], "G3": values[3], "G6": values[6]}
    assert warnings == [f"{path}: left out as no genes: 'event', 'Time', 'Progression', ''"]


def test_a_gene_twice_is_refused(tmp_path: Path) -> None:
    genes = ["G0", "G1", "G1", "G3", "G4", "G5", "G6"]
    path = write_h5ad(tmp_path / "a.h5ad", expression(), genes=genes)
    rows = [Row("P001")]
    with pytest.raises(ConfigError, match=r"expected each gene once, found more of G1$"):
        read_tables(rows, CHIMERA, rna=path, clinical=None, warn=no_warning)
    tables = read_tables(rows, CHIMERA, rna=path, clinical=None, genes={"G0"}, warn=no_warning)
    assert list(tables.rna["P001"].values) == ["G0"]


def test_a_matrix_that_lies_on_its_side_is_refused(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "a.h5ad", expression().T)
    with pytest.raises(ConfigError, match=r"X of shape \(7, 150\) for 150 observations of 7 "):
        read_tables([Row("P001")], CHIMERA, rna=path, clinical=None, warn=no_warning)
