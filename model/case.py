"""One patient to score: where its files lie, and where its answer goes."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from model.errors import CaseError, Warn, about_case, about_files
from model.files import write_whole
from model.interface import MONTHS_PER, Interface, Socket, Unit
from model.json_files import read_json

NO_VALUE = frozenset({"", "na", "n/a", "#n/a", "nan", "null", "none"})
"""What tables and JSON hold, in lower case, where nothing is known of any column."""

IMAGE_SUFFIXES = (
    *(".tif", ".tiff", ".mha"),
    # More of what OpenSlide reads.
    *(".svs", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".bif", ".svslide", ".czi", ".dcm"),
)


@dataclass(frozen=True)
class Record:
    """A flat JSON object and the file it came from."""

    values: Mapping[str, object]
    source: Path


@dataclass(frozen=True)
class SlideFile:
    """A slide and the mask of its tissue, where there is one."""

    path: Path
    mask: Path | None = None


@dataclass(frozen=True)
class Case:
    """One patient: slides, RNA and clinical record, each of which may be absent.

    The records hold no label: whoever reads a case strips them.
    """

    case_id: str
    slides: tuple[SlideFile, ...] = ()
    rna: Record | None = None
    clinical: Record | None = None
    default_mpp: float | None = None


@dataclass(frozen=True)
class Prediction:
    """What the Predictor says of one case.

    Attributes:
        risk: Higher = earlier event; the ensemble's mean of z-scored member risks.
        time: Predicted time to the event, in `unit`.
        survival: Months → probability of no event until then; none beyond the follow-up.
        median: When the predicted survival reaches ½, in `unit`; None if not within the follow-up.
        interval: 80 % interval of the time, in `unit`.
        modalities: Those that the prediction was made from.
    """

    case_id: str
    risk: float
    time: float
    unit: Unit
    survival: Mapping[int, float]
    median: float | None
    interval: tuple[float, float]
    modalities: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def read_case(input_dir: Path, interface: Interface, *, warn: Warn) -> Case:
    """Read a Grand Challenge job.

    Sockets are matched by slug in `inputs.json` and read at their `relative_path`; without
    that file the interface's own paths are used.

    Args:
        input_dir: The job's folder, `/input` on the platform.
        interface: The challenge's sockets.
        warn: Takes each warning.

    Raises:
        CaseError: `inputs.json` or a record cannot be read, a required socket is absent, or the
            job lists unknown ones alone.
    """
    job = _Job(input_dir, interface, _read_inputs(input_dir, interface, warn), warn)
    with about_case(job.case_id(())):
        masks = {mask.slide: job.find_mask(mask) for mask in interface.of("mask")}
        slides = tuple(
            SlideFile(path, masks.get(socket.slug))
            for socket in interface.of("slide")
            if (path := job.find_image(socket)) is not None
        )
        return Case(
            case_id=job.case_id(slides),
            slides=slides,
            rna=expression(job.read_record("rna")),
            clinical=job.read_record("clinical"),
            default_mpp=interface.default_mpp,
        )


def read_record(path: Path, hidden: frozenset[str] = frozenset(), *, warn: Warn) -> Record | None:
    """Read a flat JSON object without its hidden keys (in lower case); JSON null is no record.

    Raises:
        CaseError: The file cannot be read, or holds something else.
    """
    return _as_record(read_json(path, warn=warn), path, hidden)


def expression(record: Record | None) -> Record | None:
    """Return a record of RNA, none where it holds no value: that is how some write "not measured".

    A clinical record without any value is kept: that nothing is known is information, too.
    """
    return record if record and any(map(has_value, record.values.values())) else None


def has_value(value: object) -> bool:
    """Say whether a record's value, or a table's cell, tells anything."""
    return str(value).strip().lower() not in NO_VALUE


def clear_answers(output_dir: Path, interfaces: Sequence[Interface]) -> None:
    """Remove what the case before may have left: one that fails has no answer."""
    for interface in interfaces:
        # What cannot be removed cannot be replaced either, and writing says so.
        with suppress(OSError):
            (output_dir / interface.output.path).unlink()


def write_prediction(prediction: Prediction, interface: Interface, output_dir: Path) -> Path:
    """Write the challenge's bare JSON number, whole or not at all.

    Raises:
        CaseError: The output folder cannot be written.
        ValueError: The number is not finite.
    """
    output = interface.output
    # The factor comes first: within one unit it is 1, and the number stays as it is.
    time = prediction.time * (MONTHS_PER[prediction.unit] / MONTHS_PER[output.unit])
    value = prediction.risk if output.direction == "risk" else time
    path = output_dir / output.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(value, allow_nan=False).encode())
    except OSError as error:
        raise CaseError(
            path, expected="a writable folder", found=error.strerror, case_id=prediction.case_id
        ) from error
    return path


@about_files()
def _read_inputs(
    input_dir: Path, interface: Interface, warn: Warn
) -> dict[str, dict[str, object]] | None:
    """Return slug → item, or None without `inputs.json`."""
    path = input_dir / "inputs.json"
    if not path.is_file():
        if not input_dir.is_dir():
            raise CaseError(input_dir, expected="the folder of a job", found="no folder")
        return None
    content = read_json(path, warn=warn)
    if not isinstance(content, list):
        kind = type(content).__name__
        raise CaseError(path, expected="a JSON list with one item per socket", found=f"a {kind}")
    items: dict[str, dict[str, object]] = {}
    for item in content:
        # The platform wrote only `interface` until December 2025; new jobs have both.
        socket = (item.get("socket") or item.get("interface")) if isinstance(item, dict) else None
        if not isinstance(socket, dict) or not isinstance(socket.get("slug"), str):
            raise CaseError(path, expected="items with a socket and its slug", found=item)
        items[socket["slug"]] = {**item, "relative_path": socket.get("relative_path")}
    interface.check_slugs(path, set(items), warn=warn)
    return items


@dataclass(frozen=True)
class _Job:
    """A job's folder, and what its `inputs.json` says of each slug; None without one."""

    folder: Path
    interface: Interface
    items: Mapping[str, dict[str, object]] | None
    warn: Warn

    def locate(self, socket: Socket) -> Path | None:
        """Return where a socket's content lies, or None where the job does not have it."""
        if self.items is None:
            path = self.folder / socket.path
            if not path.exists():
                if socket.required:
                    raise CaseError(path, expected=f"the input {socket.slug}", found="nothing")
                return None
            return path
        if socket.slug not in self.items:
            return None
        return self.folder / str(self.items[socket.slug]["relative_path"] or socket.path)

    @about_files()
    def find_image(self, socket: Socket) -> Path | None:
        """Return the one image of a socket's folder; the platform chooses its file name."""
        folder = self.locate(socket)
        if folder is None or folder.is_file():
            return folder
        files = folder.iterdir() if folder.is_dir() else ()
        images = sorted(path for path in files if _is_image(path))
        if not images:
            if self.items is None and not socket.required:
                return None
            raise CaseError(folder, expected="one image (.tif or .mha)", found="none")
        if len(images) > 1:
            self.warn(f"{folder}: expected one image, found {len(images)}; using {images[0].name}")
        return images[0]

    def find_mask(self, socket: Socket) -> Path | None:
        """Return the mask of a socket's folder; a case can do without one that cannot be had."""
        try:
            return self.find_image(socket)
        except CaseError as error:
            if socket.required:
                raise
            self.warn(f"{error}; tissue is found by its colour instead")
            return None

    @about_files()
    def read_record(self, modality: str) -> Record | None:
        """Read the record of a modality, from its file or from the value inside the item."""
        for socket in self.interface.of(modality):  # one at most
            path = self.locate(socket)
            if path is not None:
                inline = self.items[socket.slug].get("value") if self.items else None
                is_inline = inline is not None and not path.exists()
                content = inline if is_inline else read_json(path, warn=self.warn)
                return _as_record(content, path, self.interface.hidden(modality))
        return None

    def case_id(self, slides: tuple[SlideFile, ...]) -> str:
        """Name the case after its first slide, as the user uploaded it; else after its file."""
        for socket in self.interface.of("slide"):
            image = (self.items or {}).get(socket.slug, {}).get("image")
            if isinstance(image, dict) and isinstance(image.get("name"), str):
                return Path(image["name"]).stem
        return slides[0].path.stem if slides else self.folder.resolve().name


def _is_image(path: Path) -> bool:
    """Say whether a file is an image by its name; macOS leaves `._name.tif` beside `name.tif`."""
    return (
        path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _as_record(content: object, path: Path, hidden: frozenset[str]) -> Record | None:
    if content is None:
        return None
    if not isinstance(content, dict):
        raise CaseError(path, expected="a JSON object", found=f"a {type(content).__name__}")
    kept = {key: value for key, value in content.items() if key.strip().lower() not in hidden}
    return Record(kept, path)
