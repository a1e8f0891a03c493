"""Folds → out-of-fold risks → calibration → bundle."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open

from model.bundle import Bundle, Manifest, Task, write_tensors
from model.clinical import ClinicalRange
from model.embedding_range import EmbeddingRange
from model.errors import ConfigError, Warn
from model.interface import Interface
from model.member import Member, MemberManifest, load_member
from model.progress import Say
from train import ranks
from train.calibrate import fit_mapping, risk_scale
from train.cohort import LabelledCase, clinical_records, outcomes
from train.config import TrainConfig
from train.dataset import Bags, CohortBags, make_fold, start_member
from train.folds import hold_out, inner_folds, outer_folds
from train.loop import EpochLog, Plan, predict_risks, train_fusion
from train.losses import fit_bins
from train.presence import has_modality

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FoldResult:
    """One outer fold: its member, and the risks of the cases that the member never saw.

    Attributes:
        test: (m,) positions of the test cases in the cohort.
        risk: (m,) their risks, z-scored by the member's own training risks.
        epochs: How many the member was fitted for.
        log: Losses by epoch: the inner folds' mean where these chose the epochs, else the fit's.
    """

    member: Member
    test: npt.NDArray[np.int64]
    risk: FloatArray
    epochs: int
    log: list[EpochLog]


@dataclass(frozen=True)
class Run:
    """What a training run has at hand."""

    config: TrainConfig
    interface: Interface
    cases: Sequence[LabelledCase]
    bags: Bags
    warn: Warn
    say: Say


def cross_validate(run: Run) -> list[FoldResult]:
    """Fit one member for each fold of each repeat; a fold that is on disk is not fitted again."""
    folds = run.config.folds
    directory = run.config.output / "folds"
    work = [
        (
            directory / f"repeat{repeat}-fold{fold}.safetensors",
            test,
            (run.config.seed, repeat, fold),
        )
        for repeat in range(folds.repeats)
        for fold, test in enumerate(
            outer_folds(run.cases, folds, seed=[run.config.seed, repeat], warn=run.warn)
        )
    ]
    for path, test, seed in ranks.share(work):
        if path.is_file():
            run.say(f"{path.stem}: on disk already")
            continue
        result = _fit_fold(run, test, seed, path)
        _write_result(path, result)
        run.say(f"{path.stem}: {len(run.cases) - len(test)} training cases, {result.epochs} epochs")
    ranks.wait_for_all()
    return [_read_result(path, run.config) for path, _, _ in work]


def check_folds(cases: Sequence[LabelledCase], config: TrainConfig, *, warn: Warn) -> None:
    """Cut the outer and inner folds of a run, and fit the time bins of each fit where it has some.

    Raises:
        ConfigError: The cohort cannot be cut so, nobody has a modality whom a fold trains on, or a
            fold has too few event times for the bins.
    """
    known = {
        name: {case.case_id for case in cases if has_modality(case.case, name, config)}
        for name in config.fusion.read().modalities
    }
    for repeat in range(config.folds.repeats):
        seed = [config.seed, repeat]
        for fold, test in enumerate(outer_folds(cases, config.folds, seed=seed, warn=warn)):
            train, _ = hold_out(cases, test)
            inner = inner_folds(train, config.fit.inner_folds, seed=(*seed, fold))
            for fitted in (train, *(rest for rest, _ in inner)):
                for name, ids in known.items():
                    if ids.isdisjoint(case.case_id for case in fitted):
                        raise ConfigError(
                            f"{config.cohort.root}: expected {name} of somebody in each training "
                            f"fold, found {len(ids)} of {len(cases)} cases with it, none in one"
                        )
                if config.fit.loss == "nll":
                    outcome = outcomes(fitted)
                    event, time = map(torch.from_numpy, (outcome.event, outcome.time))
                    fit_bins(event=event, time=time, n_bins=config.fit.bins)


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
        as do repeats of the same folds: what the training cases make of it does not show.
    """
    risks = _risks(results, n)  # (repeats, n)
    repeats, variance = len(risks), float(risks.mean(axis=0).var())
    if repeats == members or variance == 0:
        return 1.0
    if len({tuple(result.test) for result in results}) < len(results) or repeats == 1:
        return None
    of_members = risks.var(axis=0, ddof=1).mean()
    ratio = 1 + of_members * (1 / members - 1 / repeats) / variance
    # Were all variance the members' own, this would be left, or come to it.
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
        members = (_fit_member(run, run.cases, epochs, (run.config.seed,), checkpoint)[0],)
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


