"""The losses against R's published values, four other libraries, finite differences and algebra."""

import math
import warnings
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext

import lifelines
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
from sksurv.datasets import load_gbsg2, load_veterans_lung_cancer, load_whas500
from sksurv.linear_model import CoxPHSurvivalAnalysis
from torch import Tensor

from model.errors import ConfigError
from train.losses import cox_nll, discrete_nll, fit_bins, to_bin

TIES = ("efron", "breslow")


def cohort(seed: int, n: int = 60, times: int = 15) -> dict[str, Tensor]:
    """Return log hazards and outcomes with many ties, between events and with censorings."""
    draw = np.random.default_rng(seed)
    return {
        "log_hazard": torch.tensor(draw.normal(size=n)),
        "event": torch.tensor(draw.random(n) < 0.5),
        "time": torch.tensor(draw.integers(1, times, n).astype(float)),
    }


def cox_by_hand(log_hazard: Tensor, *, event: Tensor, time: Tensor, ties: str) -> float:
    """Write the partial likelihood out as nested loops, in decimals of any size."""
    rows = [
        (Decimal(a), e, t)
        for a, e, t in zip(log_hazard.tolist(), event.tolist(), time.tolist(), strict=True)
    ]
    total = Decimal(0)
    with localcontext(Context(prec=50, Emax=MAX_EMAX, Emin=MIN_EMIN)):
        for now in {t for _, e, t in rows if e}:
            at_risk = sum(a.exp() for a, _, t in rows if t >= now)
            tied = [a for a, e, t in rows if e and t == now]
            for r, a in enumerate(tied):
                taken = sum(b.exp() for b in tied) * r / len(tied) if ties == "efron" else 0
                total += (at_risk - taken).ln() - a
    return float(total) / max(1, int(event.sum()))


# ---------------------------------------------------------------- Cox: values


# Log-likelihoods of R's survival::coxph at its own maximum: these columns, as numbers.
WHAS = (load_whas500, ["afb", "age", "av3", "bmi", "chf", "cvd"])
VETERAN = (
    load_veterans_lung_cancer,
    ["Age_in_years", "Karnofsky_score", "Months_from_Diagnosis"],
)
GBSG = (load_gbsg2, ["age", "pnodes", "tsize"])


@pytest.mark.parametrize(
    ("load", "columns", "ties", "published"),
    [
        (*WHAS, "breslow", -1134.06),
        (*WHAS, "efron", -1133.55),
        (*VETERAN, "breslow", -485.04),
        (*VETERAN, "efron", -484.39),
        (*GBSG, "breslow", -1761.33),
        (*GBSG, "efron", -1761.25),
    ],
)
def test_cox_equals_r_statsmodels_and_sksurv(load, columns, ties, published):
    x, y = load()
    x = x[columns].astype(float)
    event, time = (y[name].copy() for name in y.dtype.names)
    outcome = {"event": torch.tensor(event), "time": torch.tensor(time)}
    fitted = CoxPHSurvivalAnalysis(ties=ties, n_iter=200, tol=1e-12).fit(x, y)
    h = torch.tensor(x.to_numpy() @ fitted.coef_, requires_grad=True)
    log_likelihood = -cox_nll(h, **outcome, ties=ties).item() * event.sum()
    assert log_likelihood == pytest.approx(published, abs=0.006)
    theirs = sm.PHReg(time, x.to_numpy(), status=event.astype(int), ties=ties)
    assert log_likelihood == pytest.approx(theirs.loglike(fitted.coef_), abs=1e-8)
    # scikit-survival's maximum is a stationary point of ours.
    (gradient,) = torch.autograd.grad(cox_nll(h, **outcome, ties=ties), h)
    scaled = (x - x.mean()) / x.std()
    np.testing.assert_allclose(gradient.numpy() @ scaled.to_numpy(), 0, atol=1e-7)


def test_cox_equals_lifelines():
    x, y = load_whas500()
    x = x[["age", "bmi", "hr"]].astype(float)
    frame = x.assign(event=y["fstat"], time=y["lenfol"])
    fitted = lifelines.CoxPHFitter().fit(frame, "time", "event")
    h = torch.tensor((x - x.mean()).to_numpy() @ fitted.params_.to_numpy())
    event, time = y["fstat"].copy(), y["lenfol"].copy()
    ours = cox_nll(h, event=torch.tensor(event), time=torch.tensor(time))
    assert -float(ours) * event.sum() == pytest.approx(fitted.log_likelihood_, abs=1e-7)


@pytest.mark.slow  # the import alone takes five seconds
@pytest.mark.parametrize("ties", TIES)
def test_cox_equals_torchsurv(ties):
    with warnings.catch_warnings():
        # On import torchsurv compiles with an interface of torch that is going away.
        warnings.simplefilter("ignore")
        from torchsurv.loss.cox import neg_partial_log_likelihood

        case = cohort(1)
        theirs = neg_partial_log_likelihood(
            case["log_hazard"], case["event"], case["time"], ties, reduction="sum"
        )
    ours = cox_nll(**case, ties=ties) * case["event"].sum()
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)  # theirs is float32


