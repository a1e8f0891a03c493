"""The door: one Grand Challenge job in /input becomes one predicted time in /output.

Success prints to stdout alone. A failure leaves no output file, and its last line on stderr is
the one sentence that the platform shows to the user. `serve` does the same at each call. `cohort`
scores the cases of a manifest, and the exit code says whether all (0), some (3) or none (1) were.
"""

import argparse
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from model.cohort_arguments import add_cohort_arguments
from model.messages import counted, describe_interval
from model.process import INTERRUPTED, SOME_FAILED, prepare_process, print_if_possible
from model.progress import progress_printer
from model.stages import profiled, stage

if TYPE_CHECKING:
    from model.bundle import Manifest
    from model.interface import Interface
    from model.predictor import Predictor

HERE = Path(__file__).resolve().parent
MOUNTED = Path("/opt/ml/model")
RESOURCES = HERE / "resources"
PORT = 4743

if __name__ == "__mp_main__":  # a worker, which leaves Ctrl-C to its parent while it starts, too
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@print_if_possible()  # a failure to print is none to score
def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say and return the exit code."""
    options = parse_arguments(arguments)
    warnings.showwarning = _print_warning
    prepare_process()
    code = 1  # unless the command comes to its end

    def run() -> None:
        nonlocal code
        code = options.command(options)

    try:
        attempt(run, options.input)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    return code


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; without arguments it is the platform's exec container."""
    parser = argparse.ArgumentParser(description="Predict a survival time for one case.")
    parser.set_defaults(
        command=score_job, input=Path("/input"), output=Path("/output"), device="auto"
    )
    parser.add_argument(
        "--profile", action="store_true", help="tell on stderr where the one job's time went"
    )
    # An option stands before or after the command: what is not given there changes nothing.
    commands = parser.add_subparsers(title="commands")
    server = commands.add_parser(
        "serve",
        help="stay, and score the job again at each POST /invoke",
        argument_default=argparse.SUPPRESS,
    )
    server.set_defaults(command=serve_jobs)
    server.add_argument("--port", type=int, default=PORT, help="where to listen")
    for each in (parser, server):
        each.add_argument("--input", type=Path, help="the job's folder")
    cohort = commands.add_parser(
        "cohort", help="score many cases", argument_default=argparse.SUPPRESS
    )
    cohort.set_defaults(command=score_manifest)
    add_cohort_arguments(cohort)
    for each in (parser, server, cohort):
        each.add_argument("--output", type=Path, help="where to write")
        each.add_argument("--bundle", type=Path, help="a bundle made by `python -m train`")
        each.add_argument("--device", choices=["auto", "cpu", "cuda"], help="default: auto")
    options = parser.parse_args(arguments)
    if options.profile and options.command is not score_job:
        parser.error("--profile is for one job alone")
    return options


def attempt(step: Callable[[], None], where: Path) -> str | None:
    """Take a step; should it fail, tell stderr and return the reason in one sentence."""
    from model.errors import one_line

    try:
        step()
    except Exception as error:  # noqa: BLE001  nobody else would tell the user
        traceback.print_exc()
        reason = one_line(error, where)
        print(reason, file=sys.stderr)
        return reason
    return None


def score_job(options: argparse.Namespace) -> int:
    """Score one job: the platform's exec container."""
    from model.case import clear_answers
    from model.interface import read_presets

    # Which challenge's answer it would be is not known before the bundle is read, which may fail.
    clear_answers(options.output, read_presets(RESOURCES / "interfaces"))
    with profiled(sys.stderr if options.profile else None):
        predictor, interface = load(options)
        score(predictor, interface, options)
    return 0


def serve_jobs(options: argparse.Namespace) -> int:
    """Score the job that lies in the input folder at each call: the platform's invoke container."""
    from model.server import serve

    predictor, interface = load(options)
    serve(
        lambda: attempt(lambda: score(predictor, interface, options), options.input),
        port=options.port,
    )
    return 0


