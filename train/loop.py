"""Fit one member to one fold: the training loop, top to bottom."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from model.batch import Batch, CaseInputs, collate
from model.errors import ConfigError
from model.files import whole
from model.fusion import Fusion
from model.survival import risk
from train.config import FitConfig, FitPrecision
from train.dataset import Fold, FoldBags, drop_modalities, subsample
from train.objective import Objective
from train.strata import cut_batches

CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class EpochLog:
    """Losses of one epoch; `validation` is None where there is no validation fold."""

    epoch: int
    loss: float
    validation: float | None


@dataclass(frozen=True)
class Plan:
    """One fit.

    Attributes:
        config: Optimiser and step. A cosine schedule spans `config.epochs`, however many are run.
        epochs: How many to run.
        seed: Names this fit among all of the run.
        checkpoint: Where a crash resumes from; removed at the end.
    """

    config: FitConfig
    epochs: int
    seed: tuple[int, ...]
    checkpoint: Path | None = None


def train_fusion(
    fusion: Fusion, fold: Fold, plan: Plan, *, validation: Fold | None = None
) -> list[EpochLog]:
    """Train a fusion in place on a fold, and log each epoch's loss, on `validation` too.

    Everything random in an epoch follows from the seed and the epoch's number, so a run that
    resumes from its checkpoint ends like one that was never interrupted (on a GPU, whose sums have
    no fixed order, up to rounding).

    Raises:
        ConfigError: The loss is no longer a number, or is none before the first step.
    """
    config, checkpoint = plan.config, plan.checkpoint
    optimiser = torch.optim.AdamW(
        fusion.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    objective = Objective.fit(fold, config)
    log = _resume(checkpoint, fusion, optimiser)
    if not log:
        torch.manual_seed(int(np.random.default_rng(plan.seed).integers(2**31)))
        fusion.fit_unsupervised(FoldBags(fold))
    saved = time.monotonic()
    for epoch in range(len(log), plan.epochs):
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * _schedule(config, epoch)
        fusion.train()
        losses = [
            _step(fusion, optimiser, objective, draw)
            for draw in _draws(fold, config, (*plan.seed, epoch))
        ]
        held_out = None if validation is None else fold_loss(fusion, validation, objective)
        log.append(EpochLog(epoch, float(np.mean(losses)), held_out))
        if checkpoint is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
            _save(checkpoint, fusion, optimiser, log)
            saved = time.monotonic()
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    fusion.eval()
    return log


def predict_risks(fusion: Fusion, fold: Fold, config: FitConfig) -> npt.NDArray[np.float64]:
    """Return the raw risks of a fold (n,) in evaluation mode, with all patches."""
    return np.asarray(risk(_fold_logits(fusion, fold, config)).cpu().numpy())


def fold_loss(fusion: Fusion, fold: Fold, objective: Objective) -> float:
    """Return the loss over a whole fold, in evaluation mode."""
    logits = _fold_logits(fusion, fold, objective.config)
    return float(objective(logits, fold, torch.arange(len(fold))))


@dataclass(frozen=True)
class Draw:
    """The cases of one step as this epoch sees them: patches drawn, modalities dropped."""

    fold: Fold
    indices: npt.NDArray[np.int64]
    config: FitConfig
    seed: tuple[int, ...]

    def chunks(self, start: int = 0) -> Iterator[tuple[int, Batch]]:
        """Yield padded chunks of at most `chunk_patches`, each with the position of its first case.

        They are the same ones each time, from any chunk's `start` on.
        """
        chunk: list[CaseInputs] = []
        longest = 1
        for index in self.indices[start:].tolist():
            case = self.case(index)
            length = 1 if case.bag is None else len(case.bag)
            if chunk and max(longest, length) * (len(chunk) + 1) > self.config.chunk_patches:
                yield start, collate(chunk, self.fold.dims)
                start += len(chunk)
                chunk, longest = [], 1
            chunk.append(case)
            longest = max(longest, length)
        if chunk:
            yield start, collate(chunk, self.fold.dims)

    def case(self, index: int) -> CaseInputs:
        """Return one case, with what this epoch left of it."""
        if self.config.max_patches is None and not self.fold.optional:
            return self.fold.case(index)  # nothing to draw: on small tables most of an epoch
        rng = np.random.default_rng([*self.seed, index])
        case = subsample(self.fold.case(index), self.config.max_patches, rng)
        return drop_modalities(case, self.fold.optional, self.config.modality_dropout, rng)


def _step(
    fusion: Fusion, optimiser: torch.optim.Optimizer, objective: Objective, draw: Draw
) -> float:
    """Take one optimiser step on the risk set of the drawn cases, at the memory of one chunk.

    The loss couples all cases, their forward passes do not. So all logits are computed first,
    without a graph but for the first chunk's; then the loss's gradient with respect to each; then
    each further chunk runs again, under the same dropout, and carries its share of that gradient
    back. The sum is the gradient of the whole risk set.
    """
    optimiser.zero_grad()
    passes = _logits(fusion, draw)
    _, first = next(passes)
    with torch.no_grad():
        parts = [first.detach(), *(logits for _, logits in passes)]
    logits = torch.cat(parts).requires_grad_()
    loss = objective(logits, draw.fold, torch.from_numpy(draw.indices))
    if not loss.isfinite():
        advice = "a smaller fit.learning_rate or fit.precision=float32 may help"
        if not optimiser.state:  # no step has been taken yet
            advice = f"{type(fusion).__name__} gives no finite number before any training"
        raise ConfigError(f"fit: expected a finite loss, found {loss.item()}; {advice}")
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.autograd.backward(first, gradient[: len(first)])
    for start, again in _logits(fusion, draw, start=len(first)):
        torch.autograd.backward(again, gradient[start : start + len(again)])
    if type(fusion).auxiliary_loss is not Fusion.auxiliary_loss:
        _add_auxiliary_gradient(fusion, draw)
    torch.nn.utils.clip_grad_norm_(fusion.parameters(), draw.config.clip_norm)
    optimiser.step()
    return float(loss.detach())


def _add_auxiliary_gradient(fusion: Fusion, draw: Draw) -> None:
    """Add the gradient of the fusion's own objective, a mean over the drawn cases."""
    device = next(fusion.parameters()).device
    for start, batch in _seeded(draw, device):
        rows = torch.from_numpy(draw.indices[start : start + len(batch)])
        with _autocast(device, draw.config.precision):
            loss = fusion.auxiliary_loss(batch, draw.fold.labels(rows, device))
        if loss is not None:
            torch.autograd.backward(loss * (len(batch) / len(draw.indices)))


