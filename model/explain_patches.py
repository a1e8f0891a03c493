"""What a model made of each patch: on the slides, as numbers for QuPath, and the leading ones."""

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from model import __version__
from model.batch import Bag, Batch
from model.member import Member
from model.patches import PatchSpec, plan_reading, read_patches
from model.slide import Slide
from model.survival import percentages_below

Array = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

NOTICE = "research software, not for clinical use"


@dataclass(frozen=True)
class Patches:
    """The patches of one slide, or of a case.

    Attributes:
        coords: (n, 2) top-left corners, level-0 pixels.
        slide_index: (n,) which of the case's slides each is from.
        attention: (n,) mean weight over the members; over all patches of the case it sums to 1.
        relative: (n,) the same over the mean of the case's patches.
        percentile: (n,) percentage of the case's patches with less attention; equal ones count
            half.
        contribution: (n,) to the risk, in standard deviations of the training risk.
    """

    coords: npt.NDArray[np.int64]
    slide_index: npt.NDArray[np.int64]
    attention: Array
    relative: Array
    percentile: Array
    contribution: Array

    def __len__(self) -> int:
        return len(self.coords)

    def take(self, rows: npt.NDArray[np.int64]) -> "Patches":
        """Return some of the patches, in the order of their row numbers."""
        return Patches(**{name: values[rows] for name, values in vars(self).items()})

    def leading(self, count: int) -> npt.NDArray[np.int64]:
        """Return the rows of the patches with the most attention, most first."""
        return np.argsort(-self.attention, kind="stable")[:count]

    def cover_half(self) -> int:
        """Return how few patches hold half of the attention."""
        cumulated = np.sort(self.attention)[::-1].cumsum()
        return int(np.searchsorted(cumulated, cumulated[-1] / 2)) + 1


@dataclass(frozen=True)
class View:
    """What the pictures need of one slide.

    Attributes:
        thumbnail: RGB (h, w, 3).
        downsample: Level-0 pixels per pixel of the thumbnail, along x and along y.
        mpp: Micrometres per level-0 pixel.
        side_px: Of a patch, in level-0 pixels.
        corner: Left and top of what was scanned, in level-0 pixels.
    """

    thumbnail: Pixels
    downsample: tuple[float, float]
    mpp: float
    side_px: float
    corner: tuple[int, int] = (0, 0)


def attend(members: Sequence[Member], batches: Sequence[Batch]) -> Array:
    """Return the members' mean attention to each patch (N,) of a case.

    Raises:
        ValueError: The fusion weighs no patches.
    """
    with torch.inference_mode():
        weights = [
            member.fusion.attention(batch)[0].double().cpu().numpy()
            for member, batch in zip(members, batches, strict=True)
        ]
    mean: Array = np.mean(weights, axis=0)
    return mean


def gather(bag: Bag, attention: Array, contribution: Array) -> Patches:
    """Put together what is known of a case's patches."""
    return Patches(
        coords=bag.coords.numpy(),
        slide_index=bag.slide_index.numpy(),
        attention=attention,
        relative=attention / attention.mean(),
        percentile=percentages_below(attention, np.sort(attention)),
        contribution=contribution,
    )


def view_slide(slide: Slide, spec: PatchSpec, most_px: int) -> View:
    """Look at a slide from afar.

    Raises:
        CaseError: The file is damaged, or coarser than the patches.
    """
    overview = slide.thumbnail(most_px)
    return View(
        thumbnail=overview.values,
        downsample=overview.downsample,
        mpp=slide.mpp,
        side_px=spec.size_px * plan_reading(slide, spec).downsample,
        corner=slide.scanned_px[:2],
    )


def read_squares(slide: Slide, patches: Patches, spec: PatchSpec) -> list[Pixels]:
    """Return the pixels of patches as the encoder sees them, in the patches' order.

    Raises:
        CaseError: The file is damaged, or coarser than the patches.
    """
    by_row = np.lexsort(patches.coords.T)  # the slide is read row by row
    squares = read_patches(slide, patches.coords[by_row], spec)
    read = dict(zip(by_row.tolist(), squares, strict=True))
    return [read[row] for row in range(len(patches))]


def geojson(case_id: str, path: Path, patches: Patches, view: View, colours: Pixels) -> str:
    """Return patches as a FeatureCollection of detections, which QuPath opens over the slide.

    Each is a square in level-0 pixels with three measurements, and has a colour (n, 3) for a viewer
    that colours by none of them. The same patch has the same id at each run. They count from the
    corner of what was scanned: QuPath shows no more of a slide.

    Source: RFC 7946 for the geometry; what QuPath expects of the properties is in its
    QuPathTypeAdapters (measurements by name since version 0.4), and what it shows in its
    OpenslideImageServer (openslide.bounds).
    """
    features = ",\n".join(_features(case_id, path, patches, view, colours))
    head = json.dumps({"software": f"TriSurv {__version__}", "notice": NOTICE, "case_id": case_id})
    return f'{{"type": "FeatureCollection", {head[1:-1]}, "features": [\n{features}\n]}}\n'


def _features(
    case_id: str, path: Path, patches: Patches, view: View, colours: Pixels
) -> Iterator[str]:
    rows = zip(
        patches.coords.tolist(),
        patches.attention.tolist(),
        patches.percentile.tolist(),
        patches.contribution.tolist(),
        colours.tolist(),
        strict=True,
    )
    for (x, y), attention, percentile, contribution, colour in rows:
        left, top = x - view.corner[0], y - view.corner[1]
        right, bottom = round(left + view.side_px), round(top + view.side_px)
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{case_id}/{path.name}/{x}/{y}")
        yield json.dumps(
            {
                "type": "Feature",
                "id": str(identity),
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {
                    "objectType": "detection",
                    "color": colour,
                    "measurements": {
                        "Attention": attention,
                        "Attention percentile": round(percentile, 3),
                        "Risk contribution (SD)": contribution,
                    },
                },
            },
            allow_nan=False,
        )
