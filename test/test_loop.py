"""The training loop: the gradient of the whole risk set, repeatable and resumable."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from model.batch import CaseInputs, Dims, collate
from model.errors import ConfigError
from model.fusion import Fusion, build_fusion
from train import loop
from train.config import FitConfig
from train.dataset import Fold, drop_modalities, subsample
from train.loop import Draw, Plan, fold_loss, predict_risks, train_fusion
from train.losses import cox_nll, discrete_nll, fit_bins, to_bin
from train.objective import Objective

DIMS = Dims(embedding=6, genes=5, clinical=3)
SETTINGS = {
    "slide_width": 8,
    "attention_width": 4,
    "rna_widths": (8, 4),
    "dropout": 0.3,
    "rank": 4,
    "slide_rna": 4,
    "slide_clinical": 4,
    "rna_clinical": 4,
    "optional": ("rna",),
}
FIT = FitConfig(epochs=4, inner_folds=0, learning_rate=1e-2, max_patches=5)


def make_fold(n: int = 40, *, seed: int = 0) -> Fold:
    rng = np.random.default_rng(seed)
    inputs = []
    for _ in range(n):
        bag = rng.normal(size=(int(rng.integers(1, 12)), 6))
        inputs.append(
            CaseInputs(
                bag=torch.from_numpy(bag).to(torch.get_default_dtype()),
                rna=torch.from_numpy(rng.normal(size=5)).to(torch.get_default_dtype()),
                clinical=torch.from_numpy(rng.normal(size=3)).to(torch.get_default_dtype()),
            )
        )
    return Fold(
        case_ids=tuple(str(i) for i in range(n)),
        inputs=tuple(inputs),
        bags=None,
        dims=DIMS,
        optional=("rna",),
        event=torch.from_numpy(rng.random(n) < 0.4),
        time=torch.from_numpy(rng.integers(1, 20, n).astype(float)),
        strata=torch.from_numpy(rng.integers(0, 2, n)),
    )


def make_fusion(seed: int = 0) -> Fusion:
    torch.manual_seed(seed)
    return build_fusion("pairwise", SETTINGS, DIMS)


def step_gradients(fusion: Fusion, draw: Draw) -> list[torch.Tensor]:
    """Return the gradients that one step leaves, without moving the weights."""
    optimiser = torch.optim.SGD(fusion.parameters(), lr=0.0)
    loop._step(fusion, optimiser, Objective.fit(draw.fold, draw.config), draw)
    return [parameter.grad.clone() for parameter in fusion.parameters()]


@pytest.fixture
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.usefixtures("double_precision")
def test_chunked_step_has_the_gradient_of_the_whole_risk_set(
    ties: Literal["efron", "breslow"],
) -> None:
    fold = make_fold()
    config = FIT.model_copy(update={"clip_norm": 1e9, "chunk_patches": 20, "ties": ties})
    fusion = make_fusion().eval()  # dropout off, so that one pass is comparable
    draw = Draw(fold, np.arange(len(fold)), config, (7,))
    assert len(list(draw.chunks())) > 5

    found = step_gradients(fusion, draw)

    whole = collate([draw.case(i) for i in range(len(fold))], DIMS)
    loss = cox_nll(
        fusion(whole)[:, 0], event=fold.event, time=fold.time, strata=fold.strata, ties=ties
    )
    expected = torch.autograd.grad(loss, list(fusion.parameters()))
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-9)


def test_dropout_is_replayed_between_the_two_passes() -> None:
    fold = make_fold()
    draw = Draw(fold, np.arange(len(fold)), FIT.model_copy(update={"chunk_patches": 30}), (3,))
    fusion = make_fusion().train()
    with torch.no_grad():
        first = torch.cat([logits for _, logits in loop._logits(fusion, draw)])
        second = torch.cat([logits for _, logits in loop._logits(fusion, draw)])
        other = torch.cat([x for _, x in loop._logits(fusion, replace(draw, seed=(4,)))])
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_each_batch_of_an_epoch_has_a_dropout_of_its_own() -> None:
    """A fold of one case 64 times over: what sets its batches apart is random."""
    one = make_fold(1)
    fold = replace(
        one,
        case_ids=one.case_ids * 64,
        inputs=one.inputs * 64,
        optional=(),
        event=torch.ones(64).bool(),
        time=torch.arange(64.0),
        strata=torch.zeros(64).long(),
    )
    config = FIT.model_copy(update={"batch_cases": 16, "max_patches": None})
    fusion = make_fusion().train()
    with torch.no_grad():
        logits = [
            torch.cat([part for _, part in loop._logits(fusion, draw)])
            for draw in loop._draws(fold, config, (0, 0))
        ]
    assert len(logits) == 4
    assert not any(torch.equal(logits[0], other) for other in logits[1:])
    (whole,) = loop._draws(fold, FIT, (0, 0))
    assert whole.seed == (0, 0)  # so that fits in full batch stay what they were


@pytest.mark.slow
def test_mixed_precision_trains_and_scores_in_float32() -> None:
    fold = make_fold()
    config = FIT.model_copy(update={"chunk_patches": 30, "precision": "bfloat16"})
    draw = Draw(fold, np.arange(len(fold)), config, (7,))
    plain = replace(draw, config=config.model_copy(update={"precision": "float32"}))
    mixed = torch.cat([g.flatten() for g in step_gradients(make_fusion().eval(), draw)])
    exact = torch.cat([g.flatten() for g in step_gradients(make_fusion().eval(), plain)])
    assert not torch.equal(mixed, exact)
    assert torch.cosine_similarity(mixed, exact, dim=0) > 0.99

    fusion = make_fusion()
    log = train_fusion(fusion, fold, Plan(config, 10, (1,)))
    assert log[-1].loss < log[0].loss
    assert {parameter.dtype for parameter in fusion.parameters()} == {torch.float32}
    np.testing.assert_array_equal(
        predict_risks(fusion, fold, config), predict_risks(fusion, fold, plain.config)
    )


def test_a_fit_that_diverges_ends_in_one_line() -> None:
    config = FIT.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(ConfigError, match="fit: expected a finite loss, found nan; a smaller "):
        train_fusion(make_fusion(), make_fold(), Plan(config, 10, (1,)))


def test_a_fusion_without_finite_logits_is_not_blamed_on_the_fit() -> None:
    fusion = make_fusion()
    torch.nn.init.constant_(fusion.head.bias, torch.nan)
    with pytest.raises(ConfigError) as caught:
        train_fusion(fusion, make_fold(), Plan(FIT, 1, (0,)))
    reason = "Pairwise gives no finite number before any training"
    assert str(caught.value) == f"fit: expected a finite loss, found nan; {reason}"


def test_a_fusion_fits_to_the_bags_and_adds_an_objective_of_its_own() -> None:
    fold = make_fold()
    config = FIT.model_copy(update={"clip_norm": 1e9, "chunk_patches": 20})
    fusion, seen = make_fusion().eval(), []
    weight = fusion.head.weight

    class Both(type(fusion)):
        def fit_unsupervised(self, bags):
            seen.extend(bags)

        def auxiliary_loss(self, batch, labels):
            return (labels.quantile + labels.event).float().mean() * self.head.weight.sum()

    draw = Draw(fold, np.arange(len(fold)), config, (7,))
    without = step_gradients(fusion, draw)
    fusion.__class__ = Both
    position = [id(parameter) for parameter in fusion.parameters()].index(id(weight))
    added = step_gradients(fusion, draw)[position] - without[position]
    events = np.sort(fold.time[fold.event].numpy())
    before = [min((events < time).sum(), len(events) - 1) for time in fold.time.numpy()]
    expected = np.mean((np.array(before) + 0.5) / len(events) + fold.event.numpy())
    torch.testing.assert_close(added, torch.full_like(weight, expected))

    train_fusion(fusion, fold, Plan(config, 1, (0,)))
    assert [bag.shape for bag in seen] == [fold.case(i).bag.shape for i in range(len(fold))]


def move_to_gpu(checkpoint: Path) -> None:
    """Have a checkpoint's tensors say that they were saved on a GPU."""
    with ZipFile(checkpoint) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    here, there = b"X\3\0\0\0cpu", b"X\6\0\0\0cuda:0"
    with ZipFile(checkpoint, "w") as archive:
        for name, content in files.items():
            own = name.endswith("data.pkl")
            assert not own or here in content
            archive.writestr(name, content.replace(here, there) if own else content)


