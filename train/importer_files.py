"""The files of a second-place CHIMERA checkpoint: tensors, genes, clinical columns, time rule.

The one place in the project that unpickles; only `train/importer.py`, behind a flag, comes here.

Source: what hassancpu/ChimeraChallenge2025_Task_3 (commit 46c95e4) writes and reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from joblib.numpy_pickle import NumpyUnpickler  # type: ignore[import-untyped]

from model import weights
from model.case import Record
from model.clinical import CategoryColumn, ClinicalSpec, NumberColumn
from model.errors import BundleError, ConfigError, Warn
from model.interface import ClinicalSchema
from model.json_files import read_json
from model.rna import RnaSpec
from model.survival import TimeMapping

CHECKPOINT, GENES = "s_0_checkpoint.pt", "gene_order.json"
CLINICAL, CURVE = "clinical_preprocessor.pkl", "km_curve.pkl"

# It reads expression as it is, and a missing gene as 0: the mean. Values over a power of two, and
# weights times that, lose nothing in float32; with 16, RnaSpec clips nothing up to 160, and never
# calls a profile far from training cases that nobody knows.
RNA_SD = 16.0

Tensors = dict[str, torch.Tensor]
FloatArray = npt.NDArray[np.float64]

# A pickle can call anything, and that can raise more.
_UNREADABLE = (*weights.UNREADABLE, ImportError, AttributeError, TypeError)


@dataclass(frozen=True)
class ClinicalColumns:
    """The foreign clinical vector, told in our terms.

    Attributes:
        spec: Our columns, C with the missing indicators that the foreign vector does not have.
        places: For each of the F foreign columns, in their order, its place among the C.
    """

    spec: ClinicalSpec
    places: list[int]

    def spread(self, weight: torch.Tensor) -> torch.Tensor:
        """Return weights (R, F) on foreign columns as weights (R, C) on ours, zero on the rest."""
        ours = torch.zeros(len(weight), len(self.spec.columns))
        ours[:, self.places] = weight
        return ours


def read_tensors(path: Path) -> Tensors:
    """Read a state dict; of this file nothing but tensors is unpickled.

    Raises:
        ConfigError: It is absent.
        BundleError: It holds anything else.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: expected a file of tensors, found no file")
    content = weights.read_tensors(path)
    # A model that was trained on several GPUs has one more word in its names.
    return {name.replace(".module.", "."): tensor.float() for name, tensor in content.items()}


def read_genes(path: Path) -> RnaSpec:
    """Read the gene order; expression goes in as it is, but for a factor.

    Raises:
        ConfigError: It is not a list of gene symbols.
        CaseError: It is not JSON.
    """
    genes = read_json(path, warn=lambda text: None)  # a list has no keys
    if not isinstance(genes, list) or not all(isinstance(gene, str) for gene in genes):
        raise ConfigError(f"{path}: expected a list of gene symbols, found something else")
    width = len(genes)
    return RnaSpec(tuple(genes), "log", mean=np.zeros(width), sd=np.full(width, RNA_SD))


def read_clinical(path: Path, *, warn: Warn) -> ClinicalColumns:
    """Unpickle (number columns, category columns, fitted ColumnTransformer); the last decides.

    No code is taken for missing, as none is there: "-1" is a number, or a category of its own
    where the training cases had it. What the foreign encoder does not know is all zero in both.

    Raises:
        ConfigError: It is something else, or its categories are too alike for ours.
    """
    content = _unpickle(path)
    try:
        numbers, categories, names = _read_columns(path, content[-1].transformers_, warn=warn)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: expected two lists of columns and a fitted ColumnTransformer, "
            f"found something else ({type(error).__name__})"
        ) from error
    spec = ClinicalSpec(numbers=tuple(numbers), categories=tuple(categories), missing=())
    return ClinicalColumns(spec, [spec.columns.index(name) for name in names])


