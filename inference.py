"""The door: one Grand Challenge job in /input becomes one predicted time in /output.

Success prints to stdout alone. A failure leaves no output file, and its last line on stderr is
the one sentence that the platform shows to the user. `serve` does the same at each call.
"""

import argparse
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from model.interface import Interface
    from model.predictor import Predictor

HERE = Path(__file__).resolve().parent
MOUNTED = Path("/opt/ml/model")
RESOURCES = HERE / "resources"
PORT = 4743
PROGRESS_SECONDS = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say and return the exit code."""
    options = parse_arguments(arguments)
    warnings.showwarning = _print_warning
    return 0 if attempt(lambda: options.command(options), options.input) is None else 1


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; without arguments it is the platform's exec container."""
    parser = argparse.ArgumentParser(description="Predict a survival time for one case.")
    parser.set_defaults(
        command=score_job, input=Path("/input"), output=Path("/output"), device="auto"
    )
    # An option stands before or after the command: what is not given there changes nothing.
    server = parser.add_subparsers(title="commands").add_parser(
        "serve",
        help="stay, and score the job again at each POST /invoke",
        argument_default=argparse.SUPPRESS,
    )
    server.set_defaults(command=serve_jobs)
    server.add_argument("--port", type=int, default=PORT, help="where to listen")
    for each in (parser, server):
        each.add_argument("--input", type=Path, help="the job's folder")
        each.add_argument("--output", type=Path, help="where to write")
        each.add_argument("--bundle", type=Path, help="a bundle made by `python -m train`")
        each.add_argument("--device", help="auto, cpu or cuda")
    return parser.parse_args(arguments)


def attempt(step: Callable[[], None], where: Path) -> str | None:
    """Take a step; should it fail, tell stderr and return the reason in one sentence."""
    try:
        step()
    except Exception as error:  # noqa: BLE001  the door is the one place that catches everything
        traceback.print_exc()
        reason = one_line(error, where)
        print(reason, file=sys.stderr)
        return reason
    return None


def score_job(options: argparse.Namespace) -> None:
    """Score one job: the platform's exec container."""
    predictor, interface = load(options)
    score(predictor, interface, options)


def serve_jobs(options: argparse.Namespace) -> None:
    """Score the job that lies in the input folder at each call: the platform's invoke container."""
    from model.server import serve

    predictor, interface = load(options)
    serve(
        lambda: attempt(lambda: score(predictor, interface, options), options.input),
        port=options.port,
    )


def load(options: argparse.Namespace) -> "tuple[Predictor, Interface]":
    """Load all that is the same for every job."""
    # Imported here, so that a mistyped option is answered at once.
    import torch

    from model import __version__
    from model.bundle import Bundle
    from model.interface import read_interface
    from model.predictor import Predictor

    print(f"TriSurv {__version__}: research software, not for clinical use")
    bundle_path = options.bundle or find_bundle()
    bundle = Bundle.load(bundle_path)
    manifest = bundle.manifest
    encoder = manifest.encoder.id if manifest.encoder else "no encoder"
    print(f"bundle {bundle_path}: {manifest.fusion}, {len(bundle.members)} members, {encoder}")
    interface = read_interface(
        manifest.task.interface, [bundle_path.parent, RESOURCES / "interfaces"]
    )
    device = torch.device(
        options.device
        if options.device != "auto"
        else ("cuda" if torch.cuda.is_available() else "cpu")
    )
    predictor = Predictor(
        bundle,
        weights_dirs=[bundle_path.parent, MOUNTED, RESOURCES / "encoders"],
        device=device,
    )
    return predictor, interface


def score(predictor: "Predictor", interface: "Interface", options: argparse.Namespace) -> None:
    """Read the job, predict its time and write it."""
    from model.case import read_case, write_prediction

    # A case that fails must not leave the answer of the one before it. What cannot be removed
    # cannot be replaced either, and writing says so.
    with suppress(OSError):
        (options.output / interface.output.path).unlink()
    case = read_case(options.input, interface, warn=print_warning)
    prediction = predictor.predict(case, progress=progress_printer("patches embedded"))
    for warning in prediction.warnings:
        print_warning(warning)
    path = write_prediction(prediction, interface, options.output)
    low, high = prediction.interval
    print(
        f"case {case.case_id}: {prediction.time:.1f} {prediction.unit} to the event "
        f"(80 % interval {low:.1f} to {high:.1f}) from {', '.join(prediction.modalities)}"
    )
    print(f"wrote {path}", flush=True)


def find_bundle() -> Path:
    """Return the user's mounted bundle, or the image's own."""
    mounted = MOUNTED / "bundle.safetensors"
    return mounted if mounted.is_file() else RESOURCES / "bundle.safetensors"


def one_line(error: Exception, where: Path) -> str:
    """Say in one sentence why there is no prediction."""
    from model.errors import TriSurvError

    if isinstance(error, TriSurvError):
        return str(error)
    reason = " ".join(str(error).split()) or "no message"
    return f"{where}: unexpected {type(error).__name__}: {reason}"


def progress_printer(what: str) -> Callable[[int, int], None]:
    """Return a progress function: a bar on a terminal, a plain line now and then elsewhere."""
    last = [time.monotonic()]

    def bar(done: int, total: int) -> None:
        width = 30 * done // max(total, 1)
        end = "\n" if done >= total else ""
        print(f"\r[{'#' * width:<30}] {done:,}/{total:,} {what}", end=end, flush=True)

    def line(done: int, total: int) -> None:
        if done >= total or time.monotonic() - last[0] > PROGRESS_SECONDS:
            last[0] = time.monotonic()
            print(f"{done:,}/{total:,} {what}", flush=True)

    return bar if sys.stdout.isatty() else line


def print_warning(text: str) -> None:
    """Print a warning to stdout: the platform shows whatever is on stderr as a problem."""
    print(f"warning: {text}", flush=True)


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print_warning(f"{category.__name__}: {message} ({filename}:{lineno})")


if __name__ == "__main__":
    raise SystemExit(main())
