"""What a run's cases have of its modalities: who is left out, and what nothing is learned of."""

from collections.abc import Sequence

from model.bags import bag_path, slide_sources
from model.case import Case
from model.errors import ConfigError, Warn
from model.foreign_bags import ForeignBags
from model.interface import Interface
from model.messages import some
from train.cohort import LabelledCase, check_outcomes, clinical_records
from train.config import TrainConfig


def leave_out_empty(
    cases: Sequence[LabelledCase], config: TrainConfig, *, warn: Warn
) -> list[LabelledCase]:
    """Return the cases that have any of the modalities, as a bundle refuses the others.

    Raises:
        ConfigError: Too few are left.
    """
    modalities = config.fusion.read().modalities
    kept = [
        case for case in cases if any(has_modality(case.case, name, config) for name in modalities)
    ]
    if len(kept) < len(cases):
        ids = {case.case_id for case in kept}
        lacking = [case.case_id for case in cases if case.case_id not in ids]
        warn(
            f"{config.cohort.root}: {len(lacking)} of {len(cases)} cases have no "
            f"{' or '.join(modalities)}, as a prediction needs, and are left out: {some(lacking)}"
        )
        check_outcomes(kept, f"{config.cohort.root}: the cases with {' or '.join(modalities)}")
    return kept


def check_presence(cases: Sequence[LabelledCase], config: TrainConfig, *, warn: Warn) -> None:
    """Refuse cases without a modality that they need, and name stand-ins that nothing trains.

    Args:
        cases: Each with one of the modalities.
        config: Of the run.
        warn: Told of each optional modality that no fit ever goes without.

    Raises:
        ConfigError: Cases lack a modality that is not optional.
    """
    settings = config.fusion.read()
    for name in settings.modalities:
        lacking = [case.case_id for case in cases if not has_modality(case.case, name, config)]
        if lacking and name not in settings.optional:
            raise ConfigError(
                f"{config.cohort.root}: expected {name} of each case, as it is not in "
                f"fusion.settings.optional, found none for {len(lacking)}: {some(lacking)}"
            )
    if config.fit.modality_dropout > 0 or len(settings.modalities) == 1:
        return
    for name in settings.optional:
        if all(has_modality(case.case, name, config) for case in cases):
            warn(
                f"fusion.settings.optional: every case has {name} and fit.modality_dropout is 0, "
                f"so that nothing is learned of cases without it; their risks will be arbitrary"
            )


def check_columns(cases: Sequence[LabelledCase], interface: Interface, *, warn: Warn) -> None:
    """Name what clinical records hold beside the interface's columns, as nothing is told by it."""
    schema = interface.clinical
    columns = {name.lower() for name in (*schema.numbers, *schema.categories)}
    known = columns | interface.hidden("rna")  # a manifest's own columns, too
    records = clinical_records(cases)
    keys = dict.fromkeys(key.strip() for record in records for key in record.values)
    others = [key for key in keys if key.lower() not in known]
    if others:
        warn(f"{some(others)}: no columns of interface {interface.name}, not used")


def has_modality(case: Case, modality: str, config: TrainConfig) -> bool:
    """Return whether a case has a modality; a slide may be a file, a bag or another program's."""
    if modality == "rna":
        return case.rna is not None
    if modality == "clinical":
        return case.clinical is not None
    if slide_sources(case) or bag_path(config.cohort.bag_dir, case.case_id).is_file():
        return True
    foreign = config.cohort.foreign_bags
    if foreign is None:
        return False
    return bool(ForeignBags(foreign, config.encoder.spec(), config.patches).sources(case))
