"""`python -m quick_train`: `python -m train`, its reports of 20 resamples and without figures.

Both cost more than all the rest of a small run.
"""

import sys
from functools import partial

import pytest

from train import commands, figures
from train.__main__ import main


def undrawn(figure: object) -> str:
    """Stand in for `to_svg`."""
    return "<svg></svg>"


def quicken(patch: pytest.MonkeyPatch) -> None:
    """Make the reports of this process quick."""
    for name in ("training_report", "validation_report"):
        patch.setattr(commands, name, partial(getattr(commands, name), resamples=20))
    patch.setattr(figures, "to_svg", undrawn)


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as process:
        quicken(process)
        sys.exit(main())