@pytest.mark.parametrize(
    ("ties", "terms"),
    [
        ("breslow", lambda b, r: -2 * b + math.log(3 * r + 3) + 2 * math.log(r + 3)),
        (
            "efron",
            lambda b, r: -2 * b + math.log(3 * r + 3) + math.log(r + 3) + math.log((r + 5) / 2),
        ),
    ],
)
def test_cox_equals_the_formula_worked_out_by_hand(ties, terms):
    """Six patients, hazard ratio r = e^b: at risk 3r + 3 at 1, r + 3 at 6 (two die), 1 at 9."""
    x = torch.tensor([1.0, 1, 1, 0, 0, 0], dtype=torch.float64)
    event = torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    time = torch.tensor([1, 1, 6, 6, 8, 9])
    for b in (-1.0, 0.0, 1.475285, 1.676857):
        loss = cox_nll(b * x, event=event, time=time, ties=ties)
        assert loss.item() * 4 == pytest.approx(terms(b, math.exp(b)), abs=1e-12)
    # R's published coefficient for each kind of ties.
    best = {"breslow": 1.475285, "efron": 1.676857}[ties]
    b = torch.tensor(best, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(cox_nll(b * x, event=event, time=time, ties=ties), b)
    assert float(slope) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("ties", TIES)
def test_cox_equals_nested_loops(ties):
    for seed in range(20):
        case = cohort(seed, n=5 + seed, times=2 + seed // 2)
        ours = float(cox_nll(**case, ties=ties))
        assert ours == pytest.approx(cox_by_hand(**case, ties=ties), abs=1e-13)


@pytest.mark.parametrize("ties", TIES)
def test_strata_never_share_a_risk_set(ties):
    case = cohort(3)
    strata = torch.arange(60) % 3
    parts = [{k: v[strata == s] for k, v in case.items()} for s in range(3)]
    summed = sum(cox_nll(**part, ties=ties) * part["event"].sum() for part in parts)
    joined = cox_nll(**case, strata=strata, ties=ties) * case["event"].sum()
    assert float(joined) == pytest.approx(float(summed), rel=1e-12)


# ---------------------------------------------------------------- Cox: properties and edges


@pytest.mark.parametrize("ties", TIES)
def test_cox_gradient_is_right(ties):
    case = cohort(4, n=12, times=5)
    h = case.pop("log_hazard").requires_grad_()
    strata = torch.arange(12) % 2
    assert torch.autograd.gradcheck(lambda x: cox_nll(x, **case, strata=strata, ties=ties), h)


@pytest.mark.parametrize("ties", TIES)
def test_cox_ignores_order_shift_and_unit(ties):
    case = cohort(5)
    loss = cox_nll(**case, ties=ties)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    shuffled = {k: v[order] for k, v in case.items()}
    shifted = case | {"log_hazard": case["log_hazard"] + 7, "time": case["time"] * 30.4}
    column = case | {"log_hazard": case["log_hazard"][:, None]}
    for other in (shuffled, shifted, column):
        torch.testing.assert_close(cox_nll(**other, ties=ties), loss, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("scale", [100.0, 1e4, 1e6])
def test_cox_survives_extreme_risks(ties, scale):
    """Risks far beyond exp's range, where a plain or an ε-guarded exponential gives inf or junk."""
    case = cohort(6, n=30, times=8)
    case["log_hazard"] = (case["log_hazard"] * scale).requires_grad_()
    loss = cox_nll(**case, ties=ties)
    (gradient,) = torch.autograd.grad(loss, case["log_hazard"])
    assert gradient.isfinite().all()
    case["log_hazard"] = case["log_hazard"].detach()
    assert loss.item() == pytest.approx(cox_by_hand(**case, ties=ties), rel=1e-12)


def test_cox_in_single_precision_is_computed_in_double():
    case = cohort(7)
    h = case["log_hazard"].float().requires_grad_()
    loss = cox_nll(h, event=case["event"], time=case["time"])
    loss.backward()
    assert loss.dtype == torch.float64
    assert h.grad is not None
    assert h.grad.dtype == torch.float32
    assert loss.item() == pytest.approx(float(cox_nll(**case)), rel=1e-6)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize(("n", "events"), [(1, 0), (1, 1), (5, 0)])
def test_cox_without_information_is_zero_and_attached(ties, n, events):
    h = torch.randn(n, requires_grad=True)
    loss = cox_nll(h, event=torch.arange(n) < events, time=torch.arange(n) + 1.0, ties=ties)
    loss.backward()
    assert loss.item() == 0
    assert h.grad is not None
    assert h.grad.tolist() == [0] * n


# ---------------------------------------------------------------- discrete time


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_discrete_nll_equals_the_products_written_out(alpha):
    draw = np.random.default_rng(0)
    logits, event = draw.normal(size=(30, 5)), draw.random(30) < 0.5
    bins = draw.integers(0, 5, 30)
    total = 0.0
    for row, observed, k in zip(logits, event, bins, strict=True):
        h = [1 / (1 + math.exp(-a)) for a in row]
        survived = [math.prod(1 - a for a in h[:j]) for j in range(6)]
        if observed:
            total -= math.log(survived[k]) + math.log(h[k])
        else:
            total -= (1 - alpha) * math.log(survived[k + 1])
    ours = discrete_nll(
        torch.tensor(logits), event=torch.tensor(event), bin=torch.tensor(bins), alpha=alpha
    )
    assert float(ours) == pytest.approx(total / 30, rel=1e-12)


def test_discrete_nll_is_the_bernoulli_likelihood_of_the_bins():
    """With alpha = 0, a case is one coin toss for each bin that it entered."""
    draw = np.random.default_rng(1)
    logits, event = torch.tensor(draw.normal(size=(40, 6))), torch.tensor(draw.random(40) < 0.4)
    bins = torch.tensor(draw.integers(0, 6, 40))
    entered = torch.arange(6) <= bins[:, None]
    tails = (torch.arange(6) == bins[:, None]) & event[:, None]
    tosses = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, tails.double(), reduction="none"
    )
    expected = (tosses * entered).sum(1).mean()
    ours = discrete_nll(logits, event=event, bin=bins, alpha=0.0)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


def test_discrete_nll_has_a_gradient_and_survives_extreme_logits():
    draw = torch.Generator().manual_seed(3)
    logits = torch.randn(6, 4, dtype=torch.float64, generator=draw).requires_grad_()
    event, bins = torch.tensor([1, 0, 1, 0, 1, 0]).bool(), torch.tensor([0, 0, 3, 3, 1, 2])
    assert torch.autograd.gradcheck(
        lambda x: discrete_nll(x, event=event, bin=bins, alpha=0.5), logits
    )

    wrong = torch.full((2, 4), -500.0)
    wrong[1] = 500.0
    wrong.requires_grad_()
    loss = discrete_nll(
        wrong, event=torch.tensor([True, False]), bin=torch.tensor([3, 3]), alpha=0.0
    )
    loss.backward()
    assert loss.item() == pytest.approx((500 + 4 * 500) / 2)
    assert wrong.grad is not None
    # Where a clamped likelihood would stand still: a full push on the event's bin and on all four.
    assert wrong.grad.tolist() == [[0, 0, 0, -0.5], [0.5, 0.5, 0.5, 0.5]]


def test_bins_hold_equally_many_events():
    draw = np.random.default_rng(2)
    event, time = torch.tensor(draw.random(400) < 0.5), torch.tensor(draw.exponential(20, 400))
    edges = fit_bins(event=event, time=time, n_bins=8)
    counts = to_bin(time[event], edges).bincount(minlength=8)
    assert edges.shape == (7,)
    assert counts.max() - counts.min() <= 1
    _, quantiles = pd.qcut(time[event].numpy(), 8, retbins=True)
    np.testing.assert_allclose(edges.numpy(), quantiles[1:-1], rtol=1e-14)


def test_bins_are_closed_on_the_left_and_cover_every_time():
    edges = torch.tensor([5.0, 10.0], dtype=torch.float64)
    times = torch.tensor([0.1, 4.9, 5.0, 9.9, 10.0, 999.0])
    assert to_bin(times, edges).tolist() == [0, 0, 1, 1, 2, 2]


def test_tied_edges_move_to_the_next_event_time():
    event, time = torch.ones(9).bool(), torch.tensor([1.0, 1, 1, 1, 1, 1, 2, 3, 4])
    assert fit_bins(event=event, time=time, n_bins=4).tolist() == [2, 3, 4]
    assert fit_bins(event=event, time=time, n_bins=3).tolist() == [2, 3]
    assert fit_bins(event=event, time=5 - time, n_bins=3).tolist() == [3, 4]
    assert fit_bins(event=event, time=time, n_bins=2).tolist() == [2]


def test_every_bin_holds_events_however_tied():
    draw = np.random.default_rng(0)
    for _ in range(300):
        time = torch.tensor(draw.integers(1, draw.integers(2, 25), 30).astype(float))
        bins = int(draw.integers(2, 9))
        if len(time.unique()) >= bins:
            edges = fit_bins(event=torch.ones(30).bool(), time=time, n_bins=bins)
            assert to_bin(time, edges).bincount(minlength=bins).min() > 0


def test_too_few_event_times_for_the_bins():
    event, time = torch.ones(9).bool(), torch.tensor([1.0, 1, 1, 1, 1, 1, 2, 3, 4])
    message = "expected at least 8 distinct event times, one for each bin, found 4 among 9 events"
    with pytest.raises(ConfigError, match=message):
        fit_bins(event=event, time=time, n_bins=8)
