"""Folds → their models, and the risks of the cases that these never saw."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open

from model.bundle import write_tensors
from model.errors import ConfigError, Warn
from model.interface import Interface
from model.member import Member, MemberManifest, load_member
from model.messages import counted
from model.progress import Say
from train import ranks
from train.calibrate import risk_scale
from train.cohort import LabelledCase, outcomes
from train.config import TrainConfig
from train.dataset import Bags, make_fold, start_member
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
        trained_on = counted(len(run.cases) - len(test), "training case")
        run.say(f"{path.stem}: {trained_on}, {counted(result.epochs, 'epoch')}")
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
    for fitted in _training_folds(cases, config, warn=warn):
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


def _training_folds(
    cases: Sequence[LabelledCase], config: TrainConfig, *, warn: Warn
) -> Iterator[Sequence[LabelledCase]]:
    """Yield the cases of each fit: those of each outer fold, and of the inner ones within."""
    for repeat in range(config.folds.repeats):
        seed = [config.seed, repeat]
        for fold, test in enumerate(outer_folds(cases, config.folds, seed=seed, warn=warn)):
            train, _ = hold_out(cases, test)
            yield train
            inner = inner_folds(train, config.fit.inner_folds, seed=(*seed, fold))
            yield from (rest for rest, _ in inner)


def _fit_fold(
    run: Run, test: npt.NDArray[np.int64], seed: tuple[int, ...], path: Path
) -> FoldResult:
    """Choose the number of epochs inside the training cases, fit on all of them, score the test."""
    train, held_out = hold_out(run.cases, test)
    epochs, inner = _choose_epochs(run, train, seed, path)
    member, log = fit_member(run, train, epochs, seed, path.with_suffix(".checkpoint"))
    unseen = make_fold(member, held_out, run.bags, warn=run.warn)
    raw = predict_risks(member.fusion, unseen, run.config.fit)
    return FoldResult(member, test, (raw - member.risk_mean) / member.risk_sd, epochs, inner or log)


def fit_member(
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
