"""Results on disk and what they follow from."""

from pathlib import Path

from train.kept import file_name, keep, read_kept


def test_what_was_kept_is_whole_and_of_the_same_origin(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    assert read_kept(path, {"seed": 0}) is None
    keep(path, {"seed": 0}, {"risk": [1.5]})
    assert read_kept(path, {"seed": 0}) == {"origin": {"seed": 0}, "risk": [1.5]}
    assert read_kept(path, {"seed": 1}) is None
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]
    path.write_text('{"origin": ')
    assert read_kept(path, {"seed": 0}) is None
    assert file_name("concat, MLP head (20)") == "concat-mlp-head-20"