def _logits(fusion: Fusion, draw: Draw, *, start: int = 0) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the position and logits (b, T) of each chunk from `start` on."""
    device = next(fusion.parameters()).device
    for position, batch in _seeded(draw, device, start):
        with _autocast(device, draw.config.precision):
            logits = fusion(batch)
        yield position, logits.to(torch.get_default_dtype())


def _autocast(device: torch.device, precision: FitPrecision) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _seeded(draw: Draw, device: torch.device, start: int = 0) -> Iterator[tuple[int, Batch]]:
    """Yield the chunks from `start` on, each with the seed set that its dropout follows from."""
    for position, batch in draw.chunks(start):
        torch.manual_seed(int(np.random.default_rng([*draw.seed, position]).integers(2**31)))
        yield position, batch.to(device)


def _fold_logits(fusion: Fusion, fold: Fold, config: FitConfig) -> torch.Tensor:
    """Return all cases' logits (n, T) in evaluation mode and float32: nothing drawn or dropped."""
    fusion.eval()
    scoring = {"max_patches": None, "modality_dropout": 0.0, "precision": "float32"}
    draw = Draw(fold, np.arange(len(fold)), config.model_copy(update=scoring), (0,))
    with torch.inference_mode():
        return torch.cat([part for _, part in _logits(fusion, draw)])


def _draws(fold: Fold, config: FitConfig, seed: tuple[int, ...]) -> list[Draw]:
    """Return an epoch's steps, each with random numbers of its own."""
    batches = _batches(fold, config, seed)
    if len(batches) == 1:
        return [Draw(fold, batches[0], config, seed)]
    return [Draw(fold, rows, config, (*seed, number)) for number, rows in enumerate(batches)]


def _batches(fold: Fold, config: FitConfig, seed: tuple[int, ...]) -> list[npt.NDArray[np.int64]]:
    """Cut a shuffled fold into batches; only Cox's loss has strata."""
    strata = fold.strata if config.loss == "cox" else torch.zeros_like(fold.strata)
    return cut_batches(fold.event.numpy(), strata.numpy(), config.batch_cases, seed)


def _schedule(config: FitConfig, epoch: int) -> float:
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))


def _save(
    path: Path, fusion: Fusion, optimiser: torch.optim.Optimizer, log: list[EpochLog]
) -> None:
    state = {
        "fusion": fusion.state_dict(),
        "optimiser": optimiser.state_dict(),
        "log": [asdict(entry) for entry in log],
    }
    with whole(path) as part:
        torch.save(state, part)


def _resume(path: Path | None, fusion: Fusion, optimiser: torch.optim.Optimizer) -> list[EpochLog]:
    """Restore an interrupted fit, if there is one, and return its log."""
    if path is None or not path.is_file():
        return []
    state = torch.load(path, map_location="cpu", weights_only=True)  # it may be a GPU's
    fusion.load_state_dict(state["fusion"])
    optimiser.load_state_dict(state["optimiser"])
    return [EpochLog(**entry) for entry in state["log"]]
