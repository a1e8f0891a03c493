"""Outer and inner folds: disjoint, and no patient sits in two."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.errors import ConfigError, Warn
from model.messages import some
from model.rows import check_ids, read_rows
from train.cohort import LabelledCase, check_outcomes
from train.config import FoldsConfig

IntArray = npt.NDArray[np.int64]


def outer_folds(
    cases: Sequence[LabelledCase], config: FoldsConfig, *, seed: Sequence[int], warn: Warn
) -> list[IntArray]:
    """Cut a cohort into test folds as the config says.

    Args:
        cases: The cohort.
        config: Of the folds.
        seed: Of the order in which patients are dealt out.
        warn: Told of cases in the folds' file that the cohort lacks.

    Returns:
        Sorted arrays of indices, which together are the whole cohort.

    Raises:
        ConfigError: The cohort cannot be cut so.
    """
    if config.file is not None:
        return file_folds(cases, config.file, warn=warn)
    if config.by == "centre":
        return centre_folds(cases)
    return stratified_folds(cases, config.count, seed=seed)


def stratified_folds(
    cases: Sequence[LabelledCase], count: int, *, seed: Sequence[int]
) -> list[IntArray]:
    """Cut a cohort into disjoint test folds, balanced by event and centre.

    Patients of one kind are dealt out in random order, each kind starting where the last one
    stopped, so that folds differ by at most one patient.

    Returns:
        As many sorted arrays of indices as `count`.

    Raises:
        ConfigError: A fold would have no event.
    """
    patients: dict[str, list[int]] = {}
    for index, case in enumerate(cases):
        patients.setdefault(case.patient_id, []).append(index)
    kinds: dict[tuple[bool, str], list[list[int]]] = {}
    for indices in patients.values():
        kind = (any(cases[i].event for i in indices), cases[indices[0]].centre)
        kinds.setdefault(kind, []).append(indices)
    events = sum(len(members) for (event, _), members in kinds.items() if event)
    if events < count:
        raise ConfigError(
            f"{count} folds: expected at least {count} patients with events, found {events}"
        )
    rng = np.random.default_rng(seed)
    order: list[list[int]] = []
    # Events first: dealt out in one go they differ by at most one between folds.
    for kind in sorted(kinds, key=lambda kind: (not kind[0], kind[1])):
        members = kinds[kind]
        order += [members[i] for i in rng.permutation(len(members))]
    return [
        _sorted(index for indices in order[fold::count] for index in indices)
        for fold in range(count)
    ]


def inner_folds(
    cases: Sequence[LabelledCase], count: int, *, seed: Sequence[int] = ()
) -> Iterator[tuple[list[LabelledCase], list[LabelledCase]]]:
    """Yield (training, validation) cases of each inner fold; none where `count` is below 2."""
    if count > 1:
        for test in stratified_folds(cases, count, seed=[*seed, count]):
            yield hold_out(cases, test)


def centre_folds(cases: Sequence[LabelledCase]) -> list[IntArray]:
    """Leave one centre out at a time, in the centres' order.

    Raises:
        ConfigError: There is one centre, a case has none, a patient has cases of two, or the other
            centres have too few events to train on.
    """
    centres = sorted({case.centre for case in cases})
    if len(centres) < 2 or not all(centres):
        raise ConfigError(
            "leaving one centre out: expected at least 2 centres and one for each case, "
            f"found {centres}"
        )
    named = {case.case_id: case.centre for case in cases}
    return _named_folds(cases, named, centres, source="leaving one centre out")


def file_folds(cases: Sequence[LabelledCase], path: Path, *, warn: Warn) -> list[IntArray]:
    """Read published folds: a table with the columns `case_id` and `fold`.

    It may name more cases than the cohort has: published folds do, of which some lack a modality.

    Returns:
        Sorted arrays of indices, in the order of the folds' numbers or names.

    Raises:
        ConfigError: It lacks a case, parts a patient's cases, or leaves too few events to train on.
    """
    rows = read_rows(path, ("case_id", "fold"))
    check_ids(path, [row["case_id"] for row in rows])
    named = {row["case_id"]: row["fold"] for row in rows}
    case_ids = {case.case_id for case in cases}
    absent, unknown = sorted(case_ids - named.keys()), sorted(named.keys() - case_ids)
    if absent:
        raise ConfigError(f"{path}: expected a fold for each case, found none for {some(absent)}")
    if unknown:
        warn(f"{path}: {len(unknown)} of its cases are not in the cohort: {some(unknown)}")
    # 10 comes after 9.
    folds = sorted({named[case_id] for case_id in case_ids}, key=lambda name: (len(name), name))
    if len(folds) < 2 or not all(folds):
        raise ConfigError(f"{path}: expected at least 2 folds and no empty cell, found {folds}")
    return _named_folds(cases, named, folds, source=str(path))


def hold_out(
    cases: Sequence[LabelledCase], test: IntArray
) -> tuple[list[LabelledCase], list[LabelledCase]]:
    """Return (the other cases, the test cases), given positions of the latter."""
    held_out = set(test.tolist())
    others = [case for index, case in enumerate(cases) if index not in held_out]
    return others, [cases[index] for index in test]


def _named_folds(
    cases: Sequence[LabelledCase], named: Mapping[str, str], folds: Sequence[str], *, source: str
) -> list[IntArray]:
    """Return the indices of each fold, after making sure that it can be trained without."""
    patients: dict[str, str] = {}
    for case in cases:
        fold = patients.setdefault(case.patient_id, named[case.case_id])
        if fold != named[case.case_id]:
            raise ConfigError(
                f"{source}: expected the cases of patient {case.patient_id} in one fold, "
                f"found {fold} and {named[case.case_id]}"
            )
    for fold in folds:
        rest = [case for case in cases if named[case.case_id] != fold]
        check_outcomes(rest, f"{source}: all but {fold}")
    return [
        _sorted(i for i, case in enumerate(cases) if named[case.case_id] == fold) for fold in folds
    ]


def _sorted(indices: Iterable[int]) -> IntArray:
    return np.array(sorted(indices), dtype=np.int64)
