"""What the organisers did to submitted containers, and what hospitals do to records.

Their study dropped each clinical feature in turn, and took 25, 50 and 75 % of the mask away.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_files import CHIMERA, CLINICAL, MASK, PATHS, RNA, SLIDE, no_warning
from jobs import FEATURES, LABELS, REAL_RECORDS, read_answer, thin, write_job, write_pixel
from openslide import OpenSlide
from synthetic import write_mask_pyramid

from model.case import Prediction, read_case, write_prediction
from model.patches import patch_grid
from model.predictor import Predictor
from model.slide import Slide
from model.tissue_mask import find_tissue

Predict = Callable[..., Prediction]
SHARES = (0.25, 0.5, 0.75)


@pytest.fixture
def predict(tmp_path: Path, contents: dict[str, Any], lenient_predictor: Predictor) -> Predict:
    """Return a function that scores the job with some sockets' contents changed (or left out)."""
    count = iter(range(1000))

    def score(*, without: str = "", **changes: object) -> Prediction:
        number = next(count)
        whole = {slug: value for slug, value in (contents | changes).items() if slug != without}
        job = write_job(tmp_path / f"input{number}", whole)
        warnings: list[str] = []
        case = read_case(job, CHIMERA, warn=warnings.append)
        prediction = lenient_predictor.predict(case, progress=lambda done, total: None)
        write_prediction(prediction, CHIMERA, tmp_path / f"output{number}")
        assert read_answer(tmp_path / f"output{number}") == prediction.time
        assert math.isfinite(prediction.time)
        return prediction

    return score


# --- the organisers' study ------------------------------------------------------------------------


def test_the_record_has_the_thirteen_features_of_the_study() -> None:
    columns = {*CHIMERA.clinical.numbers, *CHIMERA.clinical.categories}
    assert len(FEATURES) == 13
    assert set(FEATURES) == columns


@pytest.mark.slow
@pytest.mark.parametrize("key", FEATURES)
def test_a_dropped_feature_is_answered_and_counts_as_missing(predict: Predict, key: str) -> None:
    record = REAL_RECORDS[0]
    whole = predict(**{CLINICAL: record})
    dropped = predict(**{CLINICAL: {name: record[name] for name in record if name != key}})
    assert dropped.time != whole.time
    assert dropped.warnings == whole.warnings == ("random weights, for tests alone",)
    assert predict(**{CLINICAL: record | {key: "-1"}}).time == dropped.time


def test_a_record_without_any_feature_is_answered(predict: Predict) -> None:
    empty = predict(**{CLINICAL: {}})
    assert "clinical" in empty.modalities
    assert "as a key, found none" in empty.warnings[1]
    assert empty.time != predict(without=CLINICAL).time


@pytest.mark.slow
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("block_px", [16, 1], ids=["blocks", "pixels"])
def test_a_thinned_mask_is_answered(
    tmp_path: Path,
    contents: dict[str, Any],
    lenient_predictor: Predictor,
    predict: Predict,
    share: float,
    block_px: int,
) -> None:
    with OpenSlide(contents[MASK]) as file:
        pixels = np.asarray(file.read_region((0, 0), 0, file.dimensions))
    whole = pixels[..., 0] > 0
    thinned = thin(whole, share, block_px)
    assert thinned.sum() == pytest.approx((1 - share) * whole.sum(), rel=0.2)
    path = tmp_path / "thinned.tif"
    write_mask_pyramid(path, thinned, 4.0, downsamples=(1,))

    spec = lenient_predictor.bundle.manifest.patches
    assert spec is not None
    kept = []
    for mask in (contents[MASK], path):
        with Slide.open(contents[SLIDE], default_mpp=None, warn=no_warning) as slide:
            kept.append(len(patch_grid(slide, find_tissue(slide, mask, warn=no_warning), spec)))
    if block_px == 1:  # thins every patch out, and few of them below the least tissue
        assert kept[1] > 1.2 * (1 - share) * kept[0]
    else:  # a square is as large as a patch
        assert kept[1] == pytest.approx((1 - share) * kept[0], abs=3)
    prediction = predict(**{MASK: path})
    assert prediction.modalities == ("slide", "rna", "clinical")
    assert (prediction.time != predict().time) == (kept[1] != kept[0])


