"""Readers of the public TCGA tables that the benchmark runs on.

Each table is one row a patient: outcome, published test fold, clinical record, and where there is
one its RNA and the histology features of its slides. Nothing here is fitted to data.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from model.batch import Modality
from model.case import Case, Record
from model.errors import ConfigError
from model.interface import ClinicalSchema
from model.rna import RnaSpec
from train.cohort import LabelledCase, check_outcomes

Source = Literal["survpath", "mmp"]
Endpoint = Literal["dss", "pfi"]

SCHEMA = ClinicalSchema(numbers=("age", "stage"), categories=("sex",))

_STAGES = {"0": 0, "I": 1, "II": 2, "III": 3, "IV": 4}
_HISTOLOGY_SUFFIXES = ("_HE", "_FFPE")  # the other columns are outcomes and clinical fields
_DAYS_PER_MONTH = 365.25 / 12
_MOST_MISSING = 0.2  # of a slide's features; a few slides lack those of necrosis, 12 %


@dataclass(frozen=True)
class TableCase(LabelledCase):
    """A patient of a table; `histology` has one record of named features a slide."""

    histology: tuple[Record, ...] = ()


@dataclass(frozen=True)
class Table:
    """Patients and the published test fold (n,) of each."""

    cases: tuple[TableCase, ...]
    fold: npt.NDArray[np.int64]

    def sha256(self) -> str:
        """Return the sha256 of all that is known of the patients."""
        digest = hashlib.sha256(repr(self.fold.tolist()).encode())
        for case in self.cases:
            records = (case.case.rna, case.case.clinical, *case.histology)
            values = [record and sorted(record.values.items()) for record in records]
            digest.update(repr((case.case_id, case.event, case.time, values)).encode())
        return digest.hexdigest()


def read_table(
    data: Path, source: Source, study: str, *, endpoint: Endpoint, modalities: Sequence[Modality]
) -> Table:
    """Read the patients of a study that have an outcome and every one of the modalities.

    Args:
        data: The folder with `tcga/` and `hif/`.
        source: Whose outcomes and folds: SurvPath's repository, or MMP's.
        study: Such as "blca".
        endpoint: Disease-specific survival or progression-free interval.
        modalities: What a patient needs to take part; clinical fields may be missing.

    Raises:
        ConfigError: A file is absent or not as expected, or there are too few events.
    """
    patients = (_survpath if source == "survpath" else _mmp)(data, study, endpoint)
    patients = patients[patients["time"] > 0]
    rna: dict[str, Record] = {}
    slides: dict[str, tuple[Record, ...]] = {}
    if "rna" in modalities:
        rna = _rna(data, source, study)
        patients = patients[patients.index.isin(rna)]
    if "slide" in modalities:
        slides = _histology(data, study)
        patients = patients[patients.index.isin(slides)]
    clinical = _records(patients[["age", "sex", "stage"]], Path(f"tcga_{study}"))
    cases = tuple(
        TableCase(
            case=Case(case_id, rna=rna.get(case_id), clinical=record),
            event=bool(event),
            time=float(time),
            centre=study,
            histology=slides.get(case_id, ()),
        )
        for (case_id, record), event, time in zip(
            clinical, patients["event"], patients["time"], strict=True
        )
    )
    check_outcomes(cases, f"{source} {study}")
    return Table(cases, patients["fold"].to_numpy(dtype=np.int64))


def read_histology_groups(data: Path) -> dict[str, int]:
    """Return the natural group, over all cancers, of each histology feature by name.

    Raises:
        ConfigError: The file cannot be read.
    """
    rows = _read(data / "hif" / "hif_clusters.csv.gz")
    rows = rows[rows["set"] == "pancancer"]
    return dict(zip(rows["hif"], rows["cluster"].astype(int), strict=True))


def fit_histology(cases: Sequence[LabelledCase]) -> RnaSpec:
    """Fit means and standard deviations of the histology features over training slides.

    Genes or features, the spec is that of a record of named numbers.

    Raises:
        ConfigError: No case has histology features.
    """
    records = [record for case in cases for record in _slides(case)]
    if not records:
        raise ConfigError("histology: expected features of some training case, found none")
    return RnaSpec.fit(records, scale="log", max_missing=_MOST_MISSING)


def histology_bag(case: LabelledCase, spec: RnaSpec) -> npt.NDArray[np.float32] | None:
    """Return a case's standardised features, a row a slide (N, D), or None without slides."""
    # The few slides without features of necrosis are known: no line about them in each fold.
    rows = [spec.apply(record, warn=lambda text: None) for record in _slides(case)]
    return np.stack(rows) if rows else None


