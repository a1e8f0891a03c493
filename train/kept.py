"""Results that stay on disk, each with all that it follows from."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.files import write_whole


def file_name(label: str) -> str:
    """Return a label as it is spelt in a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


def check_labels(labels: Sequence[str]) -> None:
    """Refuse labels of which one would overwrite another's file.

    Raises:
        ValueError: Two labels are spelt alike in files' names.
    """
    names = Counter(map(file_name, labels))
    alike = [label for label in labels if names[file_name(label)] > 1]
    if alike:
        raise ValueError(f"expected labels that differ in letters or digits, found {alike}")


def read_kept(path: Path, origin: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what an earlier run has kept; None where nothing is of use, or of another origin."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):  # absent, or damaged
        return None
    return content if content["origin"] == origin else None


def keep(path: Path, origin: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Write a result and its origin as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"origin": origin, **result}).encode())
