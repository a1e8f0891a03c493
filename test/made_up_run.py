"""A training run's results without the training: cases, folds and risks of known quality."""

from pathlib import Path

import numpy as np
from toy_bundles import make_bundle

from model.case import Case, Record, SlideFile
from model.encoders import ENCODERS
from model.interface import ClinicalSchema, Interface, Output
from model.patches import PatchSpec
from train.cohort import LabelledCase, outcomes
from train.config import CohortConfig, FoldsConfig, TrainConfig
from train.crossval import FoldResult, Run
from train.dataset import Bags
from train.loop import EpochLog

SCHEMA = ClinicalSchema(numbers=("age",), categories=("sex", "stage"), missing=("unknown",))


def make_interface(unit="months"):
    return Interface(
        name="made_up",
        endpoint="time to recurrence of a made-up tumour",
        sockets=(),
        clinical=SCHEMA,
        output=Output(path="answer.json", unit=unit, direction="time"),
    )


def make_cases(n=176, seed=0, *, events=0.4, months_per_unit=1):
    """Return cases of two centres, and the log hazard (n,) that their times follow."""
    draw = np.random.default_rng(seed)
    log_hazard = 1.2 * draw.normal(size=n)
    late = 80 * draw.exponential(size=n) * np.exp(-log_hazard)
    end = draw.uniform(size=n)
    end *= np.quantile(late / end, events)
    months = np.maximum(np.ceil(np.minimum(late, end)), 1)
    centres = np.where(draw.random(n) < 0.3, "3B", "3A")
    cases = [
        LabelledCase(
            case=_case(f"{centre}_{i:03d}", i),
            event=bool(late[i] <= end[i]),
            time=float(months[i] / months_per_unit),
            centre=str(centre),
        )
        for i, centre in enumerate(centres)
    ]
    return cases, log_hazard


def make_results(cases, risk, *, k=5, repeats=1, validated=True):
    """Return the folds of a model whose risks are these (n,), and a little noise a repeat."""
    draw = np.random.default_rng(1)
    member = make_bundle().members[0]
    results = []
    for repeat in range(repeats):
        for test in deal(len(cases), k, seed=repeat):
            fall, rise = _losses(draw)
            log = [
                EpochLog(epoch, loss, held_out if validated else None)
                for epoch, (loss, held_out) in enumerate(zip(fall, rise, strict=True))
            ]
            noisy = risk[test] + 0.1 * draw.normal(size=len(test))
            results.append(FoldResult(member, test, noisy, int(np.argmin(rise)) + 1, log))
    return results


def deal(n, k, seed=0):
    """Return k disjoint test folds (m,) of n patients, drawn at random."""
    order = np.random.default_rng(seed).permutation(n)
    return [np.sort(order[fold::k]) for fold in range(k)]


def make_run(folder, cases, *, unit="months"):
    config = TrainConfig(
        output=folder, cohort=CohortConfig(root=folder), folds=FoldsConfig(count=5)
    )
    bags = Bags(folder / "bags", ENCODERS["efficientnet_lite0"], PatchSpec())
    return Run(config, make_interface(unit), cases, bags, warn=_ignore, say=_ignore)


def _case(case_id, i):
    """Every ninth case has no RNA, every 20th no age, every 13th no stage, every 11th no slide."""
    record = {
        "age": "unknown" if i % 20 == 0 else 50 + i % 40,
        "sex": "female" if i % 4 == 0 else "male",
        "stage": "unknown" if i % 13 == 0 else "T1",
    }
    return Case(
        case_id,
        slides=(SlideFile(Path(f"{i}.tif")),) if i % 11 else (),
        rna=Record({"TP53": 1.0, "KRT5": 2.0}, Path("rna.json")) if i % 9 else None,
        clinical=Record(record, Path("clinical.json")),
    )


def _losses(draw, epochs=30):
    """Return a training loss that falls and a validation loss that rises again."""
    step = np.arange(epochs)
    fall = 4.2 - 0.9 * (1 - np.exp(-step / 9)) + 0.02 * draw.normal(size=epochs)
    rise = 2.9 - 0.3 * np.exp(-(((step - 12) / 9) ** 2)) + 0.03 * draw.normal(size=epochs)
    return fall.tolist(), rise.tolist()


def _ignore(_text):
    pass


def make_risks():
    """Return outcome, risk with some noise, and five folds."""
    cases, log_hazard = make_cases()
    risk = log_hazard + np.random.default_rng(9).normal(size=len(cases))
    return outcomes(cases), risk, deal(len(cases), 5)
