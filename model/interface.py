"""The sockets of a challenge: which path under /input is which modality, and what goes to /output.

A challenge is one JSON file in `resources/interfaces/`; no code knows a slug.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from model.errors import CaseError, ConfigError, Warn, first_problem
from model.messages import listed, repeated

Unit = Literal["months", "years"]
MONTHS_PER: dict[Unit, float] = {"months": 1.0, "years": 12.0}

FILE_COLUMNS = ("slide", "mask", "rna", "clinical")
"""The columns of a manifest that name files."""

_OUTCOME = ("event", "time")  # as a manifest has it
_INDEX = ("", "unnamed: 0", "__index_level_0__")  # what pandas calls a column of row numbers
_NO_GENES = frozenset(("case_id", "patient_id", "centre", *FILE_COLUMNS, *_INDEX))


def _refuse_repeats(kind: str, names: Sequence[str]) -> None:
    several = sorted(repeated(names))
    if several:
        raise ValueError(f"expected each {kind} once, found more of {', '.join(several)}")


class Socket(BaseModel):
    """One input of a job.

    `required` makes a job without it an error even where the bundle could do without the
    modality; `slide` names the socket of the slide that a mask belongs to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    slug: str
    modality: Literal["slide", "mask", "rna", "clinical"]
    path: str
    required: bool = False
    slide: str | None = None


class Output(BaseModel):
    """The one number that the platform collects.

    `direction` is "time" where a larger number means a later event, "risk" where it means an
    earlier one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    unit: Unit
    direction: Literal["time", "risk"]

    @field_validator("path")
    @classmethod
    def _lies_in_the_output_folder(cls, path: str) -> str:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ValueError(f"expected a path within the output folder, found {path!r}")
        return path


class Sentences(BaseModel):
    """How a column of the clinical record is put into words.

    `known` has {value} where the value goes, `missing` is said where there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    known: str
    missing: str

    @field_validator("known")
    @classmethod
    def _names_the_value(cls, known: str) -> str:
        if "{value}" not in known:
            raise ValueError(f"expected {{value}} in the sentence, found {known!r}")
        return known

    @classmethod
    def of(cls, column: str) -> "Sentences":
        """Make sentences of a column's name."""
        words = column.replace("_", " ")
        return cls(known=f"The {words} is {{value}}.", missing=f"The {words} is not known.")

    def say(self, value: str) -> str:
        """Return the sentence for a known value."""
        return self.known.replace("{value}", value)


