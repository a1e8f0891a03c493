"""A cohort's cases: which files each consists of. No outcome is read here.

A manifest is a table with one row per case; a folder in the layout of the CHIMERA download is one
too, and so is a folder of Grand Challenge jobs.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from model.case import Case, Record, SlideFile, expression, has_value, read_case, read_record
from model.errors import ConfigError, Warn, about_case, about_files, printable
from model.interface import FILE_COLUMNS, Interface
from model.messages import some
from model.records import read_expression, read_fields
from model.rows import SUFFIXES, check_ids, read_header, read_lines, read_rows

RUN, RESULTS = "run.json", "results.jsonl"
"""What a run keeps in its folder, which is no case then."""


@dataclass(frozen=True)
class Row:
    """A case as the manifest has it; nothing but the manifest has been read.

    Attributes:
        rna: A JSON file, None where the manifest names none.
        clinical: Likewise.
        fields: Every cell as text, by the lower-case name of its column.
        extra: The cells that are neither the id nor a file, by their columns' names as they are.
        job: The folder of a Grand Challenge job, which then holds all files.
        unused: Masks without a slide; files beside those of a case that lacks one, whose names
            may be misspelt.
    """

    case_id: str
    slides: tuple[SlideFile, ...] = ()
    rna: Path | None = None
    clinical: Path | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    job: Path | None = None
    unused: tuple[Path, ...] = ()

    @property
    def has_files(self) -> bool:
        """Say whether the manifest has any file of the case."""
        return bool(self.slides or self.rna or self.clinical or self.job)


@dataclass(frozen=True)
class Tables:
    """Records by case id, where one file has those of all cases; `sources` are these files."""

    rna: Mapping[str, Record] = field(default_factory=dict)
    clinical: Mapping[str, Record] = field(default_factory=dict)
    sources: Mapping[str, Path] = field(default_factory=dict)

    def of(self, case_id: str) -> "Tables":
        """Return what they have of one case."""
        return Tables(
            rna={case_id: self.rna[case_id]} if case_id in self.rna else {},
            clinical={case_id: self.clinical[case_id]} if case_id in self.clinical else {},
            sources=self.sources,
        )


@about_files()
def list_cases(path: Path, interface: Interface, *, apart: Sequence[Path] = ()) -> list[Row]:
    """List the cases of a manifest, of a folder of jobs, or of a download.

    Args:
        path: The manifest, or the folder.
        interface: Says what a job consists of.
        apart: Places of a run's own: a folder that has one, and no file of a case, is no case. Nor
            is one with the results of another run.

    Raises:
        ConfigError: It is none of them, or has no case.
        CaseError: A folder cannot be read.
    """
    if not path.is_dir():
        return list_table(path)
    rows = list_jobs(path, interface, apart=apart) or list_download(path, apart=apart)
    if not rows:
        raise ConfigError(
            f"{path}: expected a manifest ({', '.join(SUFFIXES)}), a folder of Grand Challenge "
            "jobs or one in the CHIMERA download's layout, found a folder without cases"
        )
    return rows


def list_table(path: Path) -> list[Row]:
    """Read a manifest, CSV or Parquet, with a column `case_id` and one for each kind of file.

    `slide` may name several files, with ';' between them; then `mask` names as many, of which
    some may be empty, or NA. Paths are relative to the manifest's folder.

    Raises:
        ConfigError: It cannot be read, or a case id is repeated or cannot name a file.
    """
    rows = read_rows(path, ("case_id",))
    check_ids(path, [fields["case_id"] for fields in rows])
    names = {name.lower(): name for name in read_header(read_lines(path))}
    return [_row(path, fields, names) for fields in rows]


def list_jobs(root: Path, interface: Interface, *, apart: Sequence[Path] = ()) -> list[Row]:
    """List the Grand Challenge jobs that lie in a folder, each named after its own folder.

    Beside jobs, an empty folder counts as one, as does one that may not be read: whoever scores it
    is told what it lacks. `apart` is that of `list_cases`.
    """
    places = ("inputs.json", *(socket.path for socket in interface.sockets))
    folders = _folders(root)
    empty = {folder for folder in folders if _is_empty(folder) and not _is_apart(folder, apart)}
    jobs = {
        folder
        for folder in folders
        if folder not in empty and any((folder / place).exists() for place in places)
    }
    found = sorted(jobs | empty) if jobs else []
    return [Row(printable(folder.name), job=folder) for folder in found]


@about_files()
def list_download(root: Path, *, apart: Sequence[Path] = ()) -> list[Row]:
    """List the cases of a folder in the layout of the CHIMERA download.

    Source: the layout of `s3://chimera-challenge`, `{root}/data/{id}/{id}_{HE.tif,HE_mask.tif,
    CD.json,RNA.json}`; `root` may also be the `data` folder itself. Names may be in any case, and
    slides `.tiff`.

    Beside cases, a folder without such files counts as one, which has none; else nobody would be
    told of a misspelt name. `apart` is that of `list_cases`.

    Raises:
        CaseError: A folder cannot be read.
    """
    rows = []
    for folder in _folders(root / "data" if (root / "data").is_dir() else root):
        # Sorted, so that of two names that differ in case alone the one in lower case is taken.
        own = sorted(path for path in folder.iterdir() if path.is_file())
        files = {path.name.lower().replace(".tiff", ".tif"): path for path in own}
        slide, mask, rna, clinical = found = [
            files.get(f"{folder.name}_{part}".lower())
            for part in ("HE.tif", "HE_mask.tif", "RNA.json", "CD.json")
        ]
        slides = () if slide is None else (SlideFile(slide, mask),)
        unused = [path for path in own if path not in found and path.name[0] != "."]
        misnamed = () if slide and rna and clinical else tuple(unused)
        row = Row(printable(folder.name), slides, rna, clinical, unused=misnamed)
        if row.has_files or not _is_apart(folder, apart):
            rows.append(row)
    return rows if any(row.has_files for row in rows) else []


def read_tables(
    rows: Sequence[Row],
    interface: Interface,
    *,
    rna: Path | None,
    clinical: Path | None,
    genes: Collection[str] | None = None,
    warn: Warn,
) -> Tables:
    """Read the manifest's cases from wide tables.

    Args:
        rows: Of the manifest; only those that name no JSON file of the kind are looked up.
        interface: Says which columns are labels, or no genes; these are left out.
        rna: One row per case, one column per gene: CSV, Parquet or AnnData.
        clinical: One row per case, one column per field: CSV or Parquet.
        genes: To keep of `rna`; all when None.
        warn: Told of cases without a row, and of columns that are no genes.

    Raises:
        ConfigError: A table cannot be read, repeats a case or has none of those looked up.
    """
    no_rna = frozenset(row.case_id for row in rows if row.rna is None)
    no_clinical = frozenset(row.case_id for row in rows if row.clinical is None)
    no_genes, labels = interface.hidden("rna"), interface.hidden("clinical")
    return Tables(
        rna=read_expression(rna, no_rna, hidden=no_genes, genes=genes, warn=warn) if rna else {},
        clinical=read_fields(clinical, no_clinical, hidden=labels, warn=warn) if clinical else {},
        sources={name: path for name, path in (("rna", rna), ("clinical", clinical)) if path},
    )


def build_case(row: Row, interface: Interface, tables: Tables, *, warn: Warn) -> Case:
    """Read a case's records; those that lie in files of its own come before a table's row.

    Raises:
        CaseError: A record cannot be read.
    """
    with about_case(row.case_id):
        if row.job is not None:
            case = replace(read_case(row.job, interface, warn=warn), case_id=row.case_id)
        else:
            case = Case(
                row.case_id,
                row.slides,
                rna=expression(_own_record(row.rna, interface.hidden("rna"), warn=warn)),
                clinical=_own_record(row.clinical, interface.hidden("clinical"), warn=warn),
                default_mpp=interface.default_mpp,
            )
            if row.unused:
                names = some([path.name for path in row.unused])
                warn(f"{row.unused[0].parent}: not used: {names}")
    case = replace(
        case,
        rna=case.rna or tables.rna.get(row.case_id),
        clinical=case.clinical or tables.clinical.get(row.case_id),
    )
    for name, record in (("rna", case.rna), ("clinical", case.clinical)):
        if record is None and name in tables.sources:
            warn(f"{tables.sources[name]}: nothing of this case")
    return case


def _own_record(path: Path | None, hidden: frozenset[str], *, warn: Warn) -> Record | None:
    return None if path is None else read_record(path, hidden, warn=warn)


def _row(path: Path, fields: Mapping[str, str], names: Mapping[str, str]) -> Row:
    case_id, folder = fields["case_id"], path.parent
    slides, masks = (
        [name.strip() if has_value(name) else "" for name in fields.get(column, "").split(";")]
        for column in ("slide", "mask")
    )
    if not any(masks):
        masks = [""] * len(slides)
    elif not any(slides):
        slides = [""] * len(masks)
    elif len(masks) != len(slides):  # unless for a ';' at the end
        slides = list(filter(None, slides))
    if len(masks) != len(slides):
        raise ConfigError(
            f"{path}: case {case_id}: expected a mask for each slide (as 'a.tif;;c.tif', where the "
            f"second has none), found {len(masks)} for {len(slides)}"
        )
    pairs = list(zip(slides, masks, strict=True))
    rna, clinical = (
        folder / fields[name] if has_value(fields.get(name, "")) else None
        for name in ("rna", "clinical")
    )
    return Row(
        case_id=case_id,
        slides=tuple(
            SlideFile(folder / slide, folder / mask if mask else None)
            for slide, mask in pairs
            if slide
        ),
        rna=rna,
        clinical=clinical,
        fields=fields,
        extra={names[k]: cell for k, cell in fields.items() if k not in ("case_id", *FILE_COLUMNS)},
        unused=tuple(folder / mask for slide, mask in pairs if mask and not slide),
    )


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _is_apart(folder: Path, places: Sequence[Path]) -> bool:
    """Say whether a folder has a run's results, or is one of the places, or one will lie in it."""
    if all((folder / name).is_file() for name in (RUN, RESULTS)):
        return True
    return any(place.resolve().is_relative_to(folder.resolve()) for place in places)


def _is_empty(folder: Path) -> bool:
    """Say whether nothing is to be seen in a folder."""
    try:
        return not list(folder.iterdir())
    except OSError:
        return True
