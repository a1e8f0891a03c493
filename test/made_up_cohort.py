"""The results of a cohort that nobody scored, for the tests of its report."""

from typing import Any

import numpy as np

from model.bundle import Bundle
from model.cohort_scorer import Result
from model.predictor import INTERVAL, SURVIVAL_MONTHS

FAILURES = (
    "case {case}: /data/{case}/{case}_RNA.json: expected at most 2 of 200 genes missing, "
    "found {n} missing: TP53, FGFR3 and 3 more",
    "case {case}: /data/{case}/{case}_CD.json: expected a JSON file, found no file",
    "case {case}: /data/{case}/{case}_HE.tif: expected tissue, found none",
)
WARNINGS = (
    "/data/{case}/{case}_CD.json: age: {n} lies more than 10 sd from the training mean 72",
    "/data/{case}/{case}_CD.json: stage: expected one of t1hg, tahg, found 'T{n}'",
)


def make_results(bundle: Bundle, count: int, *, seed: int = 0) -> list[Result]:
    """Make the results of so many cases: every 17th has failed, every 11th has a warning.

    Their risks are higher than those of the training cohort.
    """
    draw = np.random.default_rng(seed)
    mapping = bundle.mapping
    risks = draw.choice(mapping.risks, count) + 0.5 * draw.normal(size=count) + 0.4
    return [_make(bundle, f"P{index:04}", index, float(risk)) for index, risk in enumerate(risks)]


def _make(bundle: Bundle, case_id: str, index: int, risk: float) -> Result:
    if index % 17 == 5:
        text = FAILURES[index // 17 % len(FAILURES)]
        return Result(case_id=case_id, error=text.format(case=case_id, n=index), seconds=0.1)
    warnings = [bundle.manifest.notice]
    if index % 11 == 3:
        text = WARNINGS[index // 11 % len(WARNINGS)]
        warnings.append(text.format(case=case_id, n=index))
    mapping, row = bundle.mapping, np.array([risk])
    survival = mapping.survival(row, SURVIVAL_MONTHS)[0]
    low, high = mapping.interval(row, INTERVAL)[0]
    return Result(
        case_id=case_id,
        time=float(mapping.time(row)[0]),
        unit="months",
        risk=risk,
        risk_percentile=float(mapping.percentile(row)[0]),
        survival=dict(zip(SURVIVAL_MONTHS, survival.tolist(), strict=True)),
        interval=(float(low), float(high)),
        modalities=("slide", "rna", "clinical") if index % 5 else ("slide", "clinical"),
        warnings=tuple(warnings),
        seconds=2.0 + index % 3,
    )


def make_run(**changes: Any) -> dict[str, Any]:
    """Make what run.json says."""
    return {
        "identity": {"bundle_sha256": "ab" * 32, "device": "cpu", "version": "0.1.0"},
        "manifest": "/data/manifest.csv",
        "bundle": "/data/bundle.safetensors",
        "workers": 2,
        "threads": 1,
        "started": "2026-11-21T08:00:00+00:00",
        "finished": "2026-11-21T09:30:00+00:00",
        "counts": {"cases": 0, "kept": 0, "done": 0, "failed": 0, "scored": 0},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
    } | changes
