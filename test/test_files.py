"""A file is there whole, or not at all."""

import os
import time
from pathlib import Path

import pytest

from model.files import remove_parts, whole, write_whole


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with whole(path) as part:
        part.write_text("new")
        assert part.match("a.json.*.part") and not path.exists()
    assert path.read_text() == "new"
    write_whole(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole(path) as part:
        part.write_text("ne")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


def test_the_first_error_is_the_one_that_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.files.token_hex", lambda count: "0")
    (tmp_path / "a.json.0.part").mkdir()  # can neither be written nor unlinked
    with pytest.raises(IsADirectoryError) as caught:
        write_whole(tmp_path / "a.json", b"new")
    assert caught.value.__context__ is None
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "absent" / "a.json", b"new")


def test_two_may_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with whole(path) as one, whole(path) as other:
        one.write_text("one")
        other.write_text("two")
    assert path.read_text() == "one"  # whose block ended last
    assert list(tmp_path.iterdir()) == [path]


def test_old_parts_of_the_dead_are_removed(tmp_path: Path) -> None:
    old = {"old.json.0badf00d.part": 25, "slide.svs.part": 99, "old.json": 99}
    for name, hours in {**old, "new.json.0badf00d.part": 23}.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - 3600 * hours,) * 2)
    remove_parts(tmp_path)
    kept = ["new.json.0badf00d.part", "old.json", "slide.svs.part"]  # the last is not ours
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    remove_parts(tmp_path / "absent")


def test_a_file_that_is_replaced_is_whole_for_who_reads_it(tmp_path: Path) -> None:
    path, kept = tmp_path / "a.json", tmp_path / "kept.json"
    path.write_bytes(b"old")
    os.link(path, kept)  # as a reader has it that opened it before
    write_whole(path, b"new")
    assert (path.read_bytes(), kept.read_bytes()) == (b"new", b"old")
