"""The slides of an explained case: heatmaps, squares for QuPath and the sheet of patches."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.case import Case, SlideFile
from model.errors import CaseError, Warn
from model.explain_patches import Patches, Pixels, View, geojson, read_squares, view_slide
from model.explain_pictures import colour_of, heatmap, sheet
from model.patches import PatchSpec
from model.slide import Slide

THUMBNAIL_PX = 1400
LEADING = 12
MOST_NAME = 50
"""Characters of a slide's name in those of its pictures, which file systems want short."""


@dataclass(frozen=True)
class SlideSummary:
    """How the patches of one slide fared, and in which files to see it.

    Attributes:
        attention: Share of the case's attention.
        contribution: To the risk, in standard deviations of the training risk.
        side_px: Of a patch, in level-0 pixels.
    """

    slide: str
    patches: int
    attention: float
    contribution: float
    side_px: float
    heatmap: str
    geojson: str


@dataclass(frozen=True)
class LeadingPatch:
    """One of the patches with the most attention; `number` is the one on the sheet."""

    number: int
    slide: str
    x: int
    y: int
    attention: float
    percentile: float
    contribution: float


@dataclass(frozen=True)
class SlidesExplained:
    """What there is to say of a case's slides, and the files that show it, by name."""

    files: Mapping[str, bytes]
    slides: tuple[SlideSummary, ...] = ()
    leading: tuple[LeadingPatch, ...] = ()


def explain_slides(
    title: str, case: Case, patches: Patches, spec: PatchSpec, *, warn: Warn
) -> SlidesExplained:
    """Draw the slides of a case; one that is not there or cannot be drawn is a warning."""
    rows = patches.leading(LEADING)
    spread = f"half of the case's is on {patches.cover_half():,} of {len(patches):,} patches"
    numbers = {row: number for number, row in enumerate(rows.tolist(), 1)}
    files: dict[str, bytes] = {}
    summaries: list[SlideSummary] = []
    squares: dict[int, Pixels] = {}
    for index in np.unique(patches.slide_index).tolist():
        of_slide = np.flatnonzero(patches.slide_index == index)
        own = patches.take(of_slide)
        numbered = {
            row: numbers[of_case]
            for row, of_case in enumerate(of_slide.tolist())
            if of_case in numbers
        }
        try:
            file = _file_of(case, index, own)
            # Scoring the case has said what there is to say of the slide.
            with Slide.open(
                file.path, default_mpp=case.default_mpp, warn=lambda text: None
            ) as slide:
                view = view_slide(slide, spec, THUMBNAIL_PX)
                leading = own.take(np.array(list(numbered), dtype=np.int64))
                pixels = read_squares(slide, leading, spec)
        except CaseError as error:
            warn(f"slide {index + 1}: no pictures: {error}")
            continue
        squares |= dict(zip(numbered.values(), pixels, strict=True))
        summary = _summarise(index, file.path, own, view)
        summaries.append(summary)
        heading = (
            f"{title}\n{file.path.name}: {100 * summary.attention:.0f} % of the attention; {spread}"
        )
        files[summary.heatmap] = heatmap(heading, view, own, numbered)
        files[summary.geojson] = geojson(
            case.case_id, file.path, own, view, colour_of(own.percentile)
        ).encode()
    if squares:
        files["leading_patches.png"] = sheet(
            f"{title}\nThe patches with the most attention",
            dict(sorted(squares.items())),
            patches.take(rows),
            spec.size_px * spec.mpp,
        )
    return SlidesExplained(files, tuple(summaries), _describe(case, patches.take(rows)))


def _file_of(case: Case, index: int, patches: Patches) -> SlideFile:
    """Return a slide's file.

    Raises:
        CaseError: The case names none, or its bag does not say where the patches lie.
    """
    if index >= len(case.slides):
        raise CaseError("the case", expected="the slide of its bag", found="no file named")
    if len(patches) > 1 and not np.ptp(patches.coords, axis=0).any():
        raise CaseError("the bag", expected="coordinates", found="every patch at one place")
    return case.slides[index]


def _summarise(index: int, path: Path, patches: Patches, view: View) -> SlideSummary:
    stem = f"attention_{index + 1}_{path.stem[:MOST_NAME]}"
    return SlideSummary(
        slide=path.name,
        patches=len(patches),
        attention=float(patches.attention.sum()),
        contribution=float(patches.contribution.sum()),
        side_px=view.side_px,
        heatmap=f"{stem}.png",
        geojson=f"{stem}.geojson",
    )


def _describe(case: Case, leading: Patches) -> tuple[LeadingPatch, ...]:
    names = [
        case.slides[index].path.name if index < len(case.slides) else f"slide {index + 1}"
        for index in leading.slide_index.tolist()
    ]
    return tuple(
        LeadingPatch(number, name, x, y, attention, percentile, contribution)
        for number, (name, (x, y), attention, percentile, contribution) in enumerate(
            zip(
                names,
                leading.coords.tolist(),
                leading.attention.tolist(),
                leading.percentile.tolist(),
                leading.contribution.tolist(),
                strict=True,
            ),
            1,
        )
    )