# --- masks and images that are none ---------------------------------------------------------------


def test_an_empty_mask_is_as_good_as_none(tmp_path: Path, predict: Predict) -> None:
    path = tmp_path / "empty.tif"
    write_mask_pyramid(path, np.zeros((87, 100), dtype=bool), 4.0, downsamples=(1,))
    empty = predict(**{MASK: path})
    assert empty.time == predict(without=MASK).time
    assert empty.warnings[-1].endswith(
        "a mask without tissue; tissue is found by its colour instead"
    )


def test_a_cut_mask_is_as_good_as_none(
    tmp_path: Path, contents: dict[str, Any], predict: Predict
) -> None:
    path = tmp_path / "cut.tif"
    path.write_bytes(contents[MASK].read_bytes()[:200])
    cut = predict(**{MASK: path})
    assert cut.time == predict(without=MASK).time
    assert cut.warnings[-1].endswith("; tissue is found by its colour instead")


def test_a_slide_of_one_pixel_is_none(tmp_path: Path, predict: Predict) -> None:
    pixel = write_pixel(tmp_path / "pixel.tif")
    prediction = predict(**{SLIDE: pixel, MASK: pixel})
    assert prediction.modalities == ("rna", "clinical")
    assert prediction.time == predict(without=SLIDE).time


# --- records that are none ------------------------------------------------------------------------


@pytest.mark.parametrize(("slug", "content"), [(RNA, None), (RNA, {}), (CLINICAL, None)])
def test_a_null_record_is_none(predict: Predict, slug: str, content: object) -> None:
    null = predict(**{slug: content})
    assert null.time == predict(without=slug).time
    assert null.time != predict().time
    assert len(null.modalities) == 2


# --- labels ---------------------------------------------------------------------------------------

OUTCOMES = {
    "none": {},
    "another outcome": {"progression": 1, "Time_to_prog_or_FUend": 3},
    "upper case": {"PROGRESSION": 1, "TIME_TO_PROG_OR_FUEND": 3.0},
    "lower case": {"Progression": "1", "time_to_prog_or_fuend": "3"},
    "the older release's": {"time_to_HG_recur_or_FUend": 3, "Time_To_hg_Recur_or_fuend": 4},
    "absurd": {"progression": {"a": [1]}, "Time_to_prog_or_FUend": math.nan},
}


@pytest.mark.slow
@pytest.mark.parametrize("labels", OUTCOMES.values(), ids=OUTCOMES)
def test_a_label_never_moves_the_answer(predict: Predict, labels: dict[str, object]) -> None:
    record = {key: value for key, value in REAL_RECORDS[0].items() if key not in LABELS}
    expected = predict(**{CLINICAL: REAL_RECORDS[0]})
    prediction = predict(**{CLINICAL: record | labels})
    assert prediction.time == expected.time
    assert prediction.risk == expected.risk
    assert prediction.warnings == expected.warnings


def test_what_a_hospital_writes_otherwise_is_read_the_same(predict: Predict) -> None:
    record = REAL_RECORDS[0]
    shouted = {key.upper(): str(value).upper() for key, value in record.items()}
    assert predict(**{CLINICAL: shouted}).time == predict(**{CLINICAL: record}).time


def test_an_unknown_category_is_answered_with_a_warning(predict: Predict) -> None:
    prediction = predict(**{CLINICAL: REAL_RECORDS[0] | {"stage": "T3HG"}})
    (warning,) = prediction.warnings[1:]
    assert PATHS[CLINICAL] in warning
    assert warning.endswith("stage: expected one of t1hg, tahg, found 'T3HG'")
