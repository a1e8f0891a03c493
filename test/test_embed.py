"""Bags on disk: what is in them, when they are made again, and what a killed run leaves."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from cohorts import INLINE
from mean_colour import PATCHES, SPEC, mean_colour, write_tissue
from safetensors import safe_open
from synthetic import no_warning, write_mha

from model import bags
from model.bags import SlideEmbedder, bag_path, identify, read_bag
from model.case import Case, SlideFile
from model.cohort_local import local_workers
from model.cohort_workers import Workforce
from model.encoder import Encoder, load_encoder
from model.encoders import ENCODERS, EncoderSpec
from model.errors import ConfigError, Warn
from model.fusion.base import FusionConfig
from train import embed
from train.cohort import LabelledCase
from train.config import EmbedConfig, TrainConfig
from train.dataset import Bags
from train.embed import CaseEmbedder, embed_cohort, embed_in_parallel

KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from safetensors.torch import save
import model.bundle
from test_embed import make_bags, make_cases

def die_while_writing(tensors, path, metadata):
    if path.name.startswith("C2"):
        path.write_bytes(save(tensors, metadata)[:-100])
        os.kill(os.getpid(), signal.SIGKILL)
    real(tensors, path, metadata)

real, model.bundle.save_file = model.bundle.save_file, die_while_writing
folder = Path(sys.argv[1])
make_bags(make_cases(folder), folder / "bags")
"""


def make_cases(folder: Path, n: int = 4) -> list[Case]:
    """Write slides and return cases, the second of two slides, the last of none."""
    cases = []
    for i in range(n):
        names = [f"C{i}_{part}.mha" for part in range((1, 2, 1, 0)[i])]
        for part, name in enumerate(names):
            if not (folder / name).exists():
                write_tissue(folder / name, seed=10 * i + part)
        cases.append(Case(f"C{i}", tuple(SlideFile(folder / name) for name in names)))
    return cases


def make_bags(cases: list[Case], directory: Path, *, warn: Warn = no_warning) -> None:
    maker = SlideEmbedder(mean_colour(), PATCHES, FusionConfig())
    embed_cohort(cases, maker, directory, warn=warn, progress=lambda done, total: None)


def states(directory: Path) -> dict[str, int]:
    """Return the inode of each file: a bag that is made again is another file."""
    return {path.name: path.stat().st_ino for path in directory.iterdir()}


# -- contents --------------------------------------------------------------------------------------


def test_a_bag_holds_the_embedding_of_each_patch_of_each_slide(tmp_path: Path) -> None:
    pixels = [write_tissue(tmp_path / name, seed) for seed, name in enumerate(("a.mha", "b.mha"))]
    case = Case("C", (SlideFile(tmp_path / "a.mha"), SlideFile(tmp_path / "b.mha")))
    make_bags([case], tmp_path / "bags")
    bag = read_bag(bag_path(tmp_path / "bags", "C"), SPEC, PATCHES)
    assert len(bag.embeddings) == 18
    assert bag.slide_index.tolist() == [0] * 9 + [1] * 9
    for embedding, (x, y), slide in zip(
        bag.embeddings, bag.coords.tolist(), bag.slide_index.tolist(), strict=True
    ):
        patch = pixels[slide][y : y + 32, x : x + 32]
        np.testing.assert_allclose(embedding, patch.mean(axis=(0, 1)) / 255, rtol=1e-5)


def test_a_case_without_a_slide_has_no_bag(tmp_path: Path) -> None:
    make_bags(make_cases(tmp_path), tmp_path / "bags")
    assert sorted(states(tmp_path / "bags")) == [f"C{i}.safetensors" for i in range(3)]


def test_the_stamp_tells_all_that_a_bag_is_made_of(tmp_path: Path) -> None:
    cases = make_cases(tmp_path, 2)
    make_bags(cases, tmp_path / "bags")
    with safe_open(bag_path(tmp_path / "bags", "C1"), framework="pt") as file:
        stamp = json.loads(file.metadata()["stamp"])
    assert stamp == {
        "encoder": SPEC.model_dump(mode="json"),
        "patches": PATCHES.model_dump(mode="json"),
        "sources": [identify(tmp_path / "C1_0.mha"), identify(tmp_path / "C1_1.mha")],
        "warnings": [],
    }


