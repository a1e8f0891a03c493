"""The report of a cohort: one page for whoever comes back to a finished run.

The page stands on its own: figures, style, script and rows are in it, and it forbids the browser to
load more.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from model import __version__
from model.bundle import Bundle
from model.causes import Cause, group_messages
from model.cohort_figures import GROUPS, curves_figure, percentiles_figure, times_figure
from model.cohort_log import PAGE
from model.cohort_scorer import Result
from model.errors import about_folder
from model.files import write_whole
from model.predictor import SURVIVAL_MONTHS
from model.survival import Array, TimeMapping

TEMPLATE, SCRIPT = "cohort_report.html.jinja", "cohort_report.js"


@dataclass(frozen=True)
class RiskGroup:
    """A third of the training risks, and what is predicted for the cases in it."""

    name: str
    colour: str
    cases: int
    share: float
    time: float | None


def write_cohort_report(
    directory: Path, results: Sequence[Result], run: Mapping[str, Any], bundle: Bundle
) -> Path:
    """Write `report.html`, whole or not at all, and return its path.

    Args:
        directory: Of the run.
        results: One a case of the manifest, in its order.
        run: What `run.json` says.
        bundle: What scored the cases.

    Raises:
        ConfigError: The folder cannot be written.
    """
    template = page_environment(Path(__file__).parent).get_template(TEMPLATE)
    page = template.render(_content(results, run, bundle))
    path = directory / PAGE
    with about_folder(directory):
        write_whole(path, page.encode())
    return path


def page_environment(templates: Path) -> Environment:
    """Return what fills in the templates of a folder.

    Whatever is put in is escaped, as ids and messages hold anything, and a name that nothing is
    known of is an error.
    """
    return Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _content(
    results: Sequence[Result], run: Mapping[str, Any], bundle: Bundle
) -> dict[str, object]:
    """Return all that the page shows, by the names that the template uses."""
    mapping, manifest = bundle.mapping, bundle.manifest
    risk = np.array([result.risk for result in results if result.risk is not None])
    groups = _split(risk, mapping)
    failures = group_messages((result.case_id, (result.error,)) for result in results)
    warnings = group_messages(
        (result.case_id, [text for text in result.warnings if text != manifest.notice])
        for result in results
    )
    warnings += _beyond_training(results, mapping)
    script = (Path(__file__).parent / SCRIPT).read_text(encoding="utf-8")
    return {
        "version": __version__,
        "run": run,
        "manifest": manifest,
        "unit": manifest.task.unit,
        "months": SURVIVAL_MONTHS,
        "cases": len(results),
        "scored": len(risk),
        "failed": sum(bool(result.error) for result in results),
        "warned": len({case for warning in warnings for case in warning.cases}),
        "hours": _hours(run),
        "seconds": _median([result.seconds for result in results if result.seconds is not None]),
        "modalities": Counter(
            ", ".join(result.modalities) for result in results if result.risk is not None
        ).most_common(),
        "failures": failures,
        "warnings": warnings,
        "unchecked": _unchecked(bundle),
        "case_ids": [result.case_id for result in results],
        "tau": mapping.tau,
        "training": len(mapping.risks),
        "groups": _describe(groups, mapping, len(risk)),
        "figures": _draw(risk, groups, bundle) if len(risk) else {},
        "rows": _rows(results, failures, warnings, bundle),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


# -- what went wrong, or nearly --------------------------------------------------------------------


def _unchecked(bundle: Bundle) -> list[str]:
    """Return the inputs that are used, but whose range in training the bundle does not know."""
    known = {
        "clinical": ("clinical numbers", bundle.manifest.clinical_range),
        "slide": ("embeddings", bundle.embedding_range),
    }
    used = [known[name] for name in bundle.members[0].fusion.config.modalities if name in known]
    return [what for what, own in used if own is None]


def _beyond_training(results: Sequence[Result], mapping: TimeMapping) -> list[Cause]:
    """Return the cases whose risk no training patient had: the inputs are unlike those, too."""
    low, high = mapping.risks[[0, -1]]
    below = Cause("risk below that of every training patient")
    above = Cause("risk above that of every training patient")
    for position, result in enumerate(results):
        if result.risk is not None and result.risk < low:
            below.cases.append(position)
        if result.risk is not None and result.risk > high:
            above.cases.append(position)
    return [cause for cause in (below, above) if cause.cases]


# -- what was predicted ----------------------------------------------------------------------------


def _split(risk: Array, mapping: TimeMapping) -> dict[str, Array]:
    """Split risks (n,) at the thirds of the training risks; name → the group's risks."""
    group = np.searchsorted(np.quantile(mapping.risks, [1 / 3, 2 / 3]), risk, side="right")
    return {name: risk[group == number] for number, name in enumerate(GROUPS)}


def _describe(groups: Mapping[str, Array], mapping: TimeMapping, scored: int) -> list[RiskGroup]:
    return [
        RiskGroup(
            name=name,
            colour=GROUPS[name],
            cases=len(risk),
            share=len(risk) / max(scored, 1),
            time=_median(mapping.time(risk).tolist()),
        )
        for name, risk in groups.items()
    ]


def _draw(risk: Array, groups: dict[str, Array], bundle: Bundle) -> dict[str, str]:
    mapping, unit = bundle.mapping, bundle.manifest.task.unit
    return {
        "curves": curves_figure(groups, mapping, unit),
        "times": times_figure(risk, mapping, unit),
        "percentiles": percentiles_figure(mapping.percentile(risk)),
    }


def _rows(
    results: Sequence[Result], failures: Sequence[Cause], warnings: Sequence[Cause], bundle: Bundle
) -> list[list[object]]:
    """Return the table's rows: numbers rounded for the eye, messages as they are.

    The bundle's notice, which all cases have, is left out. The last cell names the causes of a
    case, `f0` being the first failure and `w0` the first warning.
    """
    causes: list[list[str]] = [[] for _ in results]
    for letter, kinds in (("f", failures), ("w", warnings)):
        for number, cause in enumerate(kinds):
            for position in cause.cases:
                causes[position].append(f"{letter}{number}")
    return [
        [
            result.case_id,
            _round(result.time, 1),
            None if result.interval is None else _interval(result.interval, bundle.mapping.tau),
            _round(result.risk, 3),
            _round(result.risk_percentile, 0),
            *(_round(result.survival.get(months), 3) for months in SURVIVAL_MONTHS),
            ", ".join(result.modalities),
            result.error,
            [text for text in result.warnings if text != bundle.manifest.notice],
            own,
        ]
        for result, own in zip(results, causes, strict=True)
    ]


def _interval(ends: tuple[float, float], tau: float) -> tuple[float, str]:
    """Return what an interval sorts by, and how it reads."""
    low, high = ends
    return low, f"{low:.1f} – {high:.1f}{'+' if high >= tau else ''}"


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _hours(run: Mapping[str, Any]) -> float:
    """Return how long the last session of the run took."""
    started, finished = (datetime.fromisoformat(run[name]) for name in ("started", "finished"))
    return (finished - started).total_seconds() / 3600
