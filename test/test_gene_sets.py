"""Gene sets: files as MSigDB and the papers write them, and how a member comes to know them."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_run import SCHEMA
from toy_bundles import make_bundle
from toy_fusions import DIMS, toy_cases

from model.batch import Dims, collate
from model.bundle import Bundle
from model.case import Case, Record
from model.encoders import ENCODERS
from model.errors import BundleError, ConfigError
from model.fusion.layers_tokens import GroupedSnn
from model.patches import PatchSpec
from train.cohort import LabelledCase
from train.config import CohortConfig, FusionChoice, RnaConfig, TrainConfig
from train.dataset import Bags, start_member
from train.gene_sets import all_genes, place_gene_sets, read_gene_sets, read_panel

GMT = "HYPOXIA\thttps://x.org\tVEGFA\tLDHA\tVEGFA\nDNA_REPAIR\t\tPOLB\n\nONE\tremark\tTP53\t\n"
CSV = "HYPOXIA,DNA/REPAIR,ONE\nVEGFA,POLB,TP53\nLDHA,,\nVEGFA,\n"
HYPOXIA = ("VEGFA", "LDHA")

PATHWAYS = Path(__file__).parents[2] / "shared" / "data" / "tcga" / "pathways"
CHIMERA_GENES = PATHWAYS.parents[1] / "chimera" / "gene_order_19359.txt"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_gmt_is_read(tmp_path: Path) -> None:
    sets = read_gene_sets(write(tmp_path / "sets.gmt", GMT))
    assert sets == {"HYPOXIA": HYPOXIA, "DNA_REPAIR": ("POLB",), "ONE": ("TP53",)}
    assert list(sets) == ["HYPOXIA", "DNA_REPAIR", "ONE"]


def test_a_csv_is_read(tmp_path: Path) -> None:
    sets = read_gene_sets(write(tmp_path / "sets.csv", CSV))
    assert sets == {"HYPOXIA": HYPOXIA, "DNA/REPAIR": ("POLB",), "ONE": ("TP53",)}


@pytest.mark.parametrize(
    ("name", "text"),
    [("sets.gmt", " A \tx\t TP53\t\tKRT5 \t \n"), ("sets.csv", " A\n TP53\n \nKRT5 \n")],
)
def test_spaces_have_no_meaning(tmp_path: Path, name: str, text: str) -> None:
    assert read_gene_sets(write(tmp_path / name, text)) == {"A": ("TP53", "KRT5")}


@pytest.mark.parametrize(("suffix", "text"), [(".gmt", GMT), (".CSV", CSV)])
def test_compression_windows_and_excel_do_not_matter(
    tmp_path: Path, suffix: str, text: str
) -> None:
    path = tmp_path / f"sets{suffix}.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()))
    assert read_gene_sets(path) == read_gene_sets(write(tmp_path / f"plain{suffix}", text))


UNUSABLE = {
    "sets.txt": ("A\tx\tB\n", "expected gene sets (.gmt or .csv, or .gz of one), found another"),
    "empty.gmt": ("\n", "expected gene sets, found an empty file"),
    "empty.csv": ("", "expected gene sets, found an empty file"),
    "bare.gmt": ("A\tx\tTP53\nB\tx\n", "line 2: expected genes of B, found none"),
    "spaces.gmt": ("A x TP53\n", "line 1: expected genes of A x TP53, found none"),
    "unnamed.gmt": ("A\tx\tTP53\n\n \tx\tTP53\n", "line 3: expected the name of a gene set, found"),
    "twice.gmt": ("A\tx\tB\nA\tx\tC\n", "line 2: expected each gene set once, found A again"),
    "index.csv": (",A\n0,TP53\n", "column 1: expected the name of a gene set, found none"),
    "bare.csv": ("A,B\nTP53,\nEGFR,\n", "column 2: expected genes of B, found none"),
    "twice.csv": ("A,A\nTP53,EGFR\n", "column 2: expected each gene set once, found A again"),
    "wide.csv": ("A,B\nTP53,X\nTP53,X,Y\n", "line 3: expected a cell for each of 2 gene sets, f"),
    "plain.gmt.gz": ("A\tx\tB\n", "expected readable gene sets, found: Not a gzipped file"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_file_is_one_line(tmp_path: Path, name: str) -> None:
    text, message = UNUSABLE[name]
    path = write(tmp_path / name, text)
    with pytest.raises(ConfigError) as caught:
        read_gene_sets(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_damaged_and_absent_files_are_one_line(tmp_path: Path) -> None:
    cut = tmp_path / "cut.gmt.gz"
    cut.write_bytes(gzip.compress(GMT.encode())[:-20])
    latin = tmp_path / "latin.gmt"
    latin.write_bytes("A\tx\tÄ\n".encode("latin-1"))
    for path in (cut, latin):
        with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: expected readable gene s"):
            read_gene_sets(path)
    with pytest.raises(ConfigError, match=r"\(\.gmt or \.csv, or \.gz of one\), found no file$"):
        read_gene_sets(tmp_path / "absent.gmt")


def test_a_panel_is_read_as_excel_writes_it_too(tmp_path: Path) -> None:
    path = tmp_path / "panel.txt"
    path.write_bytes(b"\xef\xbb\xbfTP53\r\n\r\nKRT5\r\n")
    assert read_panel(path) == ["TP53", "KRT5"]


def test_an_unusable_panel_is_one_line(tmp_path: Path) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes("Ä".encode("latin-1"))
    for path in (latin, tmp_path / "absent.txt", tmp_path):
        with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: expected a readable gene"):
            read_panel(path)
    with pytest.raises(ConfigError, match=r"expected a gene panel, found an empty file$"):
        read_panel(write(tmp_path / "empty.txt", "\n"))


SETS = {"two": ("B", "A"), "unknown": ("X", "Y"), "one": ("X", "C"), "three": ("C", "A", "D")}


def test_sets_become_positions_of_the_genes_that_are_used() -> None:
    genes = ("A", "B", "C", "D", "E")
    assert all_genes(SETS) == ["A", "B", "C", "D", "X", "Y"]
    assert place_gene_sets(SETS, genes, 1) == {"two": (0, 1), "one": (2,), "three": (0, 2, 3)}
    assert place_gene_sets(SETS, genes, 3) == {"three": (0, 2, 3)}
    with pytest.raises(ConfigError) as caught:
        place_gene_sets(SETS, genes, 4)
    expected = "expected one with 4 or more of the 5 genes that are used, found at most 3 in any"
    assert str(caught.value) == f"gene sets: {expected}"


# --- in training and in the bundle ----------------------------------------------------------------


def fit(tmp_path: Path, **rna: object) -> tuple[tuple[str, ...], Dims]:
    """Start a member on five cases with the genes A to F; return its genes and widths."""
    draw = np.random.default_rng(0)
    cases = [
        LabelledCase(
            Case(str(i), rna=Record(dict(zip("ABCDEF", draw.normal(size=6), strict=True)), Path())),
            event=True,
            time=1.0,
            centre="",
        )
        for i in range(5)
    ]
    config = TrainConfig(
        output=tmp_path,
        cohort=CohortConfig(root=tmp_path),
        rna=RnaConfig.model_validate(rna),
        fusion=FusionChoice(name="snn"),
    )
    bags = Bags(tmp_path, ENCODERS["uni"], PatchSpec())
    member = start_member(cases, bags, config, SCHEMA)
    assert member.rna is not None
    return member.rna.genes, member.fusion.dims


def test_a_member_uses_the_genes_of_its_sets(tmp_path: Path) -> None:
    path = write(tmp_path / "sets.gmt", "one\t\tF\nnone\t\tX\nmore\t\tE\tA\tY\n")
    genes, dims = fit(tmp_path, gene_sets=path)
    assert genes == ("A", "E", "F")
    assert dims.genes == 3
    assert dims.gene_sets == {"one": (2,), "more": (0, 1)}
    assert fit(tmp_path, gene_sets=path, min_genes_per_set=2)[1].gene_sets == {"more": (0, 1)}
    genes, dims = fit(tmp_path, gene_sets=path, top_variance=1)
    assert len(genes) == 1
    assert list(dims.gene_sets.values()) == [(0,)]
    assert fit(tmp_path) == (tuple("ABCDEF"), Dims(genes=6))


def test_a_panel_goes_before_the_sets(tmp_path: Path) -> None:
    path = write(tmp_path / "sets.gmt", "one\t\tF\nmore\t\tE\tA\n")
    panel = write(tmp_path / "panel.txt", "A\nB\nE\n")
    genes, dims = fit(tmp_path, gene_sets=path, panel=panel)
    assert genes == ("A", "B", "E")
    assert dims.gene_sets == {"more": (0, 2)}
    with pytest.raises(ConfigError, match=r"^gene sets: expected one with 3 or more of the 3 "):
        fit(tmp_path, gene_sets=path, panel=panel, min_genes_per_set=3)


def test_a_bundle_keeps_the_sets(tmp_path: Path) -> None:
    bundle = make_bundle("survpath")
    bundle.save(tmp_path / "bundle.safetensors")
    loaded = Bundle.load(tmp_path / "bundle.safetensors")
    batch = collate(toy_cases(5, 2), DIMS)
    for before, after in zip(bundle.members, loaded.members, strict=True):
        assert list(after.fusion.dims.gene_sets.items()) == list(DIMS.gene_sets.items())
        assert after.fusion(batch).equal(before.fusion(batch))


@pytest.mark.parametrize("positions", [(), (0, 10), (-1, 2)])
def test_a_bundle_whose_sets_lie_outside_its_genes_is_refused(
    tmp_path: Path, positions: tuple[int, ...]
) -> None:
    bundle = make_bundle("survpath")
    first = bundle.manifest.members[0]
    sets = first.dims.gene_sets | {"second": positions}
    dims = first.dims.model_copy(update={"gene_sets": sets})
    members = (first.model_copy(update={"dims": dims}), *bundle.manifest.members[1:])
    manifest = bundle.manifest.model_copy(update={"members": members})
    path = tmp_path / "bundle.safetensors"
    Bundle(manifest, bundle.members, bundle.mapping).save(path)
    with pytest.raises(BundleError, match=r"found gene set second outside the 10 genes$"):
        Bundle.load(path)


# --- the papers' own sets -------------------------------------------------------------------------


@pytest.mark.skipif(not PATHWAYS.is_dir(), reason="../shared/data/tcga/pathways is not there")
@pytest.mark.parametrize(
    ("name", "sets", "genes", "members"),
    [
        ("combine_signatures", 331, 4999, 9745),
        ("hallmarks_signatures", 50, 4241, 7110),
        ("xena_signatures", 281, 1577, 2635),
        ("signatures", 6, 3047, 3354),
    ],
)
def test_the_papers_sets_are_read(name: str, sets: int, genes: int, members: int) -> None:
    read = read_gene_sets(PATHWAYS / f"{name}.csv.gz")
    assert len(read) == sets
    assert len(all_genes(read)) == genes
    assert sum(map(len, read.values())) == members


@pytest.mark.skipif(not PATHWAYS.is_dir(), reason="../shared/data/tcga/pathways is not there")
def test_survpaths_sets_on_chimeras_genes() -> None:
    sets = read_gene_sets(PATHWAYS / "combine_signatures.csv.gz")
    placed = place_gene_sets(sets, CHIMERA_GENES.read_text().split(), 1)
    assert len(placed) == 331
    assert sum(map(len, placed.values())) == 9657
    own = place_gene_sets(sets, all_genes(sets), 1)
    with torch.device("meta"):
        grouped = GroupedSnn(own, width=256, dropout=0.25)
    assert sum(value.numel() for value in grouped.parameters()) == 24_356_608