def score_manifest(options: argparse.Namespace) -> int:
    """Score the cases of a manifest, or say which of them would fail."""
    from model.cohort import Cohort, check_cohort, score_cohort
    from model.cohort_local import local_workers
    from model.cohort_progress import progress_on
    from model.cohort_scorer import Scorer

    bundle_path, manifest = read_bundle_manifest(options)
    if options.ray:
        from model.cohort_ray import ray_workers

        workforce = ray_workers(options.ray, options.workers, device=options.device)
    else:
        workforce = local_workers(options.workers, device=options.device)
    workers, threads = counted(workforce.count, "worker"), counted(workforce.threads, "thread")
    print(f"{workers} on {workforce.kind}, {threads} each")
    counts = (check_cohort if options.dry_run else score_cohort)(
        Cohort(
            manifest=options.input,
            output=options.output,
            rna_table=options.rna_table,
            clinical_table=options.clinical_table,
            overwrite=options.overwrite,
        ),
        Scorer(
            bundle=bundle_path,
            weights_dirs=weights_dirs(bundle_path),
            interface=find_interface(bundle_path, manifest),
            embeddings=options.embeddings,
            explain=options.explain,
        ),
        workforce,
        say=lambda text: print(text, flush=True),
        warn=print_warning,
        progress=progress_on(sys.stderr),
    )
    scored = counts.done - counts.failed
    cases = counted(counts.cases, "case")
    print(f"{cases}: {scored:,} without an error, {counts.failed:,} with one")
    if not options.dry_run:
        print(f"wrote {options.output}/predictions.csv, .parquet and report.html")
    if counts.failed:
        return SOME_FAILED if scored else 1
    return 0


def read_bundle_manifest(options: argparse.Namespace) -> "tuple[Path, Manifest]":
    """Find the bundle, read its manifest and say what it is."""
    # Imported here, as elsewhere, so that a mistyped option is answered at once.
    from model import __version__
    from model.bundle import read_manifest

    print(f"TriSurv {__version__}: research software, not for clinical use")
    path = options.bundle or find_bundle()
    manifest = read_manifest(path)
    encoder = manifest.encoder.id if manifest.encoder else "no encoder"
    members = counted(len(manifest.members), "member")
    print(f"bundle {path}: {manifest.fusion}, {members}, {encoder}")
    return path, manifest


def load(options: argparse.Namespace) -> "tuple[Predictor, Interface]":
    """Load all that is the same for every job."""
    with stage("imports"):
        from model.bundle import Bundle
        from model.devices import find_device
        from model.predictor import Predictor

    bundle_path, manifest = read_bundle_manifest(options)
    interface = find_interface(bundle_path, manifest)
    device = find_device(options.device, warn=print_warning)
    with stage("load"):
        bundle = Bundle.load(bundle_path)
        predictor = Predictor(bundle, weights_dirs=weights_dirs(bundle_path), device=device)
        predictor.load_encoder()
    return predictor, interface


def find_interface(bundle_path: Path, manifest: "Manifest") -> "Interface":
    """Read the interface preset of a bundle's task: its neighbour, or one of ours."""
    from model.interface import read_interface

    return read_interface(manifest.task.interface, [bundle_path.parent, RESOURCES / "interfaces"])


def weights_dirs(bundle_path: Path) -> tuple[Path, ...]:
    """Return the folders that may hold the encoder's weights, in order."""
    return bundle_path.parent, MOUNTED, RESOURCES / "encoders"


def score(predictor: "Predictor", interface: "Interface", options: argparse.Namespace) -> None:
    """Read the job, predict its time and write it."""
    from model.case import clear_answers, read_case, write_prediction

    clear_answers(options.output, [interface])
    with stage("inputs"):
        case = read_case(options.input, interface, warn=print_warning)
    prediction = predictor.predict(case, progress=progress_printer("patches embedded"))
    for warning in prediction.warnings:
        print_warning(warning)
    with stage("write"):
        path = write_prediction(prediction, interface, options.output)
    interval = describe_interval(prediction.interval, predictor.bundle.mapping.tau)
    print(
        f"case {case.case_id}: {prediction.time:.1f} {prediction.unit} to the event "
        f"(80 % interval {interval}) from {', '.join(prediction.modalities)}"
    )
    print(f"wrote {path}", flush=True)


def find_bundle() -> Path:
    """Return the user's mounted bundle, or the image's own."""
    mounted = MOUNTED / "bundle.safetensors"
    return mounted if mounted.is_file() else RESOURCES / "bundle.safetensors"


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