def test_a_bag_keeps_what_was_said_while_it_was_made(tmp_path: Path) -> None:
    (case, *_) = make_cases(tmp_path)
    write_mha(tmp_path / "mask.mha", np.ones((40, 20), dtype=np.uint8))
    masked = Case("C0", (SlideFile(case.slides[0].path, tmp_path / "mask.mha"),))
    warnings: list[str] = []
    make_bags([masked], tmp_path / "bags", warn=warnings.append)
    stretched = "mask.mha: 20 x 40 pixels, stretched over a slide of 96 x 96"
    assert warnings == [f"{tmp_path}/{stretched}"]
    stamp = bags.read_stamp(bag_path(tmp_path / "bags", "C0"))
    assert stamp is not None
    assert stamp.warnings == [stretched]


# -- what is made again ----------------------------------------------------------------------------


def test_nothing_is_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = make_cases(tmp_path)
    make_bags(cases, tmp_path / "bags")
    before = states(tmp_path / "bags")
    moved = tmp_path / "moved"  # the cohort may move to another folder
    moved.mkdir()
    for path in tmp_path.glob("*.mha"):
        path.rename(moved / path.name)
    monkeypatch.setattr(bags, "embed_case", None)
    make_bags(make_cases(moved, 3), tmp_path / "bags")
    assert states(tmp_path / "bags") == before


def test_a_changed_slide_is_embedded_again(tmp_path: Path) -> None:
    cases = make_cases(tmp_path)
    make_bags(cases, tmp_path / "bags")
    before = states(tmp_path / "bags")
    pixels = write_tissue(tmp_path / "C1_1.mha", seed=99)
    warnings: list[str] = []
    make_bags(cases, tmp_path / "bags", warn=warnings.append)
    path = bag_path(tmp_path / "bags", "C1")
    assert warnings == [f"{path}: made of other files than the case has now; it is made again"]
    after = states(tmp_path / "bags")
    assert [name for name in before if before[name] != after[name]] == ["C1.safetensors"]
    bag = read_bag(path, SPEC, PATCHES)
    np.testing.assert_allclose(
        bag.embeddings[9], pixels[:32, :32].mean(axis=(0, 1)) / 255, rtol=1e-5
    )


def test_a_new_mask_is_another_bag(tmp_path: Path) -> None:
    (case, *_) = make_cases(tmp_path)
    make_bags([case], tmp_path / "bags")
    mask = np.zeros((96, 96), dtype=np.uint8)
    mask[:32, 32:64] = 1
    write_mha(tmp_path / "mask.mha", mask)
    masked = Case("C0", (SlideFile(case.slides[0].path, tmp_path / "mask.mha"),))
    warnings: list[str] = []
    make_bags([masked], tmp_path / "bags", warn=warnings.append)
    assert len(warnings) == 1
    bag = read_bag(bag_path(tmp_path / "bags", "C0"), SPEC, PATCHES)
    assert bag.coords.tolist() == [[32, 0]]


def test_bags_stay_when_the_slides_are_gone(tmp_path: Path) -> None:
    cases = make_cases(tmp_path)
    make_bags(cases, tmp_path / "bags")
    before = states(tmp_path / "bags")
    for path in tmp_path.glob("*.mha"):
        path.unlink()
    make_bags(cases, tmp_path / "bags")
    make_bags([Case(case.case_id) for case in cases], tmp_path / "bags")
    assert states(tmp_path / "bags") == before