class ClinicalSchema(BaseModel):
    """The columns of the clinical record: which are numbers, which categories, which are labels.

    `missing` lists the codes (compared without case) that stand for an unknown value;
    `event` and `time` list the names under which a public record carries its own outcome, beside
    those two words themselves.
    `sentences` put columns into words, for the fusions that read text; a column that it leaves out
    gets sentences made of its name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    numbers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    event: tuple[str, ...] = ()
    time: tuple[str, ...] = ()
    sentences: dict[str, Sentences] = {}

    @property
    def labels(self) -> frozenset[str]:
        """The keys, in lower case, that no model may see."""
        return frozenset(key.lower() for key in (*_OUTCOME, *self.event, *self.time))

    @model_validator(mode="after")
    def _columns_are_told_apart(self) -> "ClinicalSchema":
        _refuse_repeats("column", [name.lower() for name in (*self.numbers, *self.categories)])
        return self

    @model_validator(mode="after")
    def _labels_are_no_columns(self) -> "ClinicalSchema":
        seen = {name.lower() for name in (*self.numbers, *self.categories)} & self.labels
        if seen:
            raise ValueError(f"label keys used as columns: {', '.join(sorted(seen))}")
        return self

    @model_validator(mode="after")
    def _sentences_are_of_columns(self) -> "ClinicalSchema":
        columns = {name.lower() for name in (*self.numbers, *self.categories)}
        others = [name for name in self.sentences if name.lower() not in columns]
        if others:
            raise ValueError(f"sentences of no column: {', '.join(sorted(others))}")
        return self


class Interface(BaseModel):
    """A challenge's contract, read from `resources/interfaces/<name>.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    endpoint: str
    default_mpp: float | None = Field(default=None, gt=0)
    sockets: tuple[Socket, ...]
    clinical: ClinicalSchema = ClinicalSchema()
    output: Output

    @model_validator(mode="after")
    def _sockets_are_told_apart(self) -> "Interface":
        _refuse_repeats("slug", [socket.slug for socket in self.sockets])
        _refuse_repeats("path", [socket.path for socket in self.sockets])
        for modality in ("rna", "clinical"):
            slugs = [socket.slug for socket in self.of(modality)]
            if len(slugs) > 1:
                raise ValueError(f"expected one {modality} socket, found {', '.join(slugs)}")
        return self

    @model_validator(mode="after")
    def _masks_name_a_slide(self) -> "Interface":
        slides = {socket.slug for socket in self.of("slide")}
        for socket in self.sockets:
            if socket.modality == "mask" and socket.slide not in slides:
                raise ValueError(f"mask {socket.slug} names no slide socket: {socket.slide}")
            if socket.modality != "mask" and socket.slide is not None:
                raise ValueError(f"{socket.slug} is no mask, and names a slide: {socket.slide}")
        _refuse_repeats("slide of a mask", [str(mask.slide) for mask in self.of("mask")])
        return self

    def check_slugs(self, path: Path, received: set[str], *, warn: Warn) -> None:
        """Check which sockets a job's `inputs.json` lists, and warn of those that are not ours.

        A file at a socket's usual place counts as absent where the job lists it under another slug:
        by the platform's rules the slug says what a file is, and the path only where it lies.

        Raises:
            CaseError: A required socket is absent, or the job lists unknown ones alone.
        """
        known = {socket.slug for socket in self.sockets}
        ignored, absent = ", ".join(sorted(received - known)), ", ".join(sorted(known - received))
        for socket in self.sockets:
            if socket.required and socket.slug not in received:
                found = listed(sorted(received))
                raise CaseError(path, expected=f"socket {socket.slug}", found=found)
        if received and not received & known:
            raise CaseError(path, expected=f"one of the sockets {absent}", found=ignored)
        if ignored:
            lacking = f"; not received {absent}" if absent else ""
            warn(f"{path}: ignored sockets {ignored}{lacking}")

    def of(self, modality: str) -> tuple[Socket, ...]:
        """List the sockets of one modality, in the file's order."""
        return tuple(socket for socket in self.sockets if socket.modality == modality)

    def hidden(self, modality: str) -> frozenset[str]:
        """Return the keys, in lower case, that a record of a modality is read without.

        They are the labels; of expression, where every key is a gene, also the other columns of a
        manifest and the index of a table: one table may have been written for everything.
        """
        return self.clinical.labels | (_NO_GENES if modality == "rna" else frozenset())


def read_interface(name: str, folders: Sequence[Path]) -> Interface:
    """Read `<name>.json` from the first of the folders that has it.

    Raises:
        ConfigError: No folder has it, or it does not hold a valid preset of that name.
    """
    for folder in folders:
        path = folder / f"{name}.json"
        if path.is_file():
            try:
                found = Interface.model_validate_json(path.read_bytes())
            except ValidationError as error:
                problem = first_problem(error, whole="the file")
                raise ConfigError(f"{path}: {problem}") from error
            if found.name != name:  # a bundle keeps it, and would be answered by another preset
                raise ConfigError(f"{path}: name: expected {name!r}, found {found.name!r}")
            return found
    looked = ", ".join(str(folder) for folder in folders)
    raise ConfigError(f"interface {name!r}: expected {name}.json in {looked}, found none")


def read_presets(folder: Path) -> list[Interface]:
    """Read all presets of a folder.

    Raises:
        ConfigError: One of them is not valid.
    """
    return [read_interface(path.stem, [folder]) for path in sorted(folder.glob("*.json"))]
