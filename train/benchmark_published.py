"""What others published on a study of the benchmark, beside what is computed here."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from model.rows import read_rows

COLUMNS = ("cohort", "source", "endpoint", "note", "model", "modalities", "value", "sd")


@dataclass(frozen=True)
class Published:
    """Numbers of one source on a study: value, or value and standard deviation."""

    source: str
    endpoint: str
    selection: str
    values: dict[str, tuple[float, ...]]

    def __str__(self) -> str:
        values = ", ".join(
            f"{model} {' ± '.join(f'{number:.3f}' for number in numbers)}"
            for model, numbers in self.values.items()
        )
        return f"{self.source}; {self.endpoint}; {self.selection}: {values}"


def read_published(data: Path, study: str) -> list[Published]:
    """Return a study's rows of the collected published results, one part a source.

    Raises:
        ConfigError: The file cannot be read, or lacks a column.
    """
    path = data / "results" / "published_results.csv"
    rows = [r for r in read_rows(path, COLUMNS) if r["cohort"] == f"TCGA-{study.upper()}"]
    parts: dict[tuple[str, str, str], dict[str, tuple[float, ...]]] = defaultdict(dict)
    for row in rows:
        numbers = tuple(float(row[name]) for name in ("value", "sd") if row[name])
        label = f"{row['model']} ({row['modalities']})" if row["modalities"] else row["model"]
        parts[row["source"], row["endpoint"], row["note"]][label] = numbers
    return [
        Published(source=source, endpoint=endpoint, selection=note, values=values)
        for (source, endpoint, note), values in parts.items()
    ]
