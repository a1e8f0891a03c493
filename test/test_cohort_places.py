"""Folders of bags and explanations that cannot be used are told before any work."""

import errno
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from cohorts import check, read_predictions, score, scorer, write_bundle, write_records
from mean_colour import write_tissue
from safetensors import SafetensorError
from small_bundles import build_bundle

from model.cohort import Cohort
from model.errors import ConfigError

pytestmark = pytest.mark.usefixtures("quick_page")


def refusal(cohort: Cohort, **places: Path) -> str:
    """Return the one line with which both a run and a dry run refuse a place."""
    by = scorer(write_bundle(cohort.manifest.with_name("bundle.safetensors")), **places)
    with pytest.raises(ConfigError) as caught:
        score(cohort, by)
    message = "^" + re.escape(str(caught.value)) + "$"
    with pytest.raises(ConfigError, match=message):
        check(cohort, by)
    assert not cohort.output.exists()
    return str(caught.value)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(write_records(tmp_path / "data", 1), tmp_path / "out")


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that may not be entered, as far as anyone asks: tests may run as root."""
    folder = tmp_path / "locked"
    folder.mkdir()
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: access(path, mode) and (path != folder or mode == os.F_OK)
    )
    return folder


def test_a_file_is_no_folder(tmp_path: Path, cohort: Cohort) -> None:
    file = tmp_path / "file"
    file.touch()
    assert refusal(cohort, embeddings=file) == f"{file}: expected a folder of bags, found a file"
    message = f"{file}: expected a folder to write in, found a file"
    for place in (file, file / "why" / "today"):
        assert refusal(cohort, explain=place) == message
    assert refusal(cohort, embeddings=file / "bags") == message


def test_a_folder_of_another_user_is_refused(cohort: Cohort, locked: Path) -> None:
    bags = f"{locked}: expected a folder of bags, found Permission denied"
    assert refusal(cohort, embeddings=locked) == bags
    message = f"{locked}: expected a folder to write in, found Permission denied"
    for place in (locked, locked / "why" / "today"):
        assert refusal(cohort, explain=place) == message
    assert refusal(cohort, embeddings=locked / "bags") == message


def test_bags_that_may_only_be_read_are_taken(
    tmp_path: Path, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    bags = tmp_path / "bags"
    bags.mkdir()
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: access(path, mode) and (path != bags or not mode & os.W_OK)
    )
    warnings: list[str] = []
    by = scorer(write_bundle(tmp_path / "bundle.safetensors"), embeddings=bags)
    assert score(cohort, by, warn=warnings.append).failed == 0
    assert warnings == [f"{bags}: may only be read; new bags are not kept"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_bag_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    bundle, manifest, bags = (tmp_path / name for name in ("b.safetensors", "m.csv", "bags"))
    build_bundle(modalities=("slide",)).save(bundle)
    write_tissue(tmp_path / "s.mha", seed=0, side_px=150)
    manifest.write_text("case_id,slide\nC0,s.mha\n")

    def full_disk(tensors: object, target: Path, metadata: object) -> None:
        target.write_bytes(b"half")
        raise error

    monkeypatch.setattr("model.bundle.save_file", full_disk)
    cohort = Cohort(manifest, tmp_path / "out")
    assert score(cohort, scorer(bundle, embeddings=bags)).failed == 0
    (row,) = read_predictions(cohort.output)
    reason = str(error).partition("] ")[2] or str(error)
    assert (
        f"the bag is not kept: {bags}: expected a folder to write in, found {reason}"
        in (row["warnings"])
    )
    assert float(row["time"]) > 0
    assert list(bags.iterdir()) == []


def test_a_table_that_the_results_would_replace_is_refused(cohort: Cohort) -> None:
    cohort.output.mkdir()
    table = cohort.output / "predictions.csv"
    content = cohort.manifest.read_bytes()
    table.write_bytes(content)
    by = scorer(write_bundle(cohort.output.with_name("bundle.safetensors")))
    with pytest.raises(
        ConfigError, match=r"predictions\.csv: expected a table that the results do"
    ):
        score(replace(cohort, manifest=table), by)
    assert [path.name for path in cohort.output.iterdir()] == ["predictions.csv"]
    assert table.read_bytes() == content


def test_an_output_that_cannot_be_a_folder_is_refused(tmp_path: Path, cohort: Cohort) -> None:
    file = tmp_path / "file"
    file.touch()
    message = f"{file}: expected a folder to write in, found a file"
    assert refusal(replace(cohort, output=file / "out")) == message
