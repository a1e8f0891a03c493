"""Every case of a cohort gets a bag on disk."""

from collections.abc import Sequence
from pathlib import Path

from model.bags import BagMaker, bag_path, update_bag
from model.case import Case
from model.errors import CaseError, ConfigError, Warn, about_case
from model.predictor import Progress
from model.rows import some


def embed_cohort(
    cases: Sequence[Case], maker: BagMaker, directory: Path, *, warn: Warn, progress: Progress
) -> None:
    """Make the bags that are not there yet, or whose sources have changed since.

    A case that fails does not stop the others.

    Raises:
        ConfigError: Cases failed, or the folder holds bags of another encoder or patch spec.
    """
    directory.mkdir(parents=True, exist_ok=True)
    failed = []
    for index, case in enumerate(cases):
        try:
            with about_case(case.case_id):
                update_bag(bag_path(directory, case.case_id), case, maker, warn=warn)
        except CaseError as error:
            warn(str(error))
            failed.append(case.case_id)
        progress(index + 1, len(cases))
    if failed:
        raise ConfigError(
            f"expected a bag of each case, but {len(failed)} of {len(cases)} failed: {some(failed)}"
        )
