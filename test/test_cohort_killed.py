"""200 cases through the door, 12 of them broken in as many ways, killed three times at random."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cohorts import read_predictions, without_timings, write_records
from small_bundles import PATCHES, build_bundle

from model.bags import bag_path, write_bag
from model.batch import Bag
from model.encoders import ENCODERS
from model.patches import PatchSpec
from train.pyramid import write_pyramid

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CASES, KILLS = 200, 3
LITE = ENCODERS["efficientnet_lite0"]

# Case → what its error says.
BROKEN = {
    5: "rna.json: expected a JSON file, found no file",
    17: "rna.json: expected valid JSON, found ",
    29: "rna.json: expected a JSON object, found a list",
    41: "rna.json: expected at most 2 of 200 genes missing, found 200 missing",
    58: "cd.json: expected a JSON file, found no file",
    73: "cd.json: expected valid JSON, found 'utf-8' codec can't decode",
    88: "clinical: expected the modality (the bundle was not trained to do without it), found none",
    101: "slide.tif: expected ",
    117: "slide.tif: expected ",
    133: "slide.tif: expected pixels of 1.0 µm or finer, found 4 µm",
    158: "C158.safetensors: expected a bag of encoder efficientnet_lite0 at 1 µm/px, found ",
    199: "C199.safetensors: expected a bag, found ",
}


def write_cohort(folder: Path) -> tuple[Path, Path]:
    """Write the manifest and a folder of bags, whose slides are elsewhere."""
    manifest = write_records(folder / "data", CASES)
    header, *lines = manifest.read_text().splitlines()
    slides = [f"{line},{line.partition(',')[0]}/slide.tif" for line in lines]
    manifest.write_text("\n".join([f"{header},slide", *slides]) + "\n")
    for index in range(CASES):
        draw = torch.Generator().manual_seed(index)
        patches = int(torch.randint(1, 100, (1,), generator=draw))
        bag = Bag(
            embeddings=torch.randn(patches, LITE.width, generator=draw),
            coords=torch.zeros(patches, 2, dtype=torch.int64),
            slide_index=torch.zeros(patches, dtype=torch.int64),
        )
        spec = PatchSpec() if index == 158 else PATCHES
        write_bag(bag_path(folder / "bags", f"C{index:03}"), bag, LITE, spec)
    break_cases(manifest.parent, folder / "bags")
    return manifest, folder / "bags"


def break_cases(data: Path, bags: Path) -> None:
    (data / "C005" / "rna.json").unlink()
    (data / "C017" / "rna.json").write_text("{")
    (data / "C029" / "rna.json").write_text("[1, 2]")
    (data / "C041" / "rna.json").write_text('{"A1BG": 1.0, "TP53": 1.0}')
    (data / "C058" / "cd.json").unlink()
    (data / "C073" / "cd.json").write_bytes(b'{"sex": "\xff"}')
    (data / "C088" / "cd.json").write_text("null")
    for index in (101, 117, 133):
        bag_path(bags, f"C{index}").unlink()
    (data / "C117" / "slide.tif").write_bytes(b"no slide")
    coarse = np.zeros((500, 500, 3), dtype=np.uint8)
    write_pyramid(data / "C133" / "slide.tif", coarse, 4.0, downsamples=(1,))
    damaged = bag_path(bags, "C199")
    damaged.write_bytes(damaged.read_bytes()[:1000])


def start(*arguments: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, ROOT / "inference.py", "cohort", *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_cohort_that_was_killed_three_times_is_the_same(tmp_path: Path) -> None:
    manifest, bags = write_cohort(tmp_path)
    bundle = tmp_path / "bundle.safetensors"
    build_bundle(optional=("slide", "rna")).save(bundle)

    def command(output: str) -> tuple[Any, ...]:
        options = ("--bundle", bundle, "--embeddings", bags, "--device", "cpu", "--workers", 2)
        return (manifest, "--output", tmp_path / output, *options)

    assert start(*command("whole")).wait() == 3
    rows = read_predictions(tmp_path / "whole")
    assert [row["case_id"] for row in rows] == [f"C{index:03}" for index in range(CASES)]
    failed = {index: row["error"] for index, row in enumerate(rows) if row["error"]}
    assert failed.keys() == BROKEN.keys()
    for index, reason in BROKEN.items():
        assert reason in failed[index]
    assert all((row["time"] == "") == bool(row["error"]) for row in rows)

    draw = random.Random(0)
    log = tmp_path / "killed" / "results.jsonl"
    for kill in range(KILLS):
        at = count_lines(log) + draw.randint(1, CASES // 5)
        process = start(*command("killed"))
        while count_lines(log) < at:
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert count_lines(log) < CASES, f"kill {kill} came too late"
    assert start(*command("killed")).wait() == 3
    assert count_lines(log) == CASES  # and none was done twice
    assert without_timings(tmp_path / "killed") == without_timings(tmp_path / "whole")
