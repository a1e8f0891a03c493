"""The simple baselines of a run, in its folds: what its model has to beat."""

import time
from collections.abc import Sequence

from model.errors import TriSurvError, reason_of
from train.baselines import build_baselines, out_of_fold
from train.crossval import FoldResult, Run
from train.views import FloatArray, MeanEmbedding


def fit_baselines(
    run: Run, results: Sequence[FoldResult]
) -> tuple[list[tuple[str, FloatArray]], list[str]]:
    """Fit the simple baselines in the run's folds.

    Returns:
        Their names and out-of-fold risks (n,), and why each of the others could not be fitted.
    """
    modalities, schema = run.config.fusion.read().modalities, run.interface.clinical
    baselines = build_baselines(modalities, schema, run.config.rna, MeanEmbedding(run.bags))
    tests = [result.test for result in results]
    risks, left_out = [], []
    for name, baseline in baselines.items():
        started = time.monotonic()
        try:
            risks.append((name, out_of_fold(baseline, run.cases, tests)))
        except (TriSurvError, ValueError, ArithmeticError) as error:
            # Where one cannot be fitted there is no such baseline, rather than no bundle.
            left_out.append(f"baseline {name}: left out: {reason_of(error)}")
            run.warn(left_out[-1])
            continue
        run.say(f"baseline {name}: {time.monotonic() - started:.0f} s")
    return risks, left_out