@pytest.mark.parametrize("other", ["encoder", "patches"])
def test_bags_of_other_settings_are_refused(tmp_path: Path, other: str) -> None:
    cases = make_cases(tmp_path)
    make_bags(cases, tmp_path / "bags")
    path = bag_path(tmp_path / "bags", "C0")
    spec = SPEC.model_copy(update={"weights_sha256": "1" * 64}) if other == "encoder" else SPEC
    patches = PATCHES.model_copy(update={"stride_px": 16}) if other == "patches" else PATCHES
    named = f"encoder.weights_sha256={SPEC.weights_sha256} not {'1' * 64}"
    if other == "patches":
        named = f"patches.stride_px={PATCHES.stride_px} not 16"
    message = (
        f"{path}: expected a bag of encoder mean_colour at 1 µm/px, found one made with other "
        f"settings ({named}); use another folder"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        read_bag(path, spec, patches)
    maker = SlideEmbedder(
        mean_colour(), PATCHES.model_copy(update={"stride_px": 16}), FusionConfig()
    )
    with pytest.raises(ConfigError, match="found one made with other settings"):
        embed_cohort(cases, maker, path.parent, warn=no_warning, progress=lambda *_: None)


@pytest.mark.parametrize("content", [b"", b"not a bag at all, but long enough"])
def test_a_file_that_is_no_bag_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "C0.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="^" + re.escape(f"{path}: expected a bag, found")):
        read_bag(path, SPEC, PATCHES)


# -- failures --------------------------------------------------------------------------------------


def test_a_case_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    cases = make_cases(tmp_path)
    (tmp_path / "C0_0.mha").write_bytes(b"no slide")
    (tmp_path / "C1_1.mha").unlink()
    warnings: list[str] = []
    message = "^expected a bag of each case, but 2 of 4 failed: C0, C1; the first, case C0: "
    with pytest.raises(ConfigError, match=message):
        make_bags(cases, tmp_path / "bags", warn=warnings.append)
    assert [text.partition(":")[0] for text in warnings] == ["case C0", "case C1"]
    assert list(states(tmp_path / "bags")) == ["C2.safetensors"]


def test_a_folder_that_cannot_be_made_or_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = make_cases(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/bags: expected a folder to write in, found Not a"):
        make_bags(cases, tmp_path / "file" / "bags")

    full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr("model.bundle.save_file", full)
    with pytest.raises(ConfigError, match=r"bags: expected a folder to write in, found No space"):
        make_bags(cases, tmp_path / "bags")


def test_a_part_of_a_bag_does_not_count(tmp_path: Path) -> None:
    (case, *_) = make_cases(tmp_path)
    make_bags([case], tmp_path / "bags")
    path = bag_path(tmp_path / "bags", "C0")
    whole = path.read_bytes()
    path.unlink()
    part = path.with_name(path.name + ".0.part")
    part.write_bytes(whole[:-100])
    make_bags([case], tmp_path / "bags")
    assert path.read_bytes() == whole
    assert sorted(states(tmp_path / "bags")) == [path.name, part.name]


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    cases = make_cases(killed)
    test_dir = Path(__file__).parent
    found = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, killed],
        env=os.environ | {"PYTHONPATH": f"{test_dir}:{test_dir.parent}"},
        check=False,
    )
    assert found.returncode == -signal.SIGKILL
    before = states(killed / "bags")
    (part,) = (killed / "bags").glob("*.part")
    assert sorted(before) == ["C0.safetensors", "C1.safetensors", part.name]
    assert part.match("C2.safetensors.*.part")

    part.unlink()  # as `remove_parts` does the day after
    make_bags(cases, killed / "bags")
    after = states(killed / "bags")
    assert sorted(after) == ["C0.safetensors", "C1.safetensors", "C2.safetensors"]
    assert all(after[name] == before[name] for name in ("C0.safetensors", "C1.safetensors"))
    make_bags(make_cases(whole), whole / "bags")
    for name in after:
        assert (killed / "bags" / name).read_bytes() == (whole / "bags" / name).read_bytes()


# -- of a run --------------------------------------------------------------------------------------


