"""Results on disk and what they follow from."""

from pathlib import Path

import pytest

from train.kept import check_labels, file_name, keep, read_kept


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


def test_labels_have_a_file_each() -> None:
    check_labels(["joint Cox", "concat", "concat (20)"])
    for alike in (["mcat", "mcat"], ["concat, 20", "concat (20)"]):
        with pytest.raises(ValueError, match="differ in letters or digits") as error:
            check_labels(["joint Cox", *alike])
        assert str(alike) in str(error.value)
