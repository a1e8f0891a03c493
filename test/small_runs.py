"""A run of RNA and clinical records in tables, small enough to be trained in a second."""

import csv
from pathlib import Path

import numpy as np

CASES, GENES = 40, 8
RUN = """
output = "{folder}/run"
cohort.root = "{folder}/cases.csv"
cohort.rna_table = "{folder}/rna.csv"
cohort.clinical_table = "{folder}/clinical.csv"
fusion.name = "concat"
fusion.settings.modalities = ["rna", "clinical"]
fit.epochs = 2
fit.inner_folds = 0
folds.count = 2
"""


def write_run(folder: Path) -> Path:
    """Write the tables of 40 cases, P00 to P39, with genes G0 to G7, and return the run's TOML."""
    draw = np.random.default_rng(0)
    risk = draw.normal(size=CASES)
    genes = risk[:, None] + draw.normal(size=(CASES, GENES))
    time = np.ceil(30 * draw.exponential(size=CASES) * np.exp(-risk)).astype(int)
    ids = [f"P{i:02d}" for i in range(CASES)]
    cases = [[ids[i], int(i % 3 > 0), time[i], "XY"[i % 2]] for i in range(CASES)]
    write_table(folder / "cases.csv", [["case_id", "event", "time", "centre"], *cases])
    header = ["case_id", *(f"G{i}" for i in range(GENES))]
    rna = [[ids[i], *genes[i].round(3)] for i in range(CASES)]
    write_table(folder / "rna.csv", [header, *rna])
    clinical = [[ids[i], 50 + i, ("male", "female")[i % 2]] for i in range(CASES)]
    write_table(folder / "clinical.csv", [["case_id", "age", "sex"], *clinical])
    config = folder / "run.toml"
    config.write_text(RUN.format(folder=folder))
    return config


def read_table(path: Path) -> list[list[str]]:
    """Read a CSV's header and rows."""
    with path.open(newline="") as file:
        return list(csv.reader(file))


def write_table(path: Path, rows: list[list[object]] | list[list[str]]) -> Path:
    """Write a header and rows as CSV."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path
