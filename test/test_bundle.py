"""Bundles: the round trip, what members answer, the manifest on the command line."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from job_files import no_warning
from toy_bundles import CLINICAL, CLINICAL_TEXT, MAPPING, RNA, bundle_with, make_bundle
from toy_fusions import DIMS, NAMES, TOY_SETTINGS, toy_cases

from model.batch import Bag, Batch, CaseInputs, collate
from model.bundle import Bundle, Manifest, read_manifest
from model.case import Case, Record
from model.clinical import ClinicalRange, NumberRange
from model.encoders import ENCODERS
from model.errors import BundleError, ConfigError
from model.fusion import Fusion, FusionConfig, build_fusion
from model.member import Member
from model.patches import PatchSpec
from model.predictor import Predictor

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


def a_case() -> Case:
    genes: dict[str, object] = {gene: 4.0 + index for index, gene in enumerate(RNA.genes)}
    return Case(
        case_id="3A_001",
        rna=Record(genes, Path("rna.json")),
        clinical=Record({"age": 72, "stage": "T1HG"}, Path("clinical.json")),
    )


def a_bag() -> Bag:
    (case,) = toy_cases(5)
    assert case.bag is not None and case.coords is not None
    return Bag(case.bag, case.coords, torch.zeros(5, dtype=torch.int64))


def risks(bundle: Bundle, bag: Bag | None = None) -> list[list[float]]:
    """Return every member's risks of a case with and without RNA."""
    whole, no_rna = a_case(), replace(a_case(), rna=None)
    rows = []
    for member in bundle.members:
        inputs = [member.inputs(case, bag, warn=no_warning) for case in (whole, no_rna)]
        rows.append(member.risk(member.collate(inputs)).tolist())
    return rows


# --- round trip -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_bundle_is_the_one_that_was_saved(tmp_path: Path, name: str) -> None:
    saved = make_bundle(name)
    path = tmp_path / "new" / "bundle.safetensors"
    saved.save(path)
    assert list(path.parent.iterdir()) == [path]
    loaded = Bundle.load(path)

    assert loaded.manifest == saved.manifest == read_manifest(path)
    expected = risks(saved, a_bag())
    assert risks(loaded, a_bag()) == expected
    uses_rna = "rna" in saved.members[0].fusion.config.modalities
    answers = {round(value, 5) for row in expected for value in row}
    assert len(answers) == (4 if uses_rna else 2)
    there = MAPPING.time([-2.0, 0.0, 3.0]).tolist()
    assert loaded.mapping.time([-2.0, 0.0, 3.0]).tolist() == there
    assert not any(member.fusion.training for member in loaded.members)
    for old, new in zip(saved.members, loaded.members, strict=True):
        assert new.rna is not None
        assert new.rna.genes == RNA.genes
        assert new.rna.mean.tolist() == RNA.mean.tolist()
        assert new.rna.sd.tolist() == RNA.sd.tolist()
        assert (new.rna.scale, new.rna.max_missing) == ("log", 0.2)
        assert new.clinical == CLINICAL
        assert new.clinical_text is not None
        assert new.clinical_text.spec == CLINICAL_TEXT.spec
        assert new.clinical_text.vectors.tolist() == CLINICAL_TEXT.vectors.tolist()
        assert (new.risk_mean, new.risk_sd) == (old.risk_mean, old.risk_sd)


def test_a_bundle_of_one_modality(tmp_path: Path) -> None:
    settings = TOY_SETTINGS["concat"] | {"modalities": ["clinical"]}
    unused: dict[str, Any] = {
        "embedding": 0,
        "genes": 0,
        "gene_sets": {},
        "clinical_tokens": (0, 0),
    }
    dims = DIMS.model_copy(update=unused)
    member = Member(build_fusion("concat", settings, dims).eval(), None, CLINICAL, 0.0, 1.0)
    changes = {"settings": settings, "members": (member.manifest(),)}
    saved = Bundle(make_bundle("concat", **changes).manifest, (member,), MAPPING)
    path = tmp_path / "bundle.safetensors"
    saved.save(path)
    loaded = Bundle.load(path)
    assert loaded.members[0].rna is None
    assert risks(loaded) == risks(saved)


def test_the_range_of_the_clinical_numbers_travels_along(tmp_path: Path) -> None:
    path = tmp_path / "bundle.safetensors"
    ages = ClinicalRange(numbers=(NumberRange(name="age", least=31.5, most=92),), missing=("-1",))
    make_bundle("concat", clinical_range=ages).save(path)
    assert Bundle.load(path).manifest.clinical_range == ages
    make_bundle("concat").save(path)
    assert Bundle.load(path).manifest.clinical_range is None


def test_an_encoder_and_its_patches_travel_along(tmp_path: Path) -> None:
    path = tmp_path / "bundle.safetensors"
    # Whoever brings weights pins their sha256; the rest of the spec is this program's.
    mine = ENCODERS["uni"].model_copy(update={"weights_sha256": "0" * 64})
    patches = PatchSpec(mpp=0.5)
    bundle_with(mine.model_dump(), width=mine.width, patches=patches).save(path)
    manifest = Bundle.load(path).manifest
    assert manifest.encoder == mine
    assert manifest.patches == patches


@pytest.mark.parametrize("text", ["home", "paper", "licence"])
def test_a_bundle_outlives_an_address_that_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = tmp_path / "bundle.safetensors"
    uni = ENCODERS["uni"]
    bundle_with(uni.model_dump(), width=uni.width).save(path)
    monkeypatch.setitem(ENCODERS, "uni", uni.model_copy(update={text: "elsewhere"}))
    assert Bundle.load(path).manifest.encoder == uni
    monkeypatch.setitem(ENCODERS, "uni", uni.model_copy(update={"interpolation": "bicubic"}))
    with pytest.raises(BundleError, match="found another preprocessing or architecture"):
        Bundle.load(path)


