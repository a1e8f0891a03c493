"""`python -m quick_train`: `python -m train` with small forests and reports without figures.

Trees, resamples and figures cost more than all the rest of a small run.
"""

import sys
from functools import partial
from typing import Any

import pytest
from sksurv.ensemble import RandomSurvivalForest

from train import baselines, commands, figures
from train.__main__ import main


def undrawn(figure: object) -> str:
    """Stand in for `to_svg`."""
    return "<svg></svg>"


def small_forest(n_estimators: int, **settings: Any) -> RandomSurvivalForest:
    """Stand in for a forest of hundreds of trees."""
    return RandomSurvivalForest(n_estimators=20, **settings)


def quicken(patch: pytest.MonkeyPatch) -> None:
    """Make the training of this process quick, all but that of the fusion."""
    for name in ("training_report", "validation_report"):
        patch.setattr(commands, name, partial(getattr(commands, name), resamples=20))
    patch.setattr(figures, "to_svg", undrawn)
    patch.setattr(baselines, "RandomSurvivalForest", small_forest)


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as process:
        quicken(process)
        sys.exit(main())
