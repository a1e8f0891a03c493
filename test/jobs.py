"""Jobs that can be scored: a slide, its mask and whole records, under the platform's names."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_files import (
    CLINICAL,
    MASK,
    MASK_UUID,
    PATHS,
    RNA,
    SLIDE,
    SLIDE_UUID,
    socket_item,
    write_inputs,
    write_json,
)
from numpy.typing import NDArray
from synthetic import GLASS, tissue_slide, write_mask_pyramid, write_pyramid

import inference
from train.simulate_records import clinical_record, rna_record

ANSWER = "likelihood-of-bladder-cancer-recurrence.json"

# The two real records that are public in full.
REAL_RECORDS: tuple[dict[str, Any], ...] = (
    {
        "age": 72,
        "sex": "Male",
        "smoking": "No",
        "tumor": "Primary",
        "stage": "T1HG",
        "substage": "T1m",
        "grade": "G3",
        "reTUR": "Yes",
        "LVI": "No",
        "variant": "UCC",
        "EORTC": "Highest risk",
        "no_instillations": 24.0,
        "BRS": "BRS2",
        "progression": 0,
        "Time_to_prog_or_FUend": 110,
    },
    {
        "age": 81,
        "sex": "Male",
        "smoking": "Yes",
        "tumor": "Primary",
        "stage": "T1HG",
        "substage": "T1e",
        "grade": "G3",
        "reTUR": "Yes",
        "LVI": "Yes",
        "variant": "UCC + Variant",
        "EORTC": "Highest risk",
        "no_instillations": 10.0,
        "BRS": "BRS3",
        "progression": 1,
        "Time_to_prog_or_FUend": 7,
    },
)
LABELS = ("progression", "Time_to_prog_or_FUend")
FEATURES = tuple(key for key in REAL_RECORDS[0] if key not in LABELS)


def write_job(
    job: Path,
    contents: Mapping[str, object],
    *,
    name: str = "3A_001_HE",
    keys: Iterable[str] = ("socket", "interface"),
) -> Path:
    """Write a job as it lies in /input, and return its folder.

    Args:
        job: The new folder.
        contents: Slug → the image to copy, or what the JSON file holds; the sockets of the job.
        name: Of the slide as the user uploaded it, without suffix.
        keys: Under which the items of `inputs.json` describe their socket.
    """
    job.mkdir(parents=True)
    keys = tuple(keys)
    items = []
    for slug, content in contents.items():
        path = PATHS[slug]
        changes: dict[str, Any] = {}
        if isinstance(content, Path):
            uuid = SLIDE_UUID if slug == SLIDE else MASK_UUID
            (job / path).mkdir(parents=True)
            shutil.copy(content, job / path / f"{uuid}{content.suffix}")
            uploaded = name if slug == SLIDE else f"{name}_mask"
            changes = {"image": {"pk": uuid, "name": f"{uploaded}.tif"}}
        else:
            write_json(job / path, content)
        items.append(socket_item(slug, path, keys=keys, **changes))
    write_inputs(job, items)
    return job


def slide_contents(folder: Path, *, width_px: int = 1300, height_px: int = 1050) -> dict[str, Path]:
    """Write a slide of 0.25 µm/px and its mask, and return them by slug."""
    picture, tissue = tissue_slide(width_px, height_px, seed=3)
    slide, mask = folder / "slide.tif", folder / "mask.tif"
    write_pyramid(slide, picture, 0.25, downsamples=(1, 4))
    write_mask_pyramid(mask, tissue[8::16, 8::16], 4.0, downsamples=(1,))
    return {SLIDE: slide, MASK: mask}


def record_contents(seed: int = 0) -> dict[str, dict[str, Any]]:
    """Return a patient's RNA and clinical record by slug."""
    rng = np.random.default_rng([1, seed])
    return {
        RNA: rna_record(rng.normal(size=2), 0.0, rng),
        CLINICAL: dict(clinical_record(rng.normal(size=2), 0.0, rng)),
    }


def write_glass(path: Path, width_px: int = 1600, height_px: int = 1400) -> Path:
    """Write a slide without tissue."""
    glass = np.full((height_px, width_px, 3), GLASS, dtype=np.uint8)
    write_pyramid(path, glass, 0.25, downsamples=(1, 4))
    return path


def write_pixel(path: Path) -> Path:
    """Write the image of one pixel that the platform sends for an absent one."""
    write_pyramid(path, np.zeros((1, 1, 3), dtype=np.uint8), 0.25, downsamples=(1,))
    return path


def thin(mask: NDArray[np.bool_], share: float, block_px: int) -> NDArray[np.bool_]:
    """Take a share of a mask's tissue away, by random squares that hold some."""
    rng = np.random.default_rng(0)
    rows, columns = (np.arange(size) // block_px for size in mask.shape)
    block = rows[:, None] * (columns[-1] + 1) + columns
    held = rng.permutation(np.unique(block[mask]))
    return mask & ~np.isin(block, held[: round(share * len(held))])


def read_answer(output: Path) -> float:
    """Read the number of a job's output folder, which holds nothing else.

    JSON's numbers leave out NaN and the infinities, which Python would read.
    """
    (path,) = output.iterdir()
    assert path.name == ANSWER
    value = json.loads(path.read_text(), parse_constant=refuse_constant)
    assert isinstance(value, float)
    return value


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@dataclass(frozen=True)
class Outcome:
    """What one run of the door came to."""

    code: int
    out: str
    err: str
    output: Path

    @property
    def answer(self) -> float:
        """The number that a run without failure wrote."""
        assert (self.code, self.err) == (0, "")
        return read_answer(self.output)

    @property
    def sentence(self) -> str:
        """The line that the platform shows of a run that failed, as it should have."""
        assert self.code == 1
        assert "Traceback (most recent call last)" in self.err
        assert not self.output.is_dir() or not list(self.output.iterdir())
        return self.err.rstrip().splitlines()[-1]


def run_door(
    capfd: pytest.CaptureFixture[str], job: Path, output: Path, *options: object
) -> Outcome:
    """Score a job through the door, in this process."""
    capfd.readouterr()
    arguments = ["--input", job, "--output", output, "--device", "cpu", *options]
    code = inference.main([str(argument) for argument in arguments])
    return Outcome(code, *capfd.readouterr(), output)
