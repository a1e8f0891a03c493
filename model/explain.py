"""Why a case got its risk: what each input contributed, and where on its slides the model looked.

`explain_case` is the main path. The gradients are in `explain_gradients.py`; what is known of the
patches is in `explain_patches.py`, shown by `explain_slides.py` and `explain_pictures.py`.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from model import __version__
from model.batch import Bag, Batch
from model.case import Case
from model.clinical import ClinicalSpec, lower_keys
from model.errors import Warn
from model.explain_files import EXPLANATION, write_files
from model.explain_gradients import REFERENCE, TOLERANCE, Array, Attribution, attribute_risk
from model.explain_patches import NOTICE, Patches, attend, gather
from model.explain_pictures import contribution_bars, signed
from model.explain_slides import LeadingPatch, SlidesExplained, SlideSummary, explain_slides
from model.member import Member
from model.predictor import Predictor

LEADING_GENES = 20
LEAST_SPREAD = 1e-3
"""Of attention, over its mean: below it patches differ by rounding alone."""
BARS = 12
"""Of one panel of the picture."""
MODALITY_NAMES = {"slide": "slides", "rna": "RNA", "clinical": "clinical record"}


@dataclass(frozen=True)
class Gene:
    """What a gene, so many training standard deviations off its mean, did to the risk."""

    name: str
    distance: float
    contribution: float


@dataclass(frozen=True)
class Column:
    """What a column of the clinical record, with the value as recorded, did to the risk."""

    name: str
    value: str
    contribution: float


@dataclass(frozen=True)
class Explanation:
    """What `explanation.json` says; contributions are in standard deviations of the training risk.

    Attributes:
        risk_percentile: Percentage of the training patients with a lower risk.
        reference: What the reference patient is, whose risk is `reference_risk`.
        modalities: Contribution of each that the case has.
        unexplained: risk - reference_risk - the sum of the modalities; 0 but for the error of the
            integral, and for inputs that a fusion hides from its gradient.
        gradient_steps: At which each member's gradient was evaluated.
        clinical: Every column, largest contribution first.
        genes: The leading ones; `other_genes` is the sum of the rest.
        half_of_attention: How few patches hold half of the attention.
        notes: What is missing here, and why.
    """

    case_id: str
    notice: str
    software: str
    bundle_sha256: str
    model: str
    members: int
    risk: float
    risk_percentile: float
    reference: str
    reference_risk: float
    modalities: Mapping[str, float]
    unexplained: float
    gradient_steps: tuple[int, ...]
    clinical: tuple[Column, ...]
    genes: tuple[Gene, ...]
    other_genes: float
    half_of_attention: int | None
    slides: tuple[SlideSummary, ...]
    leading_patches: tuple[LeadingPatch, ...]
    notes: tuple[str, ...]


def explain_case(
    predictor: Predictor,
    case: Case,
    bag: Bag | None,
    directory: Path,
    *,
    bundle_sha256: str,
    warn: Warn,
) -> Explanation:
    """Explain a case's risk, and write it with pictures into a folder of its own.

    All of it comes from the inputs and members of the prediction, and is the mean over them.

    Args:
        predictor: What scored the case.
        case: The case.
        bag: Its patches, as they were when it was scored.
        directory: Gets the folder `case_id`; `explanation.json` is written last.
        bundle_sha256: Of the predictor's bundle.
        warn: Takes what could not be explained, one line each.

    Raises:
        CaseError: The case lacks what the bundle needs.
        ConfigError: The folder cannot be written.
    """
    bundle, notes = predictor.bundle, list[str]()
    batches = [
        # Scoring the case has said what there is to say of its inputs.
        member.collate([member.inputs(case, bag, warn=lambda text: None)]).to(predictor.device)
        for member in bundle.members
    ]
    found = [
        attribute_risk(member, batch) for member, batch in zip(bundle.members, batches, strict=True)
    ]
    risk = _mean([own.risk for own in found])
    modalities: dict[str, float] = {
        name: _mean([own.parts[name].sum() for own in found]) for name in found[0].parts
    }
    unexplained = -_mean([own.error for own in found])
    if abs(unexplained) > TOLERANCE:
        notes.append(
            f"contributions: {unexplained:+.3f} SD of the risk is left unexplained, since "
            f"{bundle.manifest.fusion} is not smooth, or hides an input from its gradient"
        )
    percentile = float(bundle.mapping.percentile([risk])[0])
    patches = _patches(predictor, bag, batches, found, warn=notes.append)
    title = f"Case {case.case_id}: {percentile:.0f} % of the training patients have a lower risk"
    slides = SlidesExplained({})
    if patches is not None and bundle.manifest.patches is not None:
        slides = explain_slides(title, case, patches, bundle.manifest.patches, warn=notes.append)
    genes = _genes(bundle.members, batches, found)
    explanation = Explanation(
        case_id=case.case_id,
        notice=". ".join(dict.fromkeys(filter(None, (NOTICE, bundle.manifest.notice)))),
        software=f"TriSurv {__version__}",
        bundle_sha256=bundle_sha256,
        model=bundle.manifest.fusion,
        members=len(found),
        risk=risk,
        risk_percentile=percentile,
        reference=REFERENCE,
        reference_risk=_mean([own.reference for own in found]),
        modalities=modalities,
        unexplained=unexplained,
        gradient_steps=tuple(own.steps for own in found),
        clinical=_columns(bundle.members, case, found),
        genes=genes[:LEADING_GENES],
        other_genes=sum(gene.contribution for gene in genes[LEADING_GENES:]),
        half_of_attention=None if patches is None else patches.cover_half(),
        slides=slides.slides,
        leading_patches=slides.leading,
        notes=tuple(notes),
    )
    for note in notes:
        warn(note)
    write_files(
        directory / case.case_id,
        {
            **slides.files,
            "contributions.png": contribution_bars(
                f"{title}\n{_equation(explanation)}", _panels(explanation)
            ),
            EXPLANATION: _json(explanation),
        },
    )
    return explanation


def _patches(
    predictor: Predictor,
    bag: Bag | None,
    batches: Sequence[Batch],
    found: Sequence[Attribution],
    *,
    warn: Warn,
) -> Patches | None:
    """Return what is known of the patches; None where there are none, or nothing weighs them."""
    if bag is None or "slide" not in found[0].parts:
        return None
    try:
        attention = attend(predictor.bundle.members, batches)
    except ValueError:
        name = predictor.bundle.manifest.fusion
        warn(f"attention: {name} weighs no patches, so there is no heatmap and no leading patch")
        return None
    if len(attention) > 1 and np.ptp(attention) < LEAST_SPREAD * attention.mean():
        warn("attention: every patch has the same, so those that lead are merely the first")
    contribution: Array = np.mean([own.parts["slide"] for own in found], axis=0)
    return gather(bag, attention, contribution)


def _genes(
    members: Sequence[Member], batches: Sequence[Batch], found: Sequence[Attribution]
) -> tuple[Gene, ...]:
    """Return every gene of any member, largest contribution first.

    A member that does not use a gene gives it no contribution, and no say in its distance.
    """
    values: dict[str, list[float]] = defaultdict(list)
    sums: dict[str, float] = defaultdict(float)
    for member, batch, own in zip(members, batches, found, strict=True):
        if member.rna is None or "rna" not in own.parts:
            continue
        rows = zip(member.rna.genes, batch.rna[0].tolist(), own.parts["rna"].tolist(), strict=True)
        for gene, value, contribution in rows:
            values[gene].append(value)
            sums[gene] += contribution
    genes = [Gene(gene, _mean(values[gene]), total / len(found)) for gene, total in sums.items()]
    return tuple(sorted(genes, key=_size, reverse=True))


def _columns(
    members: Sequence[Member], case: Case, found: Sequence[Attribution]
) -> tuple[Column, ...]:
    """Return every clinical column, largest contribution first: all of its entries as one."""
    values = lower_keys({} if case.clinical is None else case.clinical.values)
    sums: dict[str, float] = defaultdict(float)
    for member, own in zip(members, found, strict=True):
        if member.clinical is None or "clinical" not in own.parts:
            continue
        if member.fusion.READS_TEXT and member.clinical_text is not None:
            names = [column.name for column in member.clinical_text.spec.columns]
        else:
            names = [_owner(entry, member.clinical) for entry in member.clinical.columns]
        for name, contribution in zip(names, own.parts["clinical"].tolist(), strict=True):
            sums[name] += contribution
    columns = [
        Column(name, str(values.get(name.lower(), "not given")), total / len(found))
        for name, total in sums.items()
    ]
    return tuple(sorted(columns, key=_size, reverse=True))


def _owner(entry: str, spec: ClinicalSpec) -> str:
    """Return which column of the record an entry of the vector is of: "age=missing" is of "age"."""
    is_number = any(column.name == entry for column in spec.numbers)
    return entry if is_number else entry.partition("=")[0]


def _size(own: Gene | Column) -> float:
    return abs(own.contribution)


def _equation(explanation: Explanation) -> str:
    reference = explanation.reference_risk
    inputs = signed(explanation.risk - reference, ".2f")
    return (
        f"Its risk {signed(explanation.risk, '.2f')} is the reference patient's "
        f"{signed(reference, '.2f')} and {inputs} by its own inputs"
    )


def _panels(explanation: Explanation) -> dict[str, list[tuple[str, float]]]:
    """Return the bars of the picture, by the title of their panel."""
    whole = [(MODALITY_NAMES[name], value) for name, value in explanation.modalities.items()]
    if abs(explanation.unexplained) > TOLERANCE:
        whole.append(("unexplained", explanation.unexplained))
    panels = {"all inputs": whole}
    if explanation.clinical:
        panels["clinical record, the leading columns"] = [
            (f"{own.name} = {own.value}", own.contribution) for own in explanation.clinical[:BARS]
        ]
    if explanation.genes:
        panels["leading genes, and how far from the mean"] = [
            (f"{own.name}, {signed(own.distance, '.1f')} SD", own.contribution)
            for own in explanation.genes[:BARS]
        ]
    return panels


def _json(explanation: Explanation) -> bytes:
    return json.dumps(asdict(explanation), indent=2, allow_nan=False).encode() + b"\n"


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