def test_a_bundle_that_may_not_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As safetensors puts it."""
    path = tmp_path / "bundle.safetensors"
    path.touch()
    monkeypatch.setattr("model.bundle.safe_open", Mock(side_effect=FileNotFoundError("No such")))
    with pytest.raises(BundleError, match=r"expected safetensors with a manifest, found No such$"):
        read_manifest(path)


def test_saving_replaces_the_bundle_before(tmp_path: Path) -> None:
    path = tmp_path / "bundle.safetensors"
    make_bundle("concat").save(path)
    make_bundle("pairwise").save(path)
    assert read_manifest(path).fusion == "pairwise"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_save_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bundle.safetensors"
    make_bundle("concat").save(path)

    def full_disk(tensors: object, target: Path, metadata: object) -> None:
        target.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("model.bundle.save_file", full_disk)
    with pytest.raises(ConfigError, match="expected a folder to write in, found No space left"):
        make_bundle("pairwise").save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert read_manifest(path).fusion == "concat"


# --- members --------------------------------------------------------------------------------------


class Constant(Fusion):
    """Answers the first clinical column, times two."""

    Config = FusionConfig

    def forward(self, batch: Batch) -> torch.Tensor:
        return 2 * batch.clinical[:, :1]


def test_a_members_risk_is_a_z_score() -> None:
    member = Member(Constant(FusionConfig(), DIMS), None, None, risk_mean=3.0, risk_sd=0.5)
    cases = [CaseInputs(clinical=torch.tensor([value, 9.0, 9.0, 9.0])) for value in (1.0, 4.0)]
    # (2 · 1 - 3) / 0.5 and (2 · 4 - 3) / 0.5
    assert member.risk(collate(cases, DIMS)).tolist() == [-2.0, 10.0]


def test_the_ensemble_averages_z_scores() -> None:
    bundle = make_bundle("concat")
    members = tuple(
        Member(Constant(FusionConfig(), DIMS), RNA, CLINICAL, risk_mean=mean, risk_sd=sd)
        for mean, sd in [(0.0, 1.0), (1.0, 4.0), (-1.0, 0.5)]
    )
    predictor = Predictor(replace(bundle, members=members), weights_dirs=(), device=CPU)
    age = (72 - 70) / 9
    expected = np.mean([2 * age, (2 * age - 1) / 4, (2 * age + 1) / 0.5])
    risk = predictor.risk(a_case(), a_bag(), warn=no_warning)
    assert risk == pytest.approx(expected, rel=1e-6)


def test_what_members_say_with_numbers_of_their_own_is_read_once() -> None:
    """An age of 7,200 lies far from each member's own mean; a cohort's range is known once."""
    bundle = make_bundle("concat")
    column = CLINICAL.numbers[0]
    members = tuple(
        replace(
            member,
            clinical=CLINICAL.model_copy(
                update={"numbers": (column.model_copy(update={"mean": mean}),)}
            ),
        )
        for member, mean in zip(bundle.members, (71.25, 69.5), strict=True)
    )
    ages = ClinicalRange(numbers=(NumberRange(name="age", least=31, most=92),), missing=("-1",))
    record = Record({"age": 7200, "stage": "T4"}, Path("clinical.json"))
    case = replace(a_case(), clinical=record)
    said = {}
    for clinical_range in (None, ages):
        manifest = bundle.manifest.model_copy(update={"clinical_range": clinical_range})
        whole = replace(bundle, manifest=manifest, members=members)
        predictor = Predictor(whole, weights_dirs=(), device=CPU)
        warnings: list[str] = []
        predictor.risk(case, a_bag(), warn=warnings.append)
        said[clinical_range] = warnings
    of_members = [
        "clinical.json: age: 7200 lies more than 10 sd from the training mean 69.5 to 71.2",
        "clinical.json: stage: expected one of t1hg, found 'T4'",
        "clinical.json: age: no sentence for 7200; that for 73 is used",
    ]
    assert said[None] == of_members
    outside = "clinical.json: age: 7200 is outside 31 to 92, the range of the training cohort"
    assert said[ages] == [outside, *of_members]


# --- the manifest on the command line -------------------------------------------------------------


def print_manifest(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what `python -m model.bundle PATH` does, without loading PyTorch once more."""
    monkeypatch.setattr(sys, "argv", ["bundle.py", str(path)])
    runpy.run_path(str(ROOT / "model" / "bundle.py"), run_name="__main__")


def test_the_manifest_can_be_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bundle.safetensors"
    bundle = make_bundle("concat")
    bundle.save(path)
    print_manifest(path, monkeypatch)
    printed = capsys.readouterr()
    assert Manifest.model_validate_json(printed.out) == bundle.manifest
    assert json.loads(printed.out)["provenance"]["metrics"] == {"c_index": 0.625}
    assert printed.err == ""


def test_what_to_print_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bundle.py"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "model" / "bundle.py"), run_name="__main__")
    assert "required: path" in capsys.readouterr().err


def test_printing_what_is_no_bundle_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none.safetensors"
    with pytest.raises(SystemExit) as caught:
        print_manifest(path, monkeypatch)
    # A text as exit status goes to stderr, and the status is 1.
    assert caught.value.code == f"{path}: expected a bundle, found no file"
    assert capsys.readouterr().out == ""