@pytest.mark.parametrize("moved", [False, True])
def test_an_interrupted_fit_ends_like_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, moved: bool
) -> None:
    fold, validation = make_fold(), make_fold(seed=1)
    plan = Plan(FIT, 4, (1, 2))
    whole = make_fusion()
    expected = train_fusion(whole, fold, plan, validation=validation)

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    plan = replace(plan, checkpoint=tmp_path / "fit.checkpoint")
    steps = 0
    real = loop._step

    def crash(*arguments: object) -> float:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "_step", crash)
    with pytest.raises(KeyboardInterrupt):
        train_fusion(make_fusion(), fold, plan, validation=validation)
    assert plan.checkpoint.is_file()
    if moved:
        move_to_gpu(plan.checkpoint)
    resumed = make_fusion(seed=9)
    log = train_fusion(resumed, fold, plan, validation=validation)

    assert log == expected
    assert not plan.checkpoint.exists()
    for left, right in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(left, right)


def test_training_lowers_the_loss_and_is_repeatable() -> None:
    fold = make_fold()
    plan = Plan(FIT.model_copy(update={"modality_dropout": 0.0}), 40, (0,))
    first, second = make_fusion(), make_fusion()
    objective = Objective.fit(fold, FIT)
    before = fold_loss(first, fold, objective)
    assert train_fusion(first, fold, plan) == train_fusion(second, fold, plan)
    assert fold_loss(first, fold, objective) < before - 0.1
    np.testing.assert_array_equal(predict_risks(first, fold, FIT), predict_risks(second, fold, FIT))


