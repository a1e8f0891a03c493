"""JSON that says two things of one key."""

from pathlib import Path

from synthetic import no_warning

from model.json_files import read_json


def test_of_equal_keys_the_first_is_used_and_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"age": 85, "sex": "Male", "age": 50, "age": 40}')
    warnings: list[str] = []
    assert read_json(path, warn=warnings.append) == {"age": 85, "sex": "Male"}
    assert warnings == [f"{path}: expected each key once, found more of age; the first is used"]


def test_objects_beside_each_other_may_have_the_same_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"age": 85}, {"age": {"age": 50}}]')
    assert read_json(path, warn=no_warning) == [{"age": 85}, {"age": {"age": 50}}]