def run_config(folder: Path, modality: str, **cohort: object) -> TrainConfig:
    content = {
        "output": folder / "run",
        "cohort": {"root": folder / "cases.csv", "bags": folder / "bags", **cohort},
        "encoder": {"weights": [folder / "weights"]},
        "fusion": {"name": "concat", "settings": {"modalities": [modality], "optional": []}},
        "patches": PATCHES.model_dump(),
    }
    return TrainConfig.model_validate(content)


def bags_of_a_run(config: TrainConfig, cases: list[Case]) -> Bags:
    labelled = [LabelledCase(case, event=True, time=1.0, centre="") for case in cases]
    return embed.make_bags(config, labelled, warn=no_warning, progress=lambda *_: None)


def test_a_run_embeds_slides_where_its_fusion_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, ...]] = []

    def load(spec: EncoderSpec, *, weights_dirs: tuple[Path, ...], device: torch.device) -> Encoder:
        asked.append(weights_dirs)
        return mean_colour()

    monkeypatch.setattr(embed, "load_encoder", load)
    cases = make_cases(tmp_path, 2)
    bags_of_a_run(run_config(tmp_path, "rna"), cases)
    assert not (tmp_path / "bags").exists()
    found = bags_of_a_run(run_config(tmp_path, "slide"), cases)
    assert asked == [(tmp_path / "weights",)]
    make_bags(cases, tmp_path / "expected")
    assert same_bags(tmp_path / "bags", tmp_path / "expected")
    bag = found.get("C1")
    assert bag is not None and len(bag.embeddings) == 18


def test_a_run_takes_bags_of_another_program_in_place_of_slides(tmp_path: Path) -> None:
    spec = ENCODERS["efficientnet_lite0"]
    features = torch.randn(3, spec.width)
    (tmp_path / "foreign").mkdir()
    torch.save(features, tmp_path / "foreign" / "C0_0.pt")
    (case, *_) = make_cases(tmp_path)
    config = run_config(tmp_path, "slide", foreign_bags=tmp_path / "foreign")
    labelled = [LabelledCase(case, event=True, time=1.0, centre="")]
    taken = embed.make_bags(config, labelled, warn=lambda text: None, progress=lambda *_: None)
    bag = taken.get("C0")
    assert bag is not None
    assert torch.equal(bag.embeddings, features)


# -- identity --------------------------------------------------------------------------------------


