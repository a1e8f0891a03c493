"""Whether a cohort's folders can be used, asked before any work.

Nothing is made or written, so that a dry run may ask as well.
"""

import os
from pathlib import Path

from model.errors import ConfigError, Warn


def check_places(
    output: Path, *, embeddings: Path | None, explain: Path | None, warn: Warn
) -> None:
    """Make sure that bags can be read, and results and explanations written.

    Bags may lie where nothing can be written, such as those of a colleague: no other is kept there.

    Raises:
        ConfigError: A place is no folder, or this user may not use it.
    """
    for folder in (output, explain):
        if folder is not None:
            _check_writable(folder)
    if embeddings is None:
        return
    if not os.access(embeddings, os.F_OK):
        _check_writable(embeddings)
        return
    if not embeddings.is_dir():
        raise ConfigError(f"{embeddings}: expected a folder of bags, found a file")
    if not os.access(embeddings, os.R_OK | os.X_OK):
        raise ConfigError(f"{embeddings}: expected a folder of bags, found Permission denied")
    if not os.access(embeddings, os.W_OK):
        warn(f"{embeddings}: may only be read; new bags are not kept")


def _check_writable(folder: Path) -> None:
    """Make sure that a folder can be written in, or made."""
    places = (folder, *folder.absolute().parents)
    nearest = next(place for place in places if os.access(place, os.F_OK))
    if not nearest.is_dir():
        raise ConfigError(f"{nearest}: expected a folder to write in, found a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(f"{nearest}: expected a folder to write in, found Permission denied")
