"""A file is there whole, or not at all."""

import errno
import subprocess
import sys
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


RACE = """
import sys
from pathlib import Path
from model.files import whole

path, letter = Path(sys.argv[1]), sys.argv[2]
for _ in range(300):
    with whole(path) as part, part.open("w") as file:
        for _ in range(20):
            file.write(letter * 1000)
            file.flush()
    assert len(set(path.read_text())) == 1
"""


def test_processes_that_write_one_file_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    root = Path(__file__).parent.parent
    processes = [
        subprocess.Popen([sys.executable, "-c", RACE, path, letter], cwd=root) for letter in "ABC"
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == [path]


def test_where_nothing_can_be_locked_files_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    write_whole(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"new"