def test_scores_do_not_depend_on_how_a_fold_is_cut_up() -> None:
    fold, fusion = make_fold(), make_fusion()
    small = predict_risks(fusion, fold, FIT.model_copy(update={"chunk_patches": 1}))
    large = predict_risks(fusion, fold, FIT)
    np.testing.assert_allclose(small, large, rtol=1e-5, atol=1e-6)


def test_batches_cover_the_fold_once_and_each_has_an_event() -> None:
    fold = make_fold(100)
    batches = loop._batches(fold, FIT.model_copy(update={"batch_cases": 16}), (0,))
    assert sorted(np.concatenate(batches).tolist()) == list(range(100))
    assert {len(batch) for batch in batches} <= {16, 17}
    assert all(fold.event.numpy()[batch].any() for batch in batches)
    assert len(loop._batches(fold, FIT, (0,))) == 1


def test_only_batches_of_the_cox_loss_keep_strata_together() -> None:
    fold = make_fold(100)
    cox = FIT.model_copy(update={"batch_cases": 16})
    nll = cox.model_copy(update={"loss": "nll"})
    mixed = [
        sum(len(fold.strata[rows].unique()) > 1 for rows in loop._batches(fold, config, (0,)))
        for config in (cox, nll)
    ]
    assert mixed[0] <= 1 and mixed[1] == 6


def test_subsample_keeps_order_and_coordinates() -> None:
    bag = torch.arange(10.0)[:, None]
    case = CaseInputs(bag=bag, coords=torch.arange(20).reshape(10, 2))
    drawn = subsample(case, 4, np.random.default_rng(0))
    assert len(drawn.bag) == 4
    assert (drawn.bag[1:] > drawn.bag[:-1]).all()
    assert torch.equal(drawn.coords[:, 0].to(torch.get_default_dtype()), 2 * drawn.bag[:, 0])
    assert subsample(case, 10, np.random.default_rng(0)) is case


def test_a_fold_is_scored_with_all_its_patches_and_modalities() -> None:
    fusion, fold = make_fusion().eval(), make_fold()
    with torch.inference_mode():
        expected = fusion(collate(fold.inputs, DIMS))[:, 0]
    drops = FIT.model_copy(update={"modality_dropout": 0.5})
    np.testing.assert_allclose(predict_risks(fusion, fold, drops), expected, rtol=1e-4, atol=1e-6)


def test_each_epoch_draws_anew() -> None:
    """Weights that all but stand still have the losses of the patches that were drawn."""
    still = FIT.model_copy(update={"learning_rate": 1e-12})
    losses = [
        entry.loss for entry in train_fusion(make_fusion(), make_fold(), Plan(still, 4, (0,)))
    ]
    assert np.diff(np.sort(losses)).min() > 1e-6


def test_a_steps_gradient_is_scaled_down_to_the_clip_norm() -> None:
    fold = make_fold()

    def gradient(clip_norm: float) -> torch.Tensor:
        config = FIT.model_copy(update={"clip_norm": clip_norm})
        draw = Draw(fold, np.arange(len(fold)), config, (7,))
        return torch.cat([part.flatten() for part in step_gradients(make_fusion(), draw)])

    free = gradient(1e9)
    norm = float(free.norm())
    torch.testing.assert_close(gradient(norm / 5), free / 5, rtol=1e-4, atol=1e-7)
    assert torch.equal(gradient(norm * 5), free)


@pytest.mark.parametrize("epochs", [3, 5])
def test_a_cosine_schedule_is_pytorchs_over_the_configs_epochs(
    monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    rates: list[float] = []

    def step(_: Fusion, optimiser: torch.optim.Optimizer, *__: object) -> float:
        rates.append(optimiser.param_groups[0]["lr"])
        return 0.0

    monkeypatch.setattr(loop, "_step", step)
    config = FIT.model_copy(update={"schedule": "cosine", "epochs": 5})
    train_fusion(make_fusion(), make_fold(), Plan(config, epochs, (0,)))
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=5)
    expected = []
    for _ in range(epochs):
        expected.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    assert rates == pytest.approx(expected)


