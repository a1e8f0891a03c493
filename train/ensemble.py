"""Out-of-fold risks → calibration → bundle: the folds' models become an ensemble."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.bundle import Bundle, Manifest, Task
from model.clinical import ClinicalRange
from model.embedding_range import EmbeddingRange
from model.errors import ConfigError
from train.calibrate import fit_mapping
from train.cohort import clinical_records, outcomes
from train.crossval import FloatArray, FoldResult, Run, fit_member
from train.dataset import CohortBags


def out_of_fold_risk(results: Sequence[FoldResult], n: int) -> FloatArray:
    """Average each case's out-of-fold risks over the repeats (n,)."""
    risk: FloatArray = _risks(results, n).mean(axis=0)
    return risk


def check_risks(risk: FloatArray, fusion: str) -> None:
    """Refuse out-of-fold risks (n,) of which nothing can be said.

    Raises:
        ConfigError: All are one.
    """
    if len(np.unique(risk)) == 1:
        raise ConfigError(
            f"fusion {fusion}: expected out-of-fold risks that differ, found {risk[0]:g} for all "
            f"{len(risk)} cases; a smaller fit.learning_rate or fit.weight_decay may help"
        )


def spread_ratio(results: Sequence[FoldResult], n: int, members: int) -> float | None:
    """Return how widely new patients' risks spread, in standard deviations of out-of-fold ones.

    A new patient's risk is the mean over the bundle's members, an out-of-fold one the mean over
    the repeats, and the more are averaged, the less the mean varies.

    Args:
        results: Of all folds of all repeats.
        n: Number of cases.
        members: How many the bundle has.

    Returns:
        The ratio; None where a single repeat leaves open how much of the variance is the members',
        as do repeats of the same folds: these do not show how much the training cases matter.
    """
    risks = _risks(results, n)  # (repeats, n)
    repeats, variance = len(risks), float(risks.mean(axis=0).var())
    if repeats == members or variance == 0:
        return 1.0
    if len({tuple(result.test) for result in results}) < len(results) or repeats == 1:
        return None
    of_members = risks.var(axis=0, ddof=1).mean()
    ratio = 1 + of_members * (1 / members - 1 / repeats) / variance
    # Were all of the variance the members' own, the ratio would be repeats / members.
    least, most = sorted((1.0, repeats / members))
    return float(np.sqrt(np.clip(ratio, least, most)))


def _risks(results: Sequence[FoldResult], n: int) -> FloatArray:
    """Return each case's out-of-fold risk in each repeat (repeats, n)."""
    test = np.concatenate([result.test for result in results]).reshape(-1, n)
    risk = np.concatenate([result.risk for result in results]).reshape(-1, n)
    return np.take_along_axis(risk, test.argsort(axis=1), axis=1)


def build_bundle(run: Run, results: Sequence[FoldResult], provenance: Mapping[str, Any]) -> Bundle:
    """Join the folds' members to an ensemble, calibrated on out-of-fold risks."""
    members = tuple(result.member for result in results)
    if run.config.members == "refit":
        epochs = int(np.median([result.epochs for result in results]))
        checkpoint = run.config.output / "folds" / "refit.checkpoint"
        members = (fit_member(run, run.cases, epochs, (run.config.seed,), checkpoint)[0],)
    outcome = outcomes(run.cases)
    ratio = spread_ratio(results, len(run.cases), len(members))
    if ratio is None:
        run.warn(
            "calibration: one repeat, or several of the same folds, cannot show how much the "
            "members agree, so that predicted times lean towards the middle; stratified folds "
            "with folds.repeats of 2 or more can"
        )
    mapping = fit_mapping(
        run.config.mapping,
        event=outcome.event,
        time=outcome.time,
        risk=out_of_fold_risk(results, len(run.cases)),
        spread_ratio=ratio or 1.0,
        warn=run.warn,
    )
    settings = members[0].fusion.config
    uses_slides = "slide" in settings.modalities
    manifest = Manifest(
        notice=run.config.notice,
        task=Task(
            endpoint=run.interface.endpoint,
            unit=run.interface.output.unit,
            interface=run.interface.name,
        ),
        encoder=run.bags.encoder if uses_slides else None,
        patches=run.bags.patches if uses_slides else None,
        fusion=run.config.fusion.name,
        settings=settings.model_dump(mode="json"),
        members=tuple(member.manifest() for member in members),
        mapping=run.config.mapping,
        provenance=dict(provenance),
        clinical_range=_clinical_range(run) if "clinical" in settings.modalities else None,
    )
    return Bundle(
        manifest, members, mapping, embedding_range=_embedding_range(run) if uses_slides else None
    )


def _clinical_range(run: Run) -> ClinicalRange:
    records = clinical_records(run.cases)
    return ClinicalRange.fit(records, run.interface.clinical)


def _embedding_range(run: Run) -> EmbeddingRange | None:
    return EmbeddingRange.fit(CohortBags(run.bags, tuple(case.case_id for case in run.cases)))
