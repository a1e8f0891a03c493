"""What tells that a case's files are no longer those that its result was made from."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from model.case import SlideFile
from model.cohort_state import state_of_bags, state_of_files
from model.manifest import Row


def change_the_size_alone(path: Path) -> None:
    before = path.stat()
    path.write_text("longer than before")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_the_time_alone(path: Path) -> None:
    os.utime(path, (1, 1))


CHANGES = [change_the_size_alone, change_the_time_alone, Path.unlink]


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("content")
    return path


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["slide", "mask", "rna", "clinical"])
def test_each_file_of_a_case_counts(
    tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    files = {name: write(tmp_path / name) for name in ("slide", "mask", "rna", "clinical")}
    slides = (SlideFile(files["slide"], files["mask"]),)
    row = Row("C0", slides, files["rna"], files["clinical"])
    before = state_of_files(row)
    assert state_of_files(row) == before
    change(files[name])
    assert state_of_files(row) != before


def test_the_name_of_a_jobs_file_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "images" / "a.tif")
    row, times = Row("C0", job=tmp_path), path.parent.stat()
    before = state_of_files(row)
    path.rename(path.with_name("b.tif"))
    os.utime(path.parent, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert state_of_files(row) != before


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["features/s.pt", "coordinates/s.npy", "C0.safetensors"])
def test_each_file_of_a_bag_counts(
    tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    for own in ("features/s.pt", "coordinates/s.npy", "C0.safetensors"):
        write(tmp_path / own)
    row = Row("C0", (SlideFile(tmp_path / "s.svs"),))
    before = state_of_bags(row, tmp_path)
    assert state_of_bags(row, tmp_path) == before
    change(tmp_path / name)
    assert state_of_bags(row, tmp_path) != before
