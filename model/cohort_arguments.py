"""The command line of `cohort`; the door reads it before anything heavy is loaded."""

import argparse
from pathlib import Path


def add_cohort_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only `cohort` takes: its options, and their defaults."""
    parser.set_defaults(
        rna_table=None, clinical_table=None, embeddings=None, explain=None, ray=None
    )
    add = parser.add_argument
    add(
        "input",
        metavar="MANIFEST",
        type=Path,
        help="a table (.csv, .parquet), a folder of jobs, or one in the CHIMERA layout",
    )
    add("--rna-table", type=Path, help="expression of all cases: .csv, .parquet or .h5ad")
    add("--clinical-table", type=Path, help="clinical records of all cases: .csv or .parquet")
    add("--embeddings", type=Path, help="bags to use; new ones are left there")
    add("--explain", type=Path, help="where to write one folder per case: what its risk came from")
    add(
        "--workers",
        type=_positive,
        default=None,
        help="number of processes (default: one per GPU, or per four cores)",
    )
    add("--ray", metavar="ADDRESS", help="of a Ray cluster, or auto (default: this machine alone)")
    add("--dry-run", action="store_true", default=False, help="only say what would fail")
    add(
        "--overwrite",
        action="store_true",
        default=False,
        help="drop what another bundle, manifest or setting left in the output folder",
    )


def _positive(text: str) -> int:
    """Read a whole number above 0, as argparse wants it done."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)