def test_weight_decay_makes_weights_small() -> None:
    sizes = []
    for decay in (0.0, 20.0):
        fusion = make_fusion()
        config = FIT.model_copy(update={"weight_decay": decay})
        train_fusion(fusion, make_fold(), Plan(config, 4, (0,)))
        sizes.append(sum(float(weights.detach().square().sum()) for weights in fusion.parameters()))
    assert sizes[1] < 0.5 * sizes[0]


def test_a_padded_chunk_has_no_more_patches_than_it_may() -> None:
    config = FIT.model_copy(update={"chunk_patches": 24, "max_patches": None})
    chunks = [batch for _, batch in Draw(make_fold(), np.arange(40), config, (0,)).chunks()]
    assert sum(map(len, chunks)) == 40
    assert max(batch.mask.numel() for batch in chunks) <= 24


def test_modality_dropout_drops_only_optional_ones_and_never_all() -> None:
    case = CaseInputs(bag=torch.ones(2, 6), rna=torch.ones(5))
    rng = np.random.default_rng(0)
    drawn = [drop_modalities(case, ("slide", "rna"), 0.6, rng).modalities for _ in range(2000)]
    assert set(drawn) == {("slide",), ("rna",), ("slide", "rna")}
    assert abs(drawn.count(("slide",)) - drawn.count(("rna",))) < 150
    seen = {drop_modalities(case, ("rna",), 0.6, rng).modalities for _ in range(50)}
    assert seen == {("slide",), ("slide", "rna")}
    lone = CaseInputs(bag=torch.ones(2, 6))
    seen = {drop_modalities(lone, ("slide", "rna"), 0.6, rng).modalities for _ in range(50)}
    assert seen == {("slide",)}


def test_sentences_are_dropped_with_their_record() -> None:
    case = CaseInputs(torch.ones(2, 6), clinical=torch.ones(3), clinical_tokens=torch.ones(2, 5))
    rng = np.random.default_rng(0)
    drawn = [drop_modalities(case, ("clinical",), 0.5, rng) for _ in range(20)]
    kept = [(one.clinical is not None, one.clinical_tokens is not None) for one in drawn]
    assert set(kept) == {(True, True), (False, False)}


def test_discrete_time_bins_come_from_the_training_fold() -> None:
    fold, other = make_fold(), make_fold(seed=5)
    config = FIT.model_copy(update={"loss": "nll", "bins": 3, "alpha": 0.25})
    objective = Objective.fit(fold, config)
    expected = fold.time[fold.event].quantile(torch.tensor([1 / 3, 2 / 3], dtype=torch.float64))
    assert torch.equal(objective.edges, expected)
    logits = torch.randn(len(other), 3)
    bins = (other.time[:, None] >= expected).sum(dim=1)
    found = objective(logits, other, torch.arange(len(other)))
    assert torch.equal(found, discrete_nll(logits, event=other.event, bin=bins, alpha=0.25))


def test_the_discrete_time_loss_trains() -> None:
    fold = make_fold()
    config = FIT.model_copy(update={"loss": "nll", "bins": 3, "modality_dropout": 0.0})
    torch.manual_seed(0)
    fusion = build_fusion("pairwise", SETTINGS, DIMS.model_copy(update={"outputs": 3}))
    log = train_fusion(fusion, fold, Plan(config, 40, (0,)))
    assert log[-1].loss < log[0].loss - 0.1
    assert predict_risks(fusion, fold, config).shape == (len(fold),)


@pytest.mark.parametrize("loss", ["cox", "nll"])
def test_a_steps_loss_is_that_of_its_own_cases(loss: str) -> None:
    fold = make_fold(12, seed=3)
    config = FIT.model_copy(update={"loss": loss, "bins": 2})
    rows = torch.tensor([6, 1, 4, 11, 9, 0])
    objective = Objective.fit(fold, config)
    logits = torch.randn(len(rows), config.outputs)
    event, time, strata = fold.event[rows], fold.time[rows], fold.strata[rows]
    if loss == "cox":
        expected = cox_nll(logits, event=event, time=time, strata=strata, ties=config.ties)
    else:
        edges = fit_bins(event=fold.event, time=fold.time, n_bins=2)
        bins = to_bin(time, edges)
        expected = discrete_nll(logits, event=event, bin=bins, alpha=config.alpha)
    assert objective(logits, fold, rows).item() == pytest.approx(expected.item())
