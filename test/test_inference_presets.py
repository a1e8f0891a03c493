"""Other challenges through the same door: each is a preset, and no code."""

import json
from pathlib import Path

import pytest
from job_files import MASK, PRESETS, SLIDE, socket_item, write_inputs
from jobs import run_door, write_job
from small_bundles import build_bundle


@pytest.fixture
def leopard_job(tmp_path: Path, contents: dict[str, object]) -> Path:
    job = tmp_path / "input"
    items = []
    for slug, path, content in (
        ("prostatectomy-tissue-whole-slide-image", "images/prostatectomy-wsi", SLIDE),
        ("prostatectomy-tissue-mask", "images/prostatectomy-tissue-mask", MASK),
    ):
        (job / path).mkdir(parents=True)
        (job / path / "1.tif").symlink_to(str(contents[content]))
        items.append(socket_item(slug, path))
    write_inputs(job, items)
    return job


def test_leopard_is_answered_in_years(
    tmp_path: Path, leopard_job: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = {}
    for unit in ("months", "years"):
        bundle = tmp_path / f"{unit}.safetensors"
        build_bundle(modalities=("slide",), unit=unit, interface="leopard").save(bundle)
        output = tmp_path / unit
        outcome = run_door(capfd, leopard_job, output, "--bundle", bundle)
        assert (outcome.code, outcome.err) == (0, "")
        (path,) = output.iterdir()
        assert path.name == "overall-survival-years.json"
        values[unit] = json.loads(path.read_text())
    # The same mapping, once told in months and once in years.
    assert values["months"] == pytest.approx(values["years"] / 12, rel=1e-12)


def test_a_preset_beside_the_bundle_is_a_challenge_of_its_own(
    tmp_path: Path, contents: dict[str, object], capfd: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path / "input", contents)
    preset = json.loads((PRESETS / "chimera_task3.json").read_text())
    preset["name"] = "another"
    preset["output"] = {"path": "risk.json", "unit": "months", "direction": "risk"}
    (tmp_path / "another.json").write_text(json.dumps(preset))
    bundle = build_bundle(interface="another")
    bundle.save(tmp_path / "bundle.safetensors")
    options = ("--bundle", tmp_path / "bundle.safetensors")
    outcome = run_door(capfd, job, tmp_path / "output", *options)
    assert (outcome.code, outcome.err) == (0, "")
    (path,) = (tmp_path / "output").iterdir()
    assert path.name == "risk.json"
    time = bundle.mapping.time([json.loads(path.read_text())])[0]
    assert f"{time:.1f} months" in outcome.out
