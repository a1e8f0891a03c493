"""Interface presets: what the shipped files hold, and what a preset may not say."""

import json
from pathlib import Path
from typing import Any

import pytest

from model.errors import ConfigError
from model.interface import Interface, Output, read_interface

SHARED = Path(__file__).parents[2] / "shared" / "data" / "chimera"
PRESETS = Path(__file__).parents[1] / "resources" / "interfaces"

# slug: (modality, path, required, the slide that it belongs to), as the organisers' code has them
CHIMERA_SOCKETS = {
    "bladder-cancer-tissue-biopsy-whole-slide-image": (
        "slide",
        "images/bladder-cancer-tissue-biopsy-wsi",
        False,
        None,
    ),
    "tissue-mask": (
        "mask",
        "images/tissue-mask",
        False,
        "bladder-cancer-tissue-biopsy-whole-slide-image",
    ),
    "bulk-rna-seq-bladder-cancer": ("rna", "bulk-rna-seq-bladder-cancer.json", False, None),
    "chimera-clinical-data-of-bladder-cancer-recurrence": (
        "clinical",
        "chimera-clinical-data-of-bladder-cancer-recurrence-patients.json",
        False,
        None,
    ),
}
LEOPARD_SOCKETS = {
    "prostatectomy-tissue-whole-slide-image": ("slide", "images/prostatectomy-wsi", True, None),
    "prostatectomy-tissue-mask": (
        "mask",
        "images/prostatectomy-tissue-mask",
        False,
        "prostatectomy-tissue-whole-slide-image",
    ),
}


def sockets(interface: Interface) -> dict[str, tuple[str, str, bool, str | None]]:
    return {s.slug: (s.modality, s.path, s.required, s.slide) for s in interface.sockets}


def test_chimera_task3_holds_the_challenges_contract() -> None:
    interface = read_interface("chimera_task3", [PRESETS])
    assert interface.name == "chimera_task3"
    assert sockets(interface) == CHIMERA_SOCKETS
    assert interface.default_mpp == 0.25
    output = interface.output
    assert output.path == "likelihood-of-bladder-cancer-recurrence.json"
    assert (output.unit, output.direction) == ("months", "time")
    clinical = interface.clinical
    assert set(clinical.numbers) == {"age", "no_instillations"}
    assert set(clinical.categories) == {
        "sex", "smoking", "tumor", "stage", "substage", "grade", "reTUR", "LVI", "variant", "EORTC",
        "BRS",
    }  # fmt: skip
    assert clinical.labels == {
        "event", "time", "progression", "time_to_prog_or_fuend", "time_to_hg_recur_or_fuend",
    }  # fmt: skip
    assert set(clinical.missing) >= {
        "-1", "-1.0", "na", "n/a", "nan", "none", "unknown", "unk", "", "?",
    }  # fmt: skip


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not here")
def test_the_columns_are_those_of_the_real_records() -> None:
    real = json.loads((SHARED / "clinical_schema.json").read_text())
    clinical = read_interface("chimera_task3", [PRESETS]).clinical
    assert set(clinical.numbers) == set(real["numeric_147_train"])
    assert set(clinical.categories) == set(real["categories"])
    others = set(real["json_keys_in_order"]) - {*clinical.numbers, *clinical.categories}
    assert {key.lower() for key in others} <= clinical.labels


def test_leopard_holds_the_challenges_contract() -> None:
    interface = read_interface("leopard", [PRESETS])
    assert interface.name == "leopard"
    assert sockets(interface) == LEOPARD_SOCKETS
    output = interface.output
    assert output.path == "overall-survival-years.json"
    assert (output.unit, output.direction) == ("years", "time")
    assert interface.clinical.labels == {"event", "time"}


def test_every_shipped_preset_is_valid_and_named_by_its_file() -> None:
    names = [path.stem for path in sorted(PRESETS.glob("*.json"))]
    assert {"chimera_task3", "leopard"} <= set(names)
    for name in names:
        assert read_interface(name, [PRESETS]).name == name


def test_sockets_of_a_modality_keep_the_files_order() -> None:
    interface = Interface.model_validate(preset())
    assert [socket.slug for socket in interface.of("slide")] == ["slide-b", "slide-a"]
    assert [socket.slug for socket in interface.of("mask")] == ["mask-a"]
    assert interface.of("rna") == ()


