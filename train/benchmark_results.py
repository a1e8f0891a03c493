"""The page of a benchmark: a table a cohort, and in words what its numbers allow to say."""

import os
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np

from model.files import write_whole
from model.messages import listed
from train.baselines import INNER_FOLDS, Forest
from train.benchmark_config import BenchmarkConfig, title
from train.benchmark_figure import draw_forest
from train.benchmark_oracle import OracleResult
from train.benchmark_oracle_page import oracle_section, table
from train.benchmark_published import read_published
from train.benchmark_scores import CohortRisks, Line, Scores, score
from train.estimate import Estimate
from train.table_fusion import Chosen

ENDPOINTS = {"dss": "disease-specific survival", "pfi": "progression-free interval"}
LIBRARIES = ("torch", "scikit-survival", "numpy", "pandas")


def write_results(
    config: BenchmarkConfig,
    results: Sequence[CohortRisks],
    oracle: Sequence[OracleResult],
    *,
    command: str,
) -> None:
    """Score the cohorts, write the page and draw its picture beside it."""
    scores = [score(risks, config.resamples) for risks in results]
    picture = config.results.with_suffix(".png").name
    parts = [summary(scores, config.caveats, picture), _how(config, results, command)]
    parts += [_section(config, one) for one in scores]
    if config.oracle:
        parts.append(oracle_section(config.oracle, oracle))
    write_whole(config.results, ("\n\n".join(parts) + "\n").encode())
    draw_forest(scores, config.results.with_suffix(".png"))


# -- parts of the page ---------------------------------------------------------------------------


def summary(scores: Sequence[Scores], caveats: Sequence[str], picture: str) -> str:
    """Open the page with a row a fusion; not each can run on every cohort."""
    found = [{line.label: line for line in one.fusions} for one in scores]
    labels = dict.fromkeys(label for lines in found for label in lines)
    best = [f"*{one.best.label}* {_number(one.best.pooled.value)}" for one in scores]
    rows = [["*best baseline*", *best]] + [
        [label, *(_against_best(lines.get(label)) for lines in found)] for label in labels
    ]
    return "\n\n".join(
        [
            "# What the fusions reach on public tables",
            "Written by the command below, from its own run; typed in are the caveats, what the "
            "inputs are, and what is marked as published.",
            *(f"**Caveat.** {caveat}" for caveat in caveats),
            "Harrell's C-index of pooled out-of-fold risks, and in brackets its lead on the best "
            "baseline of the cohort, with the 95 % interval of the paired bootstrap over patients. "
            "Empty: the cohort lacks a modality that the model needs.",
            table(["", *(_heading(one) for one in scores)], rows),
            f"![C-index of every model on every cohort]({picture})",
            *_overall(scores),
        ]
    )


def _against_best(line: Line | None) -> str:
    return "" if line is None else f"{_number(line.pooled.value)} ({_lead(line)})"


def _heading(scores: Scores) -> str:
    outcome = scores.risks.outcome
    return f"{title(scores.risks.cohort)}; {len(outcome)}, {int(outcome.event.sum())} events"


def _overall(scores: Sequence[Scores]) -> Iterator[str]:
    """Say what all cohorts together show, and in a line a cohort which fusions show it."""
    leads = [line.lead.value for one in scores for line in one.fusions if line.lead is not None]
    signs = Counter(_sign(line) for one in scores for line in one.fusions)
    yield (
        f"Of {len(leads)} pairs of a fusion and a cohort: above the best baseline "
        f"{sum(lead > 0 for lead in leads)}; shown to be better (interval above 0) {signs[1]}, to "
        f"be worse (interval below 0) {signs[-1]}. That baseline is picked by the numbers of this "
        "page, which flatters it."
    )
    yield "\n".join(
        f"- **{title(one.risks.cohort)}**, against {one.best.label}. Better: "
        f"{listed(_shown(one, 1))}. Worse: {listed(_shown(one, -1))}."
        for one in scores
    )


def _shown(scores: Scores, sign: int) -> list[str]:
    return [line.label for line in scores.fusions if _sign(line) == sign]


def _how(config: BenchmarkConfig, results: Sequence[CohortRisks], command: str) -> str:
    fit = config.fit
    seconds = sum(model.seconds for risks in results for model in risks.models)
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    rates = ", ".join(f"{rate:g}" for rate in config.learning_rates)
    return "\n".join(
        [
            "## How it was run",
            "",
            f"- `{command}`, page written on {datetime.now(UTC):%Y-%m-%d}. The fits took "
            f"{seconds / 60:.0f} minutes of CPU time, {config.workers} cohorts at a time, "
            f"on {os.cpu_count()} {platform.machine()} CPU cores; Python "
            f"{platform.python_version()}, {versions}.",
            "- RNA: SurvPath's 1,577 genes, log2; beside MMP's folds PORPOISE's z-scores, which "
            "its authors made from the whole cohort, as sign(z) log(1 + |z|). Histology: 607 "
            "features a slide (PathAI), on the same scale as those z-scores; no patch embeddings. "
            + (
                "A slide's bag has a row for each of the features' 20 natural groups. "
                if config.histology_groups
                else ""
            )
            + "Clinical: age, sex, stage as a number. A patient takes part who has all the "
            "modalities of the table.",
            "- Published test folds. Scaling, gene choice, principal components, penalties and "
            "epochs come from the other folds alone; a run touches each test fold once.",
            "- The strength of each penalty is the one with the least Cox loss on "
            f"{INNER_FOLDS} inner folds. Forest: {Forest.trees} trees, one seed.",
            f"- Deep models: seeds {', '.join(map(str, config.seeds))}; AdamW, its rate among "
            f"{rates} and the number of epochs up to {fit.epochs} together those of the least Cox "
            f"loss on {fit.inner_folds} inner folds with the first seed; weight decay "
            f"{fit.weight_decay:g}; Cox loss over steps of {fit.batch_cases or 'all'} cases, also "
            "for models whose papers use a discrete-time likelihood; what else they minimise is "
            "kept. Their risk is the mean over the seeds, each z-scored by its own training risks, "
            "which is an ensemble; the column of single seeds is without that help.",
            "- Folds: mean ± standard deviation of the folds' own C-indices. Intervals: "
            f"{config.resamples:,} resamples of patients; the models are not fitted again.",
            "- *late fusion* adds the z-scored risks of one ridge Cox a modality, all of them or "
            "those it names; *joint Cox* is one ridge Cox on 20 principal components of RNA and of "
            "histology, age, sex and stage.",
        ]
    )


