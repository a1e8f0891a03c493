"""Does the model beat the best simple baseline? The first line of a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from model.survival import Array
from train.estimate import Estimate, Outcome, Unavailable, difference, estimate
from train.evaluation import Value, follow_up_end
from train.metrics import harrell_c, uno_c


@dataclass(frozen=True)
class Compared:
    """A baseline beside the model, on the same patients.

    `lead` is the model's Harrell's C minus the baseline's, with the paired bootstrap's interval.
    """

    name: str
    harrell_c: Value
    uno_c: Value
    lead: Value


@dataclass(frozen=True)
class Verdict:
    """What the report says first.

    Attributes:
        beats: Whether the model beats its rival; None where that cannot be said.
        rival: The best baseline, or "chance"; None where no baseline was fitted.
        sentence: The same in words and numbers.
    """

    beats: bool | None
    rival: str | None
    sentence: str


def compare_risks(
    risk: Array,
    baselines: Sequence[tuple[str, Array]],
    outcome: Outcome,
    *,
    resamples: int,
) -> list[Compared]:
    """Compare the model's out-of-fold risks (n,) with those of named baselines."""
    uno = partial(uno_c, train=outcome, tau=follow_up_end(outcome))
    return [
        Compared(
            name,
            harrell_c=estimate(harrell_c, other, outcome, resamples=resamples),
            uno_c=estimate(uno, other, outcome, resamples=resamples),
            lead=difference(harrell_c, risk, other, outcome, resamples=resamples),
        )
        for name, other in baselines
    ]


def judge(own: Value, compared: Sequence[Compared], *, complete: bool = True) -> Verdict:
    """Say whether the model beats the baseline with the highest C-index.

    It does where the whole interval of the paired difference lies above 0.

    Args:
        own: The model's C-index.
        compared: The baselines that could be fitted.
        complete: Whether these are all.
    """
    if isinstance(own, Unavailable):
        return Verdict(None, None, f"The model's C-index {own}.")
    known = [(b.harrell_c.value, b) for b in compared if isinstance(b.harrell_c, Estimate)]
    if not known:
        return Verdict(
            None,
            None,
            "No simple baseline was fitted in the same folds, so whether the model beats one is "
            f"not known: C-index {with_interval(own)}.",
        )
    best_c, best = max(known, key=lambda pair: pair[0])
    best_one = (
        f"the best simple baseline{'' if complete else ' that could be fitted'} ({best.name})"
    )
    numbers = f"C-index {own.value:.3f} against {best_c:.3f}"
    if isinstance(best.lead, Unavailable) or best.lead.low is None:
        sentence = f"Too few patients to say whether the model beats {best_one}: {numbers}."
        return Verdict(None, best.name, sentence)
    beats = best.lead.low > 0
    sentence = (
        f"The model {'beats' if beats else 'does not beat'} {best_one}: {numbers}, "
        f"difference {with_interval(best.lead, signed=True)}."
    )
    return Verdict(beats, best.name, sentence)


def judge_alone(own: Value, *, seen: int = 0) -> Verdict:
    """Say whether the risks order a cohort's patients better than chance.

    Args:
        own: Their C-index.
        seen: How many of the patients the model was trained on; any leave nothing to say.
    """
    if isinstance(own, Unavailable):
        return Verdict(None, "chance", f"The C-index {own}.")
    numbers = f"C-index {with_interval(own)}"
    if seen:
        trained = f"the model was trained on {seen:,} of these patients"
        sentence = f"This is no validation, {trained}: {numbers}."
        return Verdict(None, "chance", sentence)
    if own.low is None:
        sentence = f"Too few patients to say whether the risks order them: {numbers}."
        return Verdict(None, "chance", sentence)
    beats = own.low > 0.5
    sentence = (
        f"The risks {'order' if beats else 'do not order'} these patients better than chance: "
        f"{numbers}."
    )
    return Verdict(beats, "chance", sentence)


def with_interval(value: Estimate, *, signed: bool = False) -> str:
    """Return an estimate as text, such as "0.712 (95 % interval 0.650 to 0.771)"."""
    form = "{:+.3f}" if signed else "{:.3f}"
    text = form.format(value.value)
    if value.low is not None and value.high is not None:
        text += f" (95 % interval {form.format(value.low)} to {form.format(value.high)})"
    return text.replace("-", "−")
