"""Expression of many cases in one AnnData file, read as it lies on disk.

Source: the specification of AnnData's on-disk format, versions 0.8 and later: `obs` and `var` name
their index in the attribute `_index`; `X` is a dataset, or a group in compressed sparse form.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

from model.cells import as_text
from model.errors import ConfigError, reason_of

_BLOCK_ROWS = 64  # of a dense matrix at once
_COMPRESSED_AXIS = {"csr_matrix": 0, "csc_matrix": 1}


@dataclass(frozen=True)
class Expression:
    """A part of an AnnData matrix.

    Attributes:
        all_ids: Of every observation in the file, in its order.
        ids: Of those that were asked for.
        genes: Likewise of the variables.
        values: (ids, genes).
    """

    all_ids: tuple[str, ...]
    ids: tuple[str, ...]
    genes: tuple[str, ...]
    values: npt.NDArray[np.float64]


def read_h5ad(path: Path, ids: Collection[str], genes: Collection[str] | None) -> Expression:
    """Read the wanted observations and variables of `X`; all variables where `genes` is None.

    What a sparse matrix leaves out is a zero.

    Raises:
        ConfigError: The file cannot be read, or is laid out in another way.
    """
    try:
        with h5py.File(path) as file:
            all_ids, all_genes = _index(file["obs"]), _index(file["var"])
            rows = [row for row, name in enumerate(all_ids) if name in ids]
            columns = [c for c, name in enumerate(all_genes) if genes is None or name in genes]
            values = _read_matrix(file["X"], (len(all_ids), len(all_genes)), rows, columns)
    except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        reason = reason_of(error)
        raise ConfigError(
            f"{path}: expected an AnnData file with obs, var and X, found: {reason}"
        ) from error
    return Expression(
        all_ids=tuple(all_ids),
        ids=tuple(all_ids[row] for row in rows),
        genes=tuple(all_genes[column] for column in columns),
        values=values,
    )


def _index(table: Any) -> list[str]:
    """Return the names of observations or variables."""
    index = table[table.attrs["_index"]]
    if isinstance(index, h5py.Group):  # a nullable string array: values and mask
        index = index["values"]
    return [as_text(name) for name in index.asstr()[...]]


def _read_matrix(
    matrix: Any, shape: tuple[int, int], rows: Sequence[int], columns: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Return rows and columns of X."""
    if isinstance(matrix, h5py.Dataset):
        found, read = matrix.shape, _read_dense
    else:
        found, read = tuple(matrix.attrs["shape"]), _read_sparse
    if found != shape:
        raise ValueError(f"X of shape {found} for {shape[0]} observations of {shape[1]} variables")
    values = np.zeros((len(rows), len(columns)))
    read(matrix, rows, columns, values)
    return values


def _read_dense(
    matrix: Any, rows: Sequence[int], columns: Sequence[int], values: npt.NDArray[np.float64]
) -> None:
    """Fill `values` block by block: a chunk of the file may hold many rows."""
    wanted = np.array(rows, dtype=np.int64)
    for start in np.unique(wanted // _BLOCK_ROWS * _BLOCK_ROWS).tolist():
        block = matrix[start : start + _BLOCK_ROWS]
        places = np.flatnonzero((wanted >= start) & (wanted < start + _BLOCK_ROWS))
        values[places] = block[wanted[places] - start][:, columns]


def _read_sparse(
    matrix: Any, rows: Sequence[int], columns: Sequence[int], values: npt.NDArray[np.float64]
) -> None:
    """Fill `values` row by row; column by column where the file is compressed along these."""
    axis = _COMPRESSED_AXIS[matrix.attrs["encoding-type"]]
    if axis == 1:
        rows, columns, values = columns, rows, values.T
    length, width = (int(matrix.attrs["shape"][side]) for side in (axis, 1 - axis))
    bounds = matrix["indptr"][...].astype(np.int64)
    stored = min(len(matrix["indices"]), len(matrix["data"]))
    if len(bounds) != length + 1 or (np.diff(bounds, prepend=0, append=stored) < 0).any():
        raise ValueError(f"X/indptr that does not divide {stored:,} values into {length:,} parts")
    for place, row in enumerate(rows):
        own = slice(bounds[row], bounds[row + 1])
        indices = matrix["indices"][own].astype(np.int64)
        if ((indices < 0) | (indices >= width)).any():
            raise ValueError(f"X/indices outside 0 to {width - 1}")
        # What is stored in parts adds up.
        values[place] = np.bincount(indices, matrix["data"][own], minlength=width)[columns]