def _section(config: BenchmarkConfig, scores: Scores) -> str:
    cohort, outcome = scores.risks.cohort, scores.risks.outcome
    rows = [
        [
            line.label + (" *(fusion)*" if not line.baseline else ""),
            _interval(line.pooled),
            _folds(line.folds),
            _seeds(line.seeds),
            _lead(line),
            _chosen(model.chosen),
        ]
        for line, model in zip(scores.lines, scores.risks.models, strict=True)
    ]
    heads = ["model", "C, pooled", "C, folds", "C, single seeds", "lead on the best baseline"]
    heads.append("rates and epochs chosen")
    published = read_published(config.data, cohort.study)
    lines = [
        f"## {title(cohort)}",
        f"{len(outcome)} patients, {int(outcome.event.sum())} events, "
        f"{ENDPOINTS[cohort.endpoint]}; folds of "
        f"{'SurvPath' if cohort.source == 'survpath' else 'MMP'}.",
        table(heads, rows),
        " ".join(reading(scores)),
        "Published, not computed here; other inputs (most use slides), and often another rule of "
        "selection:",
        "\n".join(f"- {part}" for part in published) or "- none known",
    ]
    return "\n\n".join(lines)


def reading(scores: Scores) -> list[str]:
    """Say what the table of a cohort shows."""
    best = scores.best
    sentences = [f"Best baseline: {best.label}, {_interval(best.pooled)}."]
    for sign, words in ((1, "Better"), (-1, "Worse"), (0, "Not told apart from it")):
        found = [
            f"{line.label} ({_number(line.pooled.value)})"
            for line in scores.fusions
            if _sign(line) == sign
        ]
        if found:
            sentences.append(f"{words}: {listed(found)}.")
    clinical = next((line for line in scores.lines if line.label == "clinical Cox"), None)
    if clinical is not None:
        c = clinical.pooled.value
        below = [line.label for line in scores.fusions if line.pooled.value < c]
        sentences.append(
            f"The Cox model of age, sex and stage alone ({_number(c)}) is above {listed(below)}."
            if below
            else f"Every fusion is above the Cox model of age, sex and stage ({_number(c)})."
        )
    gains = [
        f"{line.label} {_signed(line.gain)}" for line in scores.fusions if line.gain is not None
    ]
    if gains:
        sentences.append(f"Against plain concatenation: {listed(gains)}.")
    low, high = best.pooled.low, best.pooled.high
    if low is not None and high is not None:
        sentences.append(
            f"With {best.pooled.events} events an interval is {high - low:.2f} wide: smaller "
            "differences between unpaired numbers mean nothing."
        )
    return sentences


# -- numbers as text -----------------------------------------------------------------------------


def _number(value: float) -> str:
    return f"{value:.3f}"


def _interval(value: Estimate) -> str:
    if value.low is None:
        return _number(value.value)
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _signed(value: Estimate) -> str:
    text = f"{value.value:+.3f}"
    if value.low is not None:
        text += f" [{value.low:+.3f}, {value.high:+.3f}]"
    return text.replace("-", "−")


def _lead(line: Line) -> str:
    return "best" if line.lead is None else _signed(line.lead)


def _folds(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    text = f"{np.mean(known):.3f} ± {np.std(known):.3f}"
    return text if len(known) == len(values) else f"{text} ({len(known)} of {len(values)} folds)"


def _seeds(values: Sequence[float]) -> str:
    return " ".join(_number(value) for value in values) if len(values) > 1 else ""


def _chosen(choices: Sequence[Chosen]) -> str:
    """Return how often each rate was chosen, and the epochs: their least, median and most."""
    if not choices:
        return ""
    rates = Counter(choice.learning_rate for choice in choices)
    counts = ", ".join(f"{rate:g} × {count}" for rate, count in sorted(rates.items()))
    epochs = sorted(choice.epochs for choice in choices)
    return f"{counts}; {epochs[0]} to {epochs[-1]}, median {epochs[len(epochs) // 2]}"


def _sign(line: Line) -> int:
    """Return 1 where a line is shown to be better than the best baseline, -1 worse, 0 neither."""
    lead = line.lead
    if lead is None or lead.low is None or lead.high is None:
        return 0
    return int(lead.low > 0) - int(lead.high < 0)
