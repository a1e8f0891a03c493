"""A whole run from what hospitals have: a manifest, wide tables, somebody else's bags."""

import json
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from foreign_slides import embeddings_of, write_chimera

from model.errors import CaseError
from train import rivals
from train.__main__ import main

RUN = """
output = "{folder}/run"
notice = "made-up bags"

[cohort]
root = "{folder}/manifest.csv"
rna_table = "{folder}/rna.csv"
clinical_table = "{folder}/clinical.csv"
time_unit = "days"
foreign_bags = "{folder}/features"

[encoder]
id = "uni"

[patches]
mpp = 0.5

[fusion]
name = "pairwise"

[fusion.settings]
slide_width = 8
attention_width = 4
rna_widths = [8, 4]
rank = 4
slide_rna = 4
slide_clinical = 4
rna_clinical = 4

[fit]
epochs = 2
inner_folds = 0

[folds]
by = "centre"
"""


pytestmark = pytest.mark.usefixtures("quick_training")


@pytest.fixture
def config(tmp_path: Path) -> str:
    """Return the path of a config, its cohort beside it: 24 patients of two centres."""
    rng = np.random.default_rng(0)
    lines = {
        "manifest": ["case_id,centre,slide,event,time"],
        "rna": ["case_id,G1,G2,G3"],
        "clinical": ["case_id,age,sex"],
        "folds": ["case_id,fold"],
    }
    for i in range(24):
        name, centre, event = f"P{i:02d}", "XY"[i % 2], int(i % 4 < 2)
        lines["manifest"].append(f"{name},{centre},gone/{name}.svs,{event},{100 + 50 * i}")
        lines["rna"].append(",".join([name, *map(str, rng.normal(8, 1, 3))]))
        lines["clinical"].append(f"{name},{60 + i},{('Male', 'Female')[i % 3 > 0]}")
        lines["folds"].append(f"{name},{i // 8}")
        write_chimera(tmp_path / "features", name, embeddings_of(6, seed=i, width=1024))
    for table, rows in lines.items():
        (tmp_path / f"{table}.csv").write_text("\n".join(rows))
    (tmp_path / "run.toml").write_text(RUN.format(folder=tmp_path))
    return f"{tmp_path}/run.toml"


@pytest.mark.slow
def test_a_bundle_needs_neither_slides_nor_weights(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", config]) == 0
    assert len(list((tmp_path / "bags").iterdir())) == 24
    assert capsys.readouterr().out == "24/24 cases embedded\n"
    assert main(["fit", config]) == 0
    assert (tmp_path / "run" / "bundle.safetensors").is_file()
    assert len(list((tmp_path / "run" / "folds").glob("*.safetensors"))) == 2  # X and Y
    assert main(["embed", config, "patches.mpp=1.0"]) == 1
    assert "(patches.mpp=0.5 not 1.0); use another folder" in capsys.readouterr().err


@pytest.mark.slow
def test_centres_of_one_case_each_are_one_stratum(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "manifest.csv"
    header, *rows = manifest.read_text().splitlines()
    cells = [row.split(",") for row in rows]
    alone = [",".join([row[0], f"site {row[0]}", *row[2:]]) for row in cells]
    manifest.write_text("\n".join([header, *alone]))
    assert main(["fit", config, "folds.by=stratified", "folds.count=2"]) == 0
    told = capsys.readouterr().out
    expected = f"{manifest}: 24 centres of fewer than 20 cases each are one stratum of the Cox loss"
    assert f"warning: {expected}" in told


@pytest.mark.slow
def test_baselines_that_fail_are_left_out(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = cycle(
        [
            CaseError("rna.csv", expected="genes", found="none", case_id="P00"),
            ValueError("Found\narray"),
            ArithmeticError("too large"),
            np.linalg.LinAlgError("SVD did not converge"),
        ]
    )

    def fail(*_: object) -> None:
        raise next(errors)

    monkeypatch.setattr(rivals, "out_of_fold", fail)
    assert main(["fit", config]) == 0
    told = capsys.readouterr().out
    for name, reason in (
        ("Kaplan-Meier", "case P00: rna.csv: expected genes, found none"),
        ("clinical Cox", "Found array"),
        ("RNA Cox, 20 components", "too large"),
        ("RNA Cox, 1,000 genes", "SVD did not converge"),
    ):
        assert f"warning: baseline {name}: left out: {reason}\n" in told
    assert (tmp_path / "run" / "bundle.safetensors").is_file()
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert "baseline clinical Cox: left out: Found array" in report["notes"]
    assert report["verdict"]["sentence"].startswith("No simple baseline was fitted")


@pytest.mark.slow
def test_folds_of_another_split_are_never_mixed_in(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = tmp_path / "folds.csv"
    settings = ["folds.by=file", f"folds.file={published}"]
    assert main(["fit", config, *settings]) == 0
    assert len(list((tmp_path / "run" / "folds").glob("*.safetensors"))) == 3
    published.write_text(published.read_text().replace("P00,0", "P00,1"))
    assert main(["fit", config, *settings]) == 1
    assert capsys.readouterr().err.endswith("found a run that differs in folds\n")
    (tmp_path / "run" / "run.json").unlink()
    assert main(["fit", config, *settings]) == 1
    error = capsys.readouterr().err
    assert error.endswith("or this run's own, found folds without run.json\n")
