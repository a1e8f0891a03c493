"""What is around each peer's reading: a slide and a plan come in, patches and CPU seconds go out.

The scripts of this folder run in whichever Python has the peer, so that they need nothing of
ours: `PYTHON read_with_X.py SLIDE PLAN`, where the plan is JSON. `against_peers.py` calls them.
"""

import json
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Plan:
    """What is to be read.

    Attributes:
        coords: x, y of each patch in level-0 pixels; a peer with a tissue rule finds its own.
        level: Level that matches best.
        side_px: Side of a patch in pixels of the level.
        size_px: Side of a patch as it is wanted.
        mpp: Micrometres per pixel of a patch.
        slide_mpp: Those of the slide's level 0.
    """

    coords: list[tuple[int, int]]
    level: int
    side_px: int
    size_px: int
    mpp: float
    slide_mpp: float


Reader = Callable[[Path, Plan], int]
"""Reads all patches of a slide, and returns their number."""


def run(package: str, load: Callable[[], Reader]) -> None:
    """Measure a peer and print what it spent; or the reason where it cannot run.

    Args:
        package: Its module.
        load: Imports it, which is not measured, and returns how it reads.
    """
    if find_spec(package) is None:
        print(json.dumps({"skipped": f"{package} is not installed in {sys.executable}"}))
        return
    slide, plan = Path(sys.argv[1]), Plan(**json.loads(Path(sys.argv[2]).read_text()))
    read = load()
    started = cpu_seconds()
    patches = read(slide, plan)
    print(json.dumps({"patches": patches, "cpu_s": cpu_seconds() - started}))


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of those that it started and that have ended."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, whose))
