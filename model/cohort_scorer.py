"""One case of a cohort: what a worker is sent, what it does with it, and what comes back."""

import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict

from model.batch import Bag
from model.bundle import Bundle
from model.case import Case
from model.cohort_bags import load_predictor
from model.cohort_check import check_case
from model.devices import open_device
from model.errors import CaseError, ConfigError, TriSurvError, Warn, one_line, printable
from model.explain_files import clear_files
from model.files import sha256_of
from model.interface import Interface, Unit
from model.manifest import Row, Tables, build_case
from model.predictor import Predictor

Printable = Annotated[str, AfterValidator(printable)]


@dataclass(frozen=True)
class CaseTask:
    """A case's row of the manifest, and of the wide tables what they have of it."""

    row: Row
    tables: Tables


class Result(BaseModel):
    """What became of a case.

    Attributes:
        risk_percentile: Percentage of the training cohort with a lower risk.
        survival: Months → probability of no event until then.
        median: When the predicted survival reaches ½, in `unit`; None if not within the follow-up.
        interval: 80 % interval of the time, in `unit`.
        error: Why there is no prediction, in one line.
        traceback: Of an error that nobody foresaw.
        retry: The case may not be at fault (no weights, no memory, a worker that died), so that the
            next run tries it again.
        seconds: That the worker spent on it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    case_id: str
    time: float | None = None
    unit: Unit | None = None
    risk: float | None = None
    risk_percentile: float | None = None
    survival: dict[int, float] = {}
    median: float | None = None
    interval: tuple[float, float] | None = None
    modalities: tuple[str, ...] = ()
    warnings: tuple[Printable, ...] = ()
    error: Printable = ""
    traceback: Printable = ""
    retry: bool = False
    seconds: float | None = None


@dataclass(frozen=True)
class Scorer:
    """Scores cases with one bundle, in the process that it is sent to.

    Attributes:
        bundle: The bundle's file.
        weights_dirs: Folders that may hold the encoder's weights, in order.
        interface: Of the bundle's task.
        bundle_sha256: Of the bundle's file when the run began, as results of two are never mixed;
            "" is any.
        embeddings: Folder of bags to take, and to leave new ones in; None keeps no bags.
        explain: Gets one folder per case, with why it got its risk; None explains nothing.
        device: Where encoder and fusion run.
        threads: Of torch.
        dry_run: Check each case instead, without encoding it.
    """

    bundle: Path
    weights_dirs: tuple[Path, ...]
    interface: Interface
    bundle_sha256: str = ""
    embeddings: Path | None = None
    explain: Path | None = None
    device: str = "cpu"
    threads: int = 1
    dry_run: bool = False

    def on(self, device: str, threads: int) -> "Scorer":
        """Return the same scorer for a device and so many of torch's threads."""
        return replace(self, device=device, threads=threads)

    def load(self) -> str | None:
        """Load the bundle, and return why it cannot be."""
        try:
            self._predictor()
        except TriSurvError as error:
            return str(error)
        return None

    def do(self, task: CaseTask) -> Result:
        """Score a case; one that cannot be scored has its error in the result."""
        started = time.monotonic()
        case_id = task.row.case_id
        warnings: list[str] = []
        try:
            if self.explain is not None and not self.dry_run:
                clear_files(self.explain / case_id)
            case = build_case(task.row, self.interface, task.tables, warn=warnings.append)
            result = (self._check if self.dry_run else self._predict)(case, warnings)
        except TriSurvError as error:
            is_its_own = isinstance(error, CaseError)
            result = Result(
                case_id=case_id,
                error=str(error) if is_its_own else f"case {case_id}: {error}",
                warnings=tuple(warnings),
                # The system's reasons, as a share that is away, may be gone without a trace.
                retry=not is_its_own or isinstance(error.__cause__, OSError),
            )
        return result.model_copy(update={"seconds": time.monotonic() - started})

    def _predictor(self) -> Predictor:
        return _load(
            self.bundle,
            self.bundle_sha256,
            self.weights_dirs,
            self.embeddings,
            self.device,
            self.threads,
        )

    def _predict(self, case: Case, warnings: list[str]) -> Result:
        predictor = self._predictor()
        found = predictor.predict(
            case, progress=lambda done, total: None, look=self._explain if self.explain else None
        )
        return Result(
            case_id=found.case_id,
            time=found.time,
            unit=found.unit,
            risk=found.risk,
            risk_percentile=float(predictor.bundle.mapping.percentile([found.risk])[0]),
            survival=dict(found.survival),
            median=found.median,
            interval=found.interval,
            modalities=found.modalities,
            warnings=(*warnings, *found.warnings),
        )

    def _explain(self, case: Case, bag: Bag | None, warn: Warn) -> None:
        # Imported here, as captum takes seconds.
        from model.explain import explain_case  # noqa: PLC0415

        if self.explain is not None:
            predictor, sha256 = self._predictor(), self.bundle_sha256
            try:
                explain_case(predictor, case, bag, self.explain, bundle_sha256=sha256, warn=warn)
            except TriSurvError:
                raise
            except Exception as error:  # noqa: BLE001  the risk is known by now
                warn(f"no explanation: {one_line(error, self.explain / case.case_id)}")

    def _check(self, case: Case, warnings: list[str]) -> Result:
        check_case(self._predictor(), case, warn=warnings.append)
        return Result(case_id=case.case_id, warnings=tuple(dict.fromkeys(warnings)))


@lru_cache(maxsize=1)
def _load(
    path: Path,
    sha256: str,
    weights_dirs: tuple[Path, ...],
    embeddings: Path | None,
    device: str,
    threads: int,
) -> Predictor:
    """Load what a scorer needs, once in a process."""
    bundle = load_unchanged(path, sha256)
    torch.set_num_threads(threads)
    return load_predictor(bundle, weights_dirs, open_device(device), bags=embeddings)


def load_unchanged(path: Path, sha256: str) -> Bundle:
    """Load the bundle with which a run began.

    Raises:
        BundleError: It cannot be loaded.
        ConfigError: It is another one.
    """
    bundle = Bundle.load(path)
    if sha256 and sha256_of(path) != sha256:
        raise ConfigError(f"{path}: expected the bundle with which this run began, found another")
    return bundle
