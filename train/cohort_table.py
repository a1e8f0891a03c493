"""Who was in the cohort: counts, follow-up, what there is of each patient, centre by centre."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from lifelines import KaplanMeierFitter

from model.clinical import ClinicalSpec
from model.errors import ConfigError
from model.interface import MONTHS_PER, ClinicalSchema, Unit
from train.cohort import LabelledCase, clinical_records, outcomes
from train.estimate import Outcome
from train.forecast import observed_survival

KAPLAN_MEIER_MONTHS = (12, 36, 60)
MOST_CENTRES = 6  # more columns do not fit; the whole cohort is shown alone

HasSlide = Callable[[LabelledCase], bool]


@dataclass(frozen=True)
class CohortColumn:
    """The cases of one centre, or all of them.

    Attributes:
        patients: How many patients the n cases are of.
        follow_up: Median follow-up by the reverse Kaplan-Meier curve; None where not reached.
        first, last: The shortest and the longest time.
        event_free: Months → `observed_survival`, within the follow-up.
        slide, rna, clinical: How many cases have it.
        genes: Fewest and most genes of a case with RNA.
        missing: Clinical column → how many of the clinical records have no value there.
    """

    name: str
    n: int
    patients: int
    events: int
    follow_up: float | None
    first: float
    last: float
    event_free: dict[int, tuple[float, float | None, float | None]]
    slide: int
    rna: int
    clinical: int
    genes: tuple[int, int] | None
    missing: dict[str, int]


def describe_cohort(
    cases: Sequence[LabelledCase], schema: ClinicalSchema, *, unit: Unit, has_slide: HasSlide
) -> list[CohortColumn]:
    """Describe all patients, then those of each centre where there are several."""
    groups = {"all": list(cases)}
    centres = sorted({case.centre for case in cases})
    if 1 < len(centres) <= MOST_CENTRES:
        groups |= {name: [case for case in cases if case.centre == name] for name in centres}
    return [_describe(name, group, schema, unit, has_slide) for name, group in groups.items()]


def _describe(
    name: str,
    cases: Sequence[LabelledCase],
    schema: ClinicalSchema,
    unit: Unit,
    has_slide: HasSlide,
) -> CohortColumn:
    outcome = outcomes(cases)
    genes = [len(case.case.rna.values) for case in cases if case.case.rna is not None]
    times = {months: months / MONTHS_PER[unit] for months in KAPLAN_MEIER_MONTHS}
    return CohortColumn(
        name=name,
        n=len(cases),
        patients=outcome.patients,
        events=int(outcome.event.sum()),
        follow_up=_median_follow_up(outcome),
        first=float(outcome.time.min()),
        last=float(outcome.time.max()),
        event_free={
            months: observed_survival(outcome, at)
            for months, at in times.items()
            if at <= outcome.time.max()
        },
        slide=sum(map(has_slide, cases)),
        rna=len(genes),
        clinical=sum(case.case.clinical is not None for case in cases),
        genes=(min(genes), max(genes)) if genes else None,
        missing=_missing(cases, schema),
    )


def _median_follow_up(outcome: Outcome) -> float | None:
    """Return the median time to censoring, events taken as its censoring.

    Source: Schemper and Smith 1996, A note on quantifying follow-up in studies of failure time.
    """
    median = KaplanMeierFitter().fit(outcome.time, ~outcome.event).median_survival_time_
    return float(median) if np.isfinite(median) else None


def _missing(cases: Sequence[LabelledCase], schema: ClinicalSchema) -> dict[str, int]:
    """Count the records without a value that a model could use, by the schema's columns."""
    records = clinical_records(cases)
    missing = dict.fromkeys((*schema.numbers, *schema.categories), len(records))
    try:
        spec = ClinicalSpec.fit(records, schema)
    except ConfigError:  # no record, or no value in any
        return missing
    # Training warns of what is odd about a record.
    vectors = [spec.apply(record, warn=lambda text: None) for record in records]
    counts = np.sum(vectors, axis=0)
    for column, count in zip(spec.columns, counts.tolist(), strict=True):
        name, _, value = column.rpartition("=")
        if value == "missing":
            missing[name] = int(count)
    return missing
