"""The simulated part of a benchmark's page: a table, and in words what its numbers allow to say."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from model.messages import listed
from train.benchmark_oracle import COX, MAIN_EFFECTS, PRODUCTS, OracleConfig, OracleResult
from train.simulate_inputs import BLOCK, SIDE


def oracle_section(config: OracleConfig, results: Sequence[OracleResult]) -> str:
    """Return the part of the page: a table of models by sizes, and what it allows to say."""
    shares = Shares.of(results)
    sizes = sorted({result.cases for result in results})
    heads = ["model", "sees", *(f"n = {n:,} ({_events(results, n)} events)" for n in sizes)]
    sees = {result.label: " + ".join(result.sees) for result in results}
    rows = [
        [label, sees[label], *(shares.cell(label, n) for n in sizes)]
        for label in shares.order(sizes[-1])
    ]
    return "\n\n".join(
        [
            "## Simulated patients with a known risk",
            _setting(config, results),
            table(heads, rows),
            " ".join([*(shares.at(n) for n in sizes), *shares.over(sizes)]),
        ]
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _setting(config: OracleConfig, results: Sequence[OracleResult]) -> str:
    """Say what was drawn and how the models were fitted."""
    by_seed = {result.seed: result for result in results}.values()
    rates = ", ".join(f"{rate:g}" for rate in config.learning_rates)
    fit = config.fit
    return (
        f"Of the log hazard's variance {1 - config.interaction:.0%} comes from one factor of "
        f"histology, of RNA and of the clinical record each, and {config.interaction:.0%} from "
        "three products of two of them; all other factors are noise. A slide shows its factors in "
        f"{BLOCK**2} of {SIDE**2} patches, which a column marks. The same {config.unseen:,} unseen "
        f"patients ({_span([result.events for result in by_seed])} events) judge all models of a "
        f"seed; on them the true risk, the oracle, has a C-index of "
        f"{_mean_span([result.oracle for result in by_seed])}. Share of it: (C − 0.5) / "
        f"(C of the oracle − 0.5), mean over {len(by_seed)} seeds of cohort and model, in brackets "
        "the least and the most, then the mean C-index. Fusions: Cox loss, small widths, no "
        f"dropout; rate among {rates} and epochs up to "
        f"{listed([f'{epochs} (n = {n:,})' for n, epochs in config.sizes.items()])} from "
        f"{fit.inner_folds} inner folds. Both Cox models (ridge, strength from inner folds) are "
        "given the factors themselves, which fusions have to find in the patches."
    )


@dataclass(frozen=True)
class Shares:
    """The results by model and size, in the order of the seeds."""

    found: dict[tuple[str, int], list[OracleResult]]

    @classmethod
    def of(cls, results: Sequence[OracleResult]) -> "Shares":
        """Sort the results."""
        found: dict[tuple[str, int], list[OracleResult]] = defaultdict(list)
        for result in sorted(results, key=lambda result: result.seed):
            found[result.label, result.cases].append(result)
        return cls(dict(found))

    def mean(self, label: str, cases: int) -> float:
        """Return the mean share over the seeds."""
        return float(np.mean([result.share for result in self.found[label, cases]]))

    def order(self, cases: int) -> list[str]:
        """Return the labels, the Cox models first, then the highest mean share at a size."""
        labels = {label for label, _ in self.found}
        return sorted(labels, key=lambda label: (label not in COX, -self.mean(label, cases)))

    def fusions(self, cases: int) -> list[str]:
        """Return the labels of the fusions, the highest mean share at a size first."""
        return [label for label in self.order(cases) if label not in COX]

    def cell(self, label: str, cases: int) -> str:
        """Return the mean share, its range, and the mean C-index."""
        results = self.found[label, cases]
        c = np.mean([result.c_index for result in results])
        return f"{_mean_span([result.share for result in results])}; C {c:.3f}"

    def at(self, cases: int) -> str:
        """Say who is best at a size, and who is above the Cox model of the main effects."""
        fusions, cox = self.fusions(cases), self.mean(MAIN_EFFECTS, cases)
        bar = [result.share for result in self.found[MAIN_EFFECTS, cases]]
        above = [label for label in fusions if self.above(label, cases, bar)]
        return (
            f"At n = {cases:,} {self.named(fusions[:1], cases)} reaches most of the fusions; the "
            f"Cox model of the main effects {cox:.2f}. Above that model in every seed: "
            f"{self.named(above, cases)}; {len(fusions) - len(above)} of {len(fusions)} are not."
        )

    def named(self, labels: Sequence[str], cases: int) -> str:
        """Return labels with their mean shares."""
        return listed([f"{label} ({self.mean(label, cases):.2f})" for label in labels])

    def above(self, label: str, cases: int, bar: Sequence[float]) -> bool:
        """Tell whether a model is above a bar in each seed."""
        runs = self.found[label, cases]
        return all(run.share > least for run, least in zip(runs, bar, strict=True))

    def over(self, sizes: Sequence[int]) -> Iterator[str]:
        """Say what few cases cost, and where models without products have to stop."""
        few, many = sizes[0], sizes[-1]
        if few < many:
            medians = [
                np.median([self.mean(label, n) for label in self.fusions(n)]) for n in (few, many)
            ]
            yield (
                f"From n = {many:,} to {few:,} the median fusion falls from {medians[1]:.2f} to "
                f"{medians[0]:.2f}, the Cox model of the main effects from "
                f"{self.mean(MAIN_EFFECTS, many):.2f} to {self.mean(MAIN_EFFECTS, few):.2f}, and "
                f"the one that is given all products too from {self.mean(PRODUCTS, many):.2f} to "
                f"{self.mean(PRODUCTS, few):.2f}."
            )
        additive = [result.additive_share for result in self.found[MAIN_EFFECTS, many]]
        found = [label for label in self.fusions(many) if self.above(label, many, additive)]
        yield (
            f"The true main effects, known exactly, reach {np.mean(additive):.2f}; with products "
            f"above that in every seed, at n = {many:,}: {self.named(found, many)}."
        )
        spread = np.median([np.ptp([r.share for r in runs]) for runs in self.found.values()])
        yield f"Between seeds a share varies by {spread:.2f} (median of the ranges)."


def _events(results: Sequence[OracleResult], cases: int) -> str:
    return _span([result.train_events for result in results if result.cases == cases])


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _mean_span(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"