def _slides(case: LabelledCase) -> tuple[Record, ...]:
    return case.histology if isinstance(case, TableCase) else ()


def _survpath(data: Path, study: str, endpoint: Endpoint) -> Any:
    """Return event, time in months, age, sex, stage and fold by case id."""
    folder = data / "tcga" / "survpath"
    outcome = _by_case(folder / f"tcga_{study}_metadata.csv.gz")
    clinical = _by_case(folder / f"tcga_{study}_clinical.csv.gz")
    folds = _by_case(folder / f"tcga_{study}_folds.csv")
    return pd.DataFrame(
        {
            "event": outcome[f"censorship_{endpoint}"] == 0,
            "time": outcome[f"survival_months_{endpoint}"],
            "age": outcome["age"],
            "sex": outcome["is_female"].map({1.0: "female", 0.0: "male"}),
            "stage": clinical["stage"].map(_STAGES),
            "fold": folds["val_fold"],
        }
    ).loc[folds.index]


def _mmp(data: Path, study: str, endpoint: Endpoint) -> Any:
    """Return event, time in months, age, sex, stage and fold by case id."""
    table = _by_case(data / "tcga" / "mmp" / f"tcga_{study}_slides_folds.csv.gz")
    return pd.DataFrame(
        {
            "event": table[f"{endpoint}_censorship"] == 0,
            "time": table[f"{endpoint}_survival_days"] / _DAYS_PER_MONTH,
            "age": table["age_at_initial_pathologic_diagnosis"],
            "sex": table["sex"].map({"F": "female", "M": "male"}),
            # IIA and IIB are II, as in SurvPath's tables; "[Not Available]" is missing.
            "stage": table["ajcc_pathologic_tumor_stage"]
            .str.extract(r"^Stage (I{1,3}V?)")[0]
            .map(_STAGES),
            "fold": table["test_fold"],
        }
    )


def _rna(data: Path, source: Source, study: str) -> dict[str, Record]:
    """Return each patient's expression: log2 with SurvPath, squeezed z-scores beside MMP."""
    if source == "survpath":
        path = data / "tcga" / "survpath" / f"tcga_{study}_rna_xena1577.csv.gz"
        # Three patients of COADREAD have two aliquots.
        table = _read(path, index_col=0).groupby(level=0).mean()
    else:
        path = data / "tcga" / "porpoise" / f"tcga_{study}_all_clean.csv.zip"
        table = _by_case(path)
        table = _squeeze(table[[name for name in table if name.endswith("_rnaseq")]])
        table = table.rename(columns=lambda name: name.removesuffix("_rnaseq"))
    return dict(_records(table, path))


def _histology(data: Path, study: str) -> dict[str, tuple[Record, ...]]:
    """Return the squeezed features of each patient's slides."""
    path = data / "hif" / f"tcga_{study}_hifs.csv.gz"
    table = _read(path).set_index("bcr_patient_barcode").sort_index(kind="stable")
    table = _squeeze(table[[name for name in table if name.endswith(_HISTOLOGY_SUFFIXES)]])
    slides: dict[str, tuple[Record, ...]] = {}
    for case_id, record in _records(table, path):
        slides[case_id] = (*slides.get(case_id, ()), record)
    return slides


def _records(table: Any, path: Path) -> list[tuple[str, Record]]:
    """Return the rows of a table as records of what is known, each with its index."""
    return [
        (str(case_id), Record({k: v for k, v in row.items() if pd.notna(v)}, path / str(case_id)))
        for case_id, row in zip(table.index, table.to_dict("records"), strict=True)
    ]


def _squeeze(table: Any) -> Any:
    """Return sign(x) log(1 + |x|): the tables span seven orders of magnitude, with both signs."""
    return np.sign(table) * np.log1p(table.abs())


def _by_case(path: Path) -> Any:
    """Read a table of one or more rows a patient; the first value of each column that is known."""
    return _read(path, low_memory=False).groupby("case_id").first()


def _read(path: Path, **options: Any) -> Any:
    try:
        return pd.read_csv(path, **options)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise ConfigError(f"{path}: expected a readable table, found: {error}") from error