def test_the_first_folder_that_has_the_preset_wins(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    for folder in (own, other):
        folder.mkdir()
        write(folder / "toy.json", preset(endpoint=f"time to {folder.name}"))
    assert read_interface("toy", [tmp_path / "none", own, other]).endpoint == "time to own"


def preset(**changes: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "endpoint": "time to nothing",
        "sockets": [
            {"slug": "mask-a", "modality": "mask", "path": "m", "slide": "slide-a"},
            {"slug": "slide-b", "modality": "slide", "path": "b"},
            {"slug": "slide-a", "modality": "slide", "path": "a"},
        ],
        "output": {"path": "answer.json", "unit": "months", "direction": "time"},
    } | changes


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


SLIDE = {"slug": "s", "modality": "slide", "path": "s"}
MASK = {"slug": "mask-c", "modality": "mask", "path": "m"}
OUTPUT = {"path": "answer.json", "unit": "months", "direction": "time"}
INVALID = {
    "mask without a slide": (
        preset(sockets=[MASK]),
        "mask mask-c names no slide socket: None",
    ),
    "mask of an unknown slide": (
        preset(sockets=[MASK | {"slide": "slide-z"}]),
        "mask mask-c names no slide socket: slide-z",
    ),
    "mask of another modality": (
        preset(sockets=[{"slug": "r", "modality": "rna", "path": "r"}, MASK | {"slide": "r"}]),
        "mask mask-c names no slide socket: r",
    ),
    "one slug twice": (
        preset(sockets=[SLIDE, SLIDE | {"path": "s2"}]),
        "the file: expected each slug once, found more of s",
    ),
    "one path twice": (
        preset(sockets=[SLIDE, SLIDE | {"slug": "s2"}]),
        "the file: expected each path once, found more of s",
    ),
    "two masks of a slide": (
        preset(
            sockets=[
                SLIDE,
                *({"slug": m, "path": m, "modality": "mask", "slide": "s"} for m in "mn"),
            ]
        ),
        "the file: expected each slide of a mask once, found more of s",
    ),
    "a slide's slide": (
        preset(sockets=[SLIDE, SLIDE | {"slug": "t", "path": "t", "slide": "s"}]),
        "the file: t is no mask, and names a slide: s",
    ),
    "two records": (
        preset(sockets=[{"slug": c, "modality": "clinical", "path": c} for c in ("record", "lab")]),
        "the file: expected one clinical socket, found record, lab",
    ),
    "a column of two kinds": (
        preset(clinical={"numbers": ["PSA"], "categories": ["psa"]}),
        "clinical: expected each column once, found more of psa",
    ),
    "label as a number": (
        preset(clinical={"numbers": ["age", "Months"], "time": ["months"]}),
        "clinical: label keys used as columns: months",
    ),
    "label as a category": (
        preset(clinical={"categories": ["progression"], "event": ["PROGRESSION"]}),
        "clinical: label keys used as columns: progression",
    ),
    "a sentence without its value": (
        preset(clinical={"numbers": ["age"], "sentences": {"age": {"known": "x", "missing": "y"}}}),
        "clinical.sentences.age.known: expected {value} in the sentence, found 'x'",
    ),
    "a sentence of no column": (
        preset(
            clinical={
                "numbers": ["age"],
                "sentences": {"Grade": {"known": "Grade {value}.", "missing": "No grade."}},
            }
        ),
        "clinical: sentences of no column: Grade",
    ),
    "unknown field": (preset(colour="blue"), "colour: Extra inputs are not permitted"),
    "unknown field of a socket": (
        preset(sockets=[{"slug": "s", "modality": "slide", "path": "s", "optional": True}]),
        "sockets.0.optional: Extra inputs are not permitted",
    ),
    "unknown modality": (
        preset(sockets=[{"slug": "s", "modality": "mri", "path": "s"}]),
        "sockets.0.modality: expected 'slide', 'mask', 'rna' or 'clinical'",
    ),
    "unknown unit": (
        preset(output=OUTPUT | {"unit": "days"}),
        "output.unit: expected 'months' or 'years'",
    ),
    "another's name": (preset(name="leopard"), "name: expected 'toy', found 'leopard'"),
    "impossible mpp": (preset(default_mpp=0), "default_mpp: expected greater than 0"),
    "a list": ([], "the file: expected an object"),
}


@pytest.mark.parametrize(("content", "message"), INVALID.values(), ids=INVALID)
def test_an_invalid_preset_is_one_line(tmp_path: Path, content: object, message: str) -> None:
    write(tmp_path / "toy.json", content)
    with pytest.raises(ConfigError) as caught:
        read_interface("toy", [tmp_path])
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'toy.json'}: ")
    assert message in text
    assert "\n" not in text


def test_a_preset_that_is_not_json_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "toy.json").write_text('{"name": ')
    with pytest.raises(ConfigError, match=r"^.*toy\.json: the file: Invalid JSON: [^\n]*$"):
        read_interface("toy", [tmp_path])


def test_an_absent_preset_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_interface("toy", [tmp_path, PRESETS])
    assert str(caught.value) == (
        f"interface 'toy': expected toy.json in {tmp_path}, {PRESETS}, found none"
    )


@pytest.mark.parametrize("path", ["/etc/out.json", "../out.json", "a/../../out.json"])
def test_an_answer_lies_in_the_output_folder(path: str) -> None:
    with pytest.raises(ValueError, match="expected a path within the output folder"):
        Output(path=path, unit="months", direction="time")
