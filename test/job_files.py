"""Grand Challenge jobs of CHIMERA, as the platform lays them out."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from model.interface import read_interface

PRESETS = Path(__file__).parents[1] / "resources" / "interfaces"
CHIMERA = read_interface("chimera_task3", [PRESETS])

SLIDE = "bladder-cancer-tissue-biopsy-whole-slide-image"
MASK = "tissue-mask"
RNA = "bulk-rna-seq-bladder-cancer"
# The platform cuts a slug at 50 characters, and does not cut the path.
CLINICAL = "chimera-clinical-data-of-bladder-cancer-recurrence-patients"[:50]
PATHS = {
    SLIDE: "images/bladder-cancer-tissue-biopsy-wsi",
    MASK: "images/tissue-mask",
    RNA: "bulk-rna-seq-bladder-cancer.json",
    CLINICAL: "chimera-clinical-data-of-bladder-cancer-recurrence-patients.json",
}
SLIDE_UUID = "0b7c5c1e-5f0e-4d0e-9a43-6d2f7f6f7a10"
MASK_UUID = "f3a1f2c8-07b3-4b0d-8e57-0c8a4f0a9b21"

GENES = {"A1BG": 7.61361045919288, "A1CF": 6.7250557547282}
PATIENT = {"age": 72, "sex": "Male", "progression": 0, "Time_to_prog_or_FUend": 110}


def socket_item(
    slug: str, path: str, *, keys: Iterable[str] = ("socket", "interface"), **changes: Any
) -> dict[str, Any]:
    """Return an item of `inputs.json`, as the platform serialises one."""
    image = path.startswith("images/")
    socket = {
        "pk": 982,
        "slug": slug,
        "title": slug.replace("-", " ").title(),
        "description": "",
        "kind": "Image" if image else "Anything",
        "super_kind": "Image" if image else "File",
        "relative_path": path,
        "default_value": None,
        "look_up_table": None,
        "overlay_segments": [],
    }
    return {
        **{key: dict(socket) for key in keys},
        "value": None,
        "file": None if image else f"https://grand-challenge.org/media/{Path(path).name}",
        "image": {"pk": SLIDE_UUID, "name": "3A_001_HE.tif"} if image else None,
        "pk": 3405148,
    } | changes


def chimera_items(**options: Any) -> list[dict[str, Any]]:
    return [socket_item(slug, path, **options) for slug, path in PATHS.items()]


def write_inputs(job: Path, items: object) -> None:
    (job / "inputs.json").write_text(json.dumps(items, indent=2))


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_image(path: Path) -> Path:
    """Write a file that nothing here opens: a case only names its images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"II*\0")
    return path


def make_job(job: Path) -> Path:
    """Make a job with all four inputs, and no `inputs.json` yet."""
    write_image(job / PATHS[SLIDE] / f"{SLIDE_UUID}.tif")
    write_image(job / PATHS[MASK] / f"{MASK_UUID}.tif")
    write_json(job / PATHS[RNA], GENES)
    write_json(job / PATHS[CLINICAL], PATIENT)
    return job


def no_warning(text: str) -> None:
    raise AssertionError(f"unexpected warning: {text}")
