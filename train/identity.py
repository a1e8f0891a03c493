"""What a run follows from: its folder keeps it, so that data that has changed is noticed.

A bundle keeps whom it was trained on, so that nobody takes them for an external cohort.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import model
import train
from model.bags import bag_path, identify
from model.case import Record
from model.errors import ConfigError
from model.files import sha256_of, sha256_of_text, write_whole
from model.interface import Interface
from model.messages import differences
from train.cohort import LabelledCase
from train.config import TrainConfig

# Who computes is no matter of the run: a killed one may go on with other workers, or a CPU.
# Nor is where files lie: their contents are in the identity, of an encoder's weights in the bags.
_NO_MATTER: Mapping[str, bool | set[str]] = {
    "embed": True,
    "device": True,
    "output": True,
    "cohort": {"root", "rna_table", "clinical_table", "bags", "foreign_bags"},
    "encoder": {"weights"},
    "rna": {"panel", "gene_sets"},
    "folds": {"file"},
}


def claim(folder: Path, identity: Mapping[str, Any]) -> None:
    """Mark a folder as a run's own, so that another run's folds are never mixed in.

    Args:
        folder: Made where it is not there.
        identity: From `run_identity`.

    Raises:
        ConfigError: The folder belongs to a run with another config or on other data, or to one
            that cannot be told.
    """
    path = folder / "run.json"
    if not path.is_file():
        if any((folder / "folds").glob("*")):
            raise ConfigError(
                f"{folder}: expected an empty folder or this run's own, "
                f"found folds without {path.name}"
            )
        (folder / "folds").mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(identity, indent=2).encode())
        return
    try:
        theirs = dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: expected what a run writes, found damage") from error
    differing = [
        _tell(name, theirs.get(name), value)
        for name, value in identity.items()
        if theirs.get(name) != value
    ]
    if differing:
        raise ConfigError(
            f"{folder}: expected an empty folder or this run's own, "
            f"found a run that differs in {', '.join(differing)}"
        )


def run_identity(
    config: TrainConfig, interface: Interface, cases: Sequence[LabelledCase]
) -> dict[str, Any]:
    """Return by name all that a run's folds follow from, once the cohort has its bags.

    Files count by their content, so that a copied cohort is the same one. Tables and records are
    read whole, bags by samples alone, as `identify` does slides.
    """
    uses_slides = "slide" in config.fusion.read().modalities
    bags = [bag_path(config.cohort.bag_dir, case.case_id) for case in cases]
    return {
        "program": _program_sha256(),
        "config": config.model_dump(mode="json", exclude=_NO_MATTER),
        "interface": interface.model_dump(mode="json"),
        "cases": _sha256([(c.case_id, c.event, c.time, c.centre, c.patient_id) for c in cases]),
        "RNA": _records_sha256([case.case.rna for case in cases]),
        "clinical records": _records_sha256([case.case.clinical for case in cases]),
        "gene panel": _file_sha256(config.rna.panel),
        "gene sets": _file_sha256(config.rna.gene_sets),
        "folds": _file_sha256(config.folds.file),
        "bags": _sha256([identify(path) for path in bags if path.is_file()])
        if uses_slides
        else None,
    }


def _tell(name: str, theirs: object, ours: object) -> str:
    """Name a part of an identity that differs, and its settings that do."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        return f"{name} ({differences(theirs, ours)})"
    return name


def _program_sha256() -> str:
    """Return the sha256 of the code: while a run is down, somebody may change a fusion."""
    folders = [Path(folder) for package in (model, train) for folder in package.__path__]
    files = sorted(path for folder in folders for path in folder.rglob("*.py"))
    return _sha256([(path.name, sha256_of(path)) for path in files])


def cohort_sha256(cases: Sequence[LabelledCase]) -> str:
    """Return the sha256 of who is in a cohort, in order, and what happened to them."""
    rows = [f"{case.case_id},{int(case.event)},{case.time!r}" for case in cases]
    return sha256_of_text("\n".join(rows))


def patient_hashes(cases: Sequence[LabelledCase]) -> list[str]:
    """Return 8 hexadecimal digits for each patient of a cohort, sorted, for a bundle to keep.

    Salted with the cohort's sha256, they tell no id, and are others in another cohort's bundle.
    Being short, one stands for many ids; still, who knows an id can ask whether it may be there.
    """
    return _patient_hashes(cases, salt=cohort_sha256(cases))


def count_trained(provenance: Mapping[str, Any], cases: Sequence[LabelledCase]) -> int:
    """Return how many of the cases' patients a bundle was trained on, by their ids.

    Of a bundle without patients' hashes, only the very cohort that it was trained on is known.
    """
    salt = str(provenance.get("cohort_sha256"))
    hashes = _patient_hashes(cases, salt=salt)
    if "patients" in provenance:
        trained = set(provenance["patients"])
        return sum(known in trained for known in hashes)
    return len(hashes) if salt == cohort_sha256(cases) else 0


def _patient_hashes(cases: Sequence[LabelledCase], *, salt: str) -> list[str]:
    patients = {case.patient_id for case in cases}
    return sorted(sha256_of_text(f"{salt},{name}")[:8] for name in patients)


def _records_sha256(records: Sequence[Record | None]) -> str:
    """Return the sha256 of the cases' records, which may lie in one file or in a file each."""
    files = {path: sha256_of(path) for path in {r.source for r in records if r is not None}}
    return _sha256([None if record is None else files[record.source] for record in records])


def _file_sha256(path: Path | None) -> str | None:
    """Return the sha256 of a file; None where none is named, or an unused one is not there."""
    return sha256_of(path) if path is not None and path.is_file() else None


def _sha256(content: object) -> str:
    return sha256_of_text(repr(content))