def test_any_byte_of_a_small_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    content = bytearray(np.random.default_rng(0).bytes(bags.SAMPLES * bags.SAMPLE_BYTES))
    path.write_bytes(content)
    seen = {str(identify(path))}
    for place in range(0, len(content), len(content) // 50):
        content[place] ^= 1
        path.write_bytes(content)
        seen.add(str(identify(path)))
    path.write_bytes(content[:-1])
    seen.add(str(identify(path)))
    assert len(seen) == 1 + 51 + 1


def test_a_name_that_is_no_utf8_can_be_stamped(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.tif")
    path.write_bytes(b"slide")
    assert identify(path)["name"] == "caf\\udce9.tif"


def test_a_large_file_is_told_by_its_ends_size_and_samples(tmp_path: Path) -> None:
    path, size = tmp_path / "slide.tif", 100 << 20

    def identity(place: int, size: int = size) -> str:
        with path.open("wb") as file:  # sparse: nothing but the one byte is written
            file.truncate(size)
            file.seek(place)
            file.write(b"x")
        return str(identify(path))

    middle_sample = (size - bags.SAMPLE_BYTES) // 15 * 7
    places = (0, bags.SAMPLE_BYTES - 1, middle_sample + 10, size - bags.SAMPLE_BYTES, size - 1)
    assert len({identity(place) for place in places} | {identity(0, size + 1)}) == 6


def test_bags_are_read_as_they_were_made(tmp_path: Path) -> None:
    (case, *_) = make_cases(tmp_path)
    make_bags([case], tmp_path / "bags")
    bag = read_bag(bag_path(tmp_path / "bags", "C0"), SPEC, PATCHES)
    made = SlideEmbedder(mean_colour(), PATCHES, FusionConfig()).make(case, warn=no_warning)
    assert made is not None
    for name in ("embeddings", "coords", "slide_index"):
        assert torch.equal(getattr(bag, name), getattr(made, name))


# -- on several workers ----------------------------------------------------------------------------


def embed_on(workforce: Workforce, cases: list[Case], directory: Path, warn: Warn) -> None:
    work = CaseEmbedder(ENCODERS["efficientnet_lite0"], (), PATCHES, FusionConfig(), directory)
    embed_in_parallel(cases, work, workforce, warn=warn, progress=lambda done, total: None)


def embed_here(cases: list[Case], directory: Path, *, warn: Warn = no_warning) -> None:
    encoder = load_encoder(
        ENCODERS["efficientnet_lite0"], weights_dirs=(), device=torch.device("cpu")
    )
    maker = SlideEmbedder(encoder, PATCHES, FusionConfig())
    embed_cohort(cases, maker, directory, warn=warn, progress=lambda done, total: None)


def same_bags(left: Path, right: Path) -> bool:
    names = sorted(path.name for path in left.iterdir())
    assert names == sorted(path.name for path in right.iterdir())
    return all((left / name).read_bytes() == (right / name).read_bytes() for name in names)


@pytest.mark.slow
def test_workers_make_the_same_bags_and_name_what_failed(tmp_path: Path) -> None:
    first, *others = make_cases(tmp_path)
    write_mha(tmp_path / "mask.mha", np.zeros((96, 96), dtype=np.uint8))
    cases = [Case("C0", (SlideFile(first.slides[0].path, tmp_path / "mask.mha"),)), *others]
    embed_here(cases, tmp_path / "here", warn=lambda text: None)
    (tmp_path / "broken.mha").write_bytes(b"no slide")
    broken = Case("C9", (SlideFile(tmp_path / "broken.mha"),))
    warnings: list[str] = []
    with pytest.raises(
        ConfigError,
        match=r"^expected a bag of each case, but 1 of 5 failed: C9; the first, case C9: ",
    ):
        embed_on(INLINE, [broken, *cases], tmp_path / "workers", warnings.append)
    assert [line for line in warnings if line.startswith("case C9: ")]
    assert [line for line in warnings if "a mask without tissue" in line]
    assert same_bags(tmp_path / "here", tmp_path / "workers")


@pytest.mark.slow
def test_processes_make_the_same_bags(tmp_path: Path) -> None:
    cases = make_cases(tmp_path)
    embed_here(cases, tmp_path / "here")
    embed_on(local_workers(2, device="cpu"), cases, tmp_path / "workers", no_warning)
    assert same_bags(tmp_path / "here", tmp_path / "workers")


@pytest.mark.parametrize(
    ("told", "ranks", "expected"),
    [
        ({"workers": 2}, {}, ("local", 2, "cuda")),
        ({"workers": 2}, {"WORLD_SIZE": "4", "LOCAL_RANK": "3"}, ("local", 2, "cuda:3")),
        ({"ray": "auto"}, {}, ("auto", None, "cuda")),
        ({"ray": "auto", "workers": 9}, {}, ("auto", 9, "cuda")),
    ],
)
def test_who_makes_the_bags(
    monkeypatch: pytest.MonkeyPatch,
    told: dict[str, Any],
    ranks: dict[str, str],
    expected: tuple[object, ...],
) -> None:
    pytest.importorskip("ray")
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("train.ranks.open_device", torch.device)
    monkeypatch.setattr(embed, "local_workers", lambda count, *, device: ("local", count, device))
    monkeypatch.setattr(
        "model.cohort_ray.ray_workers",
        lambda address, count, *, device, packages: (
            *(address, count, device),
            *(package.__name__ for package in packages),
        ),
    )
    config = SimpleNamespace(embed=EmbedConfig(**told), device="cuda")
    found = embed._workforce(config)
    assert found[:3] == expected
    assert found[3:] in {(), ("model", "train")} and (len(found) == 5) == ("ray" in told)