def read_mapping(path: Path) -> TimeMapping:
    """Unpickle training risks and Kaplan-Meier curve, and return the checkpoint's own rule.

    Which outcome belongs to which risk is not in the file, so that the curve cannot be told by
    risk: S(t | risk) is the cohort's Kaplan-Meier curve, with H0 = -log S and slope 0.

    Raises:
        ConfigError: It is something else.
    """
    content = _unpickle(path)
    times, survival, risks = (
        _row(path, content, name) for name in ("km_times", "km_probs", "train_risks")
    )
    drops = (np.diff(survival, prepend=1.0) < 0) & (survival > 0)
    try:
        return TimeMapping(
            kind="km_nearest",
            slope=0.0,
            center=float(risks.mean()),
            spread=float(risks.std()),
            tau=float(times[-1]),
            event_times=times[drops],
            cum_hazard=-np.log(survival[drops]),
            km_times=times,
            km_survival=survival,
            risks=np.sort(risks),
        )
    except (BundleError, IndexError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


class _Unpickler(NumpyUnpickler):  # type: ignore[misc]
    """Reads what joblib wrote; of scikit-learn's objects it keeps the attributes alone.

    Their classes change from version to version, and a pickle of 1.5 does not load in 1.9. Their
    attributes are all that is needed.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return an empty class in place of one of scikit-learn's."""
        if module.partition(".")[0] == "sklearn":
            return type(name, (), {})
        return super().find_class(module, name)


def _unpickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _Unpickler(str(path), file, ensure_native_byte_order=True).load()
    except _UNREADABLE as error:
        raise ConfigError(
            f"{path}: expected a pickle as joblib writes it, found what cannot be read "
            f"({type(error).__name__})"
        ) from error


def _read_columns(
    path: Path, transformers: Any, *, warn: Warn
) -> tuple[list[NumberColumn], list[CategoryColumn], list[str]]:
    """Return our columns, and our name of each foreign one in the foreign order."""
    numbers: list[NumberColumn] = []
    categories: list[CategoryColumn] = []
    names: list[str] = []
    for _, transformer, columns in transformers:
        match type(transformer).__name__:
            case "StandardScaler":
                fitted = zip(columns, transformer.mean_, transformer.scale_, strict=True)
                numbers += [NumberColumn(name=n, mean=mean, sd=sd) for n, mean, sd in fitted]
                names += columns
            case "OneHotEncoder":
                for column, values in zip(columns, transformer.categories_, strict=True):
                    category, indicators = _category(path, column, values, warn=warn)
                    categories.append(category)
                    names += indicators
            case "str":
                pass  # the columns that it drops
            case other:
                raise ConfigError(
                    f"{path}: expected a StandardScaler and a OneHotEncoder, found {other}"
                )
    return numbers, categories, names


def _category(
    path: Path, column: str, values: npt.NDArray[Any], *, warn: Warn
) -> tuple[CategoryColumn, list[str]]:
    """Return our column of a foreign category, and our name of each of its values' indicators."""
    records = [Record({column: value}, path) for value in values.tolist()]
    alone = ClinicalSpec.fit(records, ClinicalSchema(categories=(column,)))
    # Our own encoder says where it puts each value, whatever it does to the spelling.
    names = [alone.columns[int(alone.apply(record, warn=warn).argmax())] for record in records]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"{path}: expected categories of {column} that differ in more than their case, "
            f"found {', '.join(map(repr, values.tolist()))}"
        )
    return alone.categories[0], names


def _row(path: Path, content: object, name: str) -> FloatArray:
    """Return an array of the unpickled dict as a row (n,) of finite float64."""
    values = content.get(name) if isinstance(content, Mapping) else None
    if (
        not isinstance(values, np.ndarray)
        or values.dtype.kind not in "iuf"
        or values.ndim != 1
        or not len(values)
        or not np.isfinite(values).all()
    ):
        raise ConfigError(f"{path}: expected a row of finite numbers {name!r}, found none")
    return values.astype(np.float64)
