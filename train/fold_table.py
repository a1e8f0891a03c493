"""Each fold of a run: its test patients, and what its model made of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from train.cohort import LabelledCase, outcomes
from train.crossval import FoldResult
from train.estimate import estimate
from train.evaluation import Value
from train.forecast import IntArray
from train.loop import EpochLog
from train.metrics import harrell_c


@dataclass(frozen=True)
class FoldRow:
    """One fold.

    Attributes:
        name: Such as "2", or "3.2" in the third repeat.
        centres: Such as "3A 24, 3B 11".
        epochs: How many the fold's model was fitted for.
        harrell_c: Of its own risks, not averaged over repeats.
    """

    name: str
    n: int
    events: int
    centres: str
    epochs: int
    harrell_c: Value
    log: list[EpochLog]


def describe_folds(
    cases: Sequence[LabelledCase], results: Sequence[FoldResult], *, resamples: int
) -> list[FoldRow]:
    """Describe every fold of every repeat."""
    repeats = split_repeats(results)
    rows = []
    for repeat, folds in enumerate(repeats):
        for fold, result in enumerate(folds):
            tested = [cases[i] for i in result.test]
            outcome = outcomes(tested)
            centres = [case.centre for case in tested]
            rows.append(
                FoldRow(
                    name=f"{repeat + 1}.{fold + 1}" if len(repeats) > 1 else f"{fold + 1}",
                    n=len(tested),
                    events=int(outcome.event.sum()),
                    centres=", ".join(f"{c} {centres.count(c)}" for c in sorted(set(centres))),
                    epochs=result.epochs,
                    harrell_c=estimate(harrell_c, result.risk, outcome, resamples=resamples),
                    log=result.log,
                )
            )
    return rows


def first_repeat(results: Sequence[FoldResult]) -> list[IntArray]:
    """Return the test patients of each fold of the first repeat: everyone once."""
    return [result.test for result in split_repeats(results)[0]]


def split_repeats(results: Sequence[FoldResult]) -> list[list[FoldResult]]:
    """Return each repeat's folds: a repeat ends where its patients come again."""
    repeats: list[list[FoldResult]] = []
    seen: set[int] = set()
    for result in results:
        test = set(result.test.tolist())
        if not repeats or seen & test:
            repeats.append([])
            seen = set()
        repeats[-1].append(result)
        seen |= test
    return repeats
