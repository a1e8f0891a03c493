"""The folder of an explained case: its files, and which bundle they explain."""

import json
from collections.abc import Mapping
from pathlib import Path

from model.errors import about_folder
from model.files import remove_parts, write_whole

EXPLANATION = "explanation.json"
_OURS = (
    EXPLANATION,
    "contributions.png",
    "leading_patches.png",
    "attention_*.png",
    "attention_*.geojson",
)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files in their order, each whole or not at all.

    Raises:
        ConfigError: The folder cannot be written.
    """
    with about_folder(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_whole(folder / name, content)


def clear_files(folder: Path) -> None:
    """Remove the files of an earlier explanation, which may be of other slides; no other files.

    Raises:
        ConfigError: The folder cannot be written.
    """
    remove_parts(folder)
    with about_folder(folder):
        for path in [path for pattern in _OURS for path in folder.glob(pattern)]:
            path.unlink()


def is_explained(folder: Path, bundle_sha256: str) -> bool:
    """Say whether the folder has an explanation of what this bundle predicted."""
    try:
        found = json.loads((folder / EXPLANATION).read_bytes())
    except (OSError, ValueError):  # absent, or damaged
        return False
    return isinstance(found, dict) and found.get("bundle_sha256") == bundle_sha256