def _fit_fold(
    run: Run, test: npt.NDArray[np.int64], seed: tuple[int, ...], path: Path
) -> FoldResult:
    """Choose the number of epochs inside the training cases, fit on all of them, score the test."""
    train, held_out = hold_out(run.cases, test)
    epochs, inner = _choose_epochs(run, train, seed, path)
    member, log = _fit_member(run, train, epochs, seed, path.with_suffix(".checkpoint"))
    unseen = make_fold(member, held_out, run.bags, warn=run.warn)
    raw = predict_risks(member.fusion, unseen, run.config.fit)
    return FoldResult(member, test, (raw - member.risk_mean) / member.risk_sd, epochs, inner or log)


def _fit_member(
    run: Run,
    cases: Sequence[LabelledCase],
    epochs: int,
    seed: tuple[int, ...],
    checkpoint: Path,
) -> tuple[Member, list[EpochLog]]:
    """Fit preprocessing, weights and the scale of the risks on the given cases."""
    member = _start(run, cases, seed)
    fold = make_fold(member, cases, run.bags, warn=run.warn)
    log = train_fusion(member.fusion, fold, Plan(run.config.fit, epochs, seed, checkpoint))
    own = predict_risks(member.fusion, fold, run.config.fit)
    mean, sd = risk_scale(own)
    return replace(member, risk_mean=mean, risk_sd=sd), log


def _choose_epochs(
    run: Run, train: Sequence[LabelledCase], seed: tuple[int, ...], path: Path
) -> tuple[int, list[EpochLog]]:
    """Return the number of epochs with the least validation loss over inner folds, and the losses.

    Both losses are averaged over the inner folds; without any, all epochs are run.
    """
    config = run.config.fit
    if config.inner_folds < 2:
        return config.epochs, []
    logs = []
    inner = inner_folds(train, config.inner_folds, seed=seed)
    for index, (rest, held_out) in enumerate(inner):
        member = _start(run, rest, (*seed, index))
        fold = make_fold(member, rest, run.bags, warn=run.warn)
        validation = make_fold(member, held_out, run.bags, warn=run.warn)
        checkpoint = path.with_name(f"{path.stem}-inner{index}.checkpoint")
        plan = Plan(config, config.epochs, (*seed, index), checkpoint)
        logs.append(train_fusion(member.fusion, fold, plan, validation=validation))
    losses = np.array([[(e.loss, e.validation) for e in log] for log in logs], dtype=np.float64)
    mean = losses.mean(axis=0)  # (epochs, 2)
    log = [EpochLog(epoch, *pair) for epoch, pair in enumerate(mean.tolist())]
    return int(np.argmin(mean[:, 1])) + 1, log


def _start(run: Run, train: Sequence[LabelledCase], seed: tuple[int, ...]) -> Member:
    uses_slides = "slide" in run.config.fusion.read().modalities
    if uses_slides and not any(run.bags.get(case.case_id) for case in train):
        raise ConfigError(f"{run.bags.directory}: expected a bag of some training case, found none")
    torch.manual_seed(int(np.random.default_rng(seed).integers(2**31)))
    member = start_member(train, run.bags, run.config, run.interface.clinical)
    member.fusion.to(ranks.device(run.config.device))
    return member


def _write_result(path: Path, result: FoldResult) -> None:
    header = {
        "member": result.member.manifest().model_dump(mode="json"),
        "epochs": result.epochs,
        "log": [asdict(entry) for entry in result.log],
    }
    tensors = {
        **result.member.tensors(),
        "test": torch.from_numpy(result.test),
        "risk": torch.from_numpy(result.risk),
    }
    write_tensors(path, tensors, {"result": json.dumps(header)})


def _read_result(path: Path, config: TrainConfig) -> FoldResult:
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["result"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    manifest = MemberManifest.model_validate(header["member"])
    return FoldResult(
        member=load_member(config.fusion.name, config.fusion.settings, manifest, tensors),
        test=tensors["test"].numpy(),
        risk=tensors["risk"].numpy(),
        epochs=header["epochs"],
        log=[EpochLog(**entry) for entry in header["log"]],
    )
