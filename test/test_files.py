"""A file is there whole, or not at all."""

from pathlib import Path

import pytest

from model.files import whole, write_whole


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with whole(path) as part:
        part.write_text("new")
        assert (part.name, path.exists()) == ("a.json.part", False)
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


def test_the_first_error_is_the_one_that_is_raised(tmp_path: Path) -> None:
    (tmp_path / "a.json.part").mkdir()  # can neither be written nor unlinked
    with pytest.raises(IsADirectoryError) as caught:
        write_whole(tmp_path / "a.json", b"new")
    assert caught.value.__context__ is None
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "absent" / "a.json", b"new")
