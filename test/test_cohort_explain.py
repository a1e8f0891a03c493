"""Cohorts with explanations: of the bundle and the slides that the results are of."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cohorts import read_predictions, score, scorer, write_records
from mean_colour import write_tissue
from small_bundles import build_bundle

from model.cohort import Cohort, Counts
from model.files import sha256_of

pytestmark = pytest.mark.usefixtures("quick_page")


def kept(cohort: Cohort, bundle: Path, why: Path) -> int:
    """Score and explain, and return how many results were taken as they were."""
    counts: Counts = score(cohort, scorer(bundle, explain=why))
    return counts.kept


@pytest.mark.slow
def test_explanations_of_another_bundle_are_made_again(tmp_path: Path) -> None:
    manifest = write_records(tmp_path / "data", 2)
    why, out = tmp_path / "why", tmp_path / "out"
    bundle = build_bundle(modalities=("clinical",))
    paths = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    bundle.save(paths[0])
    lone = bundle.manifest.model_copy(update={"members": bundle.manifest.members[:1]})
    replace(bundle, manifest=lone, members=bundle.members[:1]).save(paths[1])
    kept(Cohort(manifest, tmp_path / "other"), paths[0], why)
    cohort = Cohort(manifest, out)
    score(cohort, scorer(paths[1]))

    assert kept(cohort, paths[1], why) == 0
    for row in read_predictions(out):
        found = json.loads((why / row["case_id"] / "explanation.json").read_text())
        assert found["bundle_sha256"] == sha256_of(paths[1])
        assert found["risk"] == pytest.approx(float(row["risk"]), abs=1e-9)
    assert kept(cohort, paths[1], why) == 2
    (why / "C001" / "explanation.json").write_text("[]")
    assert kept(cohort, paths[1], why) == 1


@pytest.mark.slow
def test_nothing_is_left_of_an_earlier_explanation(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.safetensors"
    build_bundle(modalities=("slide",)).save(bundle)
    for name in ("one", "two"):
        write_tissue(tmp_path / f"{name}.mha", seed=0, side_px=150)
    cohort = Cohort(tmp_path / "manifest.csv", tmp_path / "out", overwrite=True)
    folder = tmp_path / "why" / "C0"

    def files_with(slide: str) -> set[str]:
        cohort.manifest.write_text(f"case_id,slide\nC0,{slide}.mha\n")
        kept(cohort, bundle, tmp_path / "why")
        return {path.name for path in folder.iterdir()}

    others = {"contributions.png", "explanation.json", "leading_patches.png"}
    assert files_with("one") == {"attention_1_one.png", "attention_1_one.geojson", *others}
    (folder / "my notes.txt").touch()
    others |= {"my notes.txt"}
    assert files_with("two") == {"attention_1_two.png", "attention_1_two.geojson", *others}
    assert files_with("absent") == {"my notes.txt"}
