"""A training run's results without the training: cases, folds and risks of known quality."""

from pathlib import Path

import numpy as np
from toy_bundles import make_bundle

from model.batch import Dims
from model.case import Case, Record, SlideFile
from model.encoder import ENCODERS
from model.interface import ClinicalSchema, Interface, Output
from model.patches import PatchSpec
from train.cohort import LabelledCase, stratified_folds
from train.config import CohortConfig, FoldsConfig, TrainConfig
from train.crossval import FoldResult, Run
from train.dataset import Bags
from train.loop import EpochLog

__all__ = ["Dims", "interface", "made_up_cases", "made_up_results", "made_up_run"]


def interface(unit: str = "months") -> Interface:
    return Interface(
        name="made_up",
        endpoint="time to recurrence of a made-up tumour",
        sockets=(),
        clinical=ClinicalSchema(
            numbers=("age",), categories=("sex", "stage"), missing=("unknown",)
        ),
        output=Output(path="answer.json", unit=unit, direction="time"),
    )


def made_up_cases(n=176, seed=0, *, events=0.4, per_month=1.0):
    """Return cases of two centres and the log hazard (n,) that their times follow."""
    draw = np.random.default_rng(seed)
    hazard = draw.normal(size=n)
    late = 60 * draw.exponential(np.exp(-hazard)) ** 1.1
    end = draw.uniform(0, 1, n)
    end *= np.quantile(late / end, events)
    time = np.maximum(np.ceil(np.minimum(late, end)), 1) * per_month
    centres = np.where(draw.random(n) < 0.3, "3B", "3A")
    return [
        LabelledCase(
            case=Case(
                f"{centre}_{i:03d}",
                slides=(SlideFile(Path(f"{i}.tif")),),
                rna=Record({"TP53": 1.0, "KRT5": 2.0}, Path("rna.json")) if i % 9 else None,
                clinical=Record(
                    {
                        "age": "unknown" if i % 20 == 0 else 50 + i % 40,
                        "sex": "female" if i % 4 == 0 else "male",
                        "stage": "unknown" if i % 13 == 0 else "T1",
                    },
                    Path("clinical.json"),
                ),
            ),
            event=bool(late[i] <= end[i]),
            time=float(time[i]),
            centre=str(centre),
        )
        for i, centre in enumerate(centres)
    ], hazard


def made_up_results(cases, risk, *, k=5, repeats=1, epochs=30):
    """Return fold results whose risks are the given ones (n,) with a little noise a repeat."""
    draw = np.random.default_rng(1)
    member = make_bundle().members[0]
    results = []
    for repeat in range(repeats):
        for test in stratified_folds(cases, k, seed=[repeat]):
            noisy = risk[test] + 0.1 * draw.normal(size=len(test))
            steps = np.arange(epochs)
            fall = 4.2 - 0.9 * (1 - np.exp(-steps / 9)) + 0.02 * draw.normal(size=epochs)
            rise = 2.9 - 0.3 * np.exp(-(((steps - 12) / 9) ** 2)) + 0.03 * draw.normal(size=epochs)
            log = [
                EpochLog(i, float(a), float(b))
                for i, (a, b) in enumerate(zip(fall, rise, strict=True))
            ]
            results.append(FoldResult(member, test, noisy, int(rise.argmin()) + 1, log))
    return results


def made_up_run(folder, cases, *, unit="months", k=5, repeats=1):
    config = TrainConfig(
        output=folder, cohort=CohortConfig(root=folder), folds=FoldsConfig(k=k, repeats=repeats)
    )
    bags = Bags(folder / "bags", ENCODERS["efficientnet_lite0"], PatchSpec())
    return Run(config, interface(unit), cases, bags, warn=lambda _: None, say=lambda _: None)
