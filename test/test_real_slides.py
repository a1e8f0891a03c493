"""The default bundle on a real slide, with real records and all of CHIMERA's genes."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_files import CLINICAL, MASK, RNA, SLIDE
from jobs import REAL_RECORDS, run_door, write_job

from train.simulate_records import RNA_FLOOR, rna_record

DATA = Path(__file__).parents[2] / "shared" / "data"
SLIDES = DATA / "slides"

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"{DATA} (real slides, not part of the repository) is absent"
)


@pytest.fixture(scope="module")
def profile() -> dict[str, float]:
    """Return a value for each of CHIMERA's 19,359 genes: simulated ones, and made-up others."""
    genes = (DATA / "chimera" / "gene_order_19359.txt").read_text().split()
    assert len(genes) == 19_359
    rng = np.random.default_rng(0)
    values = np.maximum(rng.normal(6.5, 3.0, len(genes)), RNA_FLOOR).tolist()
    simulated = rna_record(rng.normal(size=2), 0.0, rng)
    return dict(zip(genes, values, strict=True)) | simulated


@pytest.mark.slow
def test_a_pyramid_with_its_mask_is_answered_for_both_real_records(
    tmp_path: Path, profile: dict[str, float], capfd: pytest.CaptureFixture[str]
) -> None:
    answers = set()
    for index, record in enumerate(REAL_RECORDS):
        contents: dict[str, Any] = {
            SLIDE: SLIDES / "CMU-1-Small-Region.derived-pyramid.tif",
            MASK: SLIDES / "CMU-1-Small-Region.derived-mask.tif",
            RNA: profile,
            CLINICAL: record,
        }
        job = write_job(tmp_path / f"input{index}", contents)
        outcome = run_door(capfd, job, tmp_path / f"output{index}")
        answers.add(outcome.answer)
        assert " from slide, rna, clinical\n" in outcome.out
        # All genes of the panel are there, at a scale that the bundle knows; so is the pixel size.
        # Real tissue is not what the bundle was trained on.
        notice, unlike = [line for line in outcome.out.splitlines() if line.startswith("warning: ")]
        assert notice == "warning: demonstration on simulated data, not for clinical use"
        assert re.search("slide: embeddings are .* times as far from the training cohort's", unlike)
    assert len(answers) == 2
    assert all(0 < answer < 250 for answer in answers)


@pytest.mark.slow
def test_the_same_slide_as_svs_is_answered_without_a_mask(
    tmp_path: Path, profile: dict[str, float], capfd: pytest.CaptureFixture[str]
) -> None:
    contents: dict[str, Any] = {
        SLIDE: SLIDES / "CMU-1-Small-Region.svs",
        RNA: profile,
        CLINICAL: REAL_RECORDS[0],
    }
    job = write_job(tmp_path / "input", contents)
    outcome = run_door(capfd, job, tmp_path / "output")
    assert 0 < outcome.answer < 250
    assert " from slide, rna, clinical\n" in outcome.out
