"""The committed sample job is the one that its program makes."""

import json
from pathlib import Path

import numpy as np
from make_sample_job import make_sample_job
from openslide import OpenSlide

SAMPLE = Path(__file__).parent / "input" / "interface_0"


def test_the_sample_job_can_be_made_again(tmp_path: Path) -> None:
    make_sample_job(tmp_path)
    made = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*") if path.is_file()}
    assert set(made) == {p.relative_to(SAMPLE) for p in SAMPLE.rglob("*") if p.is_file()}
    for name, path in made.items():
        if name.suffix == ".json":
            assert json.loads(path.read_text()) == json.loads((SAMPLE / name).read_text())
        else:  # by pixel, as another library's JPEG may have other bytes
            with OpenSlide(path) as again, OpenSlide(SAMPLE / name) as committed:
                size = committed.level_dimensions[-1]
                assert again.level_dimensions == committed.level_dimensions
                pixels = [
                    np.asarray(slide.read_region((0, 0), slide.level_count - 1, size), dtype=float)
                    for slide in (again, committed)
                ]
            assert np.abs(pixels[0] - pixels[1]).mean() < 1
