"""`python -m train COMMAND`: make bundles, and see what they are worth."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import TriSurvError
from model.process import INTERRUPTED, prepare_process, print_if_possible

if TYPE_CHECKING:
    from train.config import CohortConfig


@print_if_possible()  # hours of training do not end with the terminal that showed them
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; what the user can act on is one line."""
    prepare_process()  # before torch is loaded, as the commands do
    options = _parser().parse_args(arguments)
    try:
        from train import commands  # seconds, which no --help should take

        code: int | None = options.run(commands, options)
    except TriSurvError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    return code or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    commands_ = parser.add_subparsers(required=True, metavar="COMMAND")

    simulate = commands_.add_parser("simulate", help="make a cohort with a known oracle risk")
    simulate.add_argument("directory", type=Path, help="new or empty")
    simulate.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as cases=60 seed=1"
    )
    simulate.set_defaults(run=lambda commands, o: commands.simulate(o.directory, o.overrides))

    for name, text in (
        ("embed", "turn every slide of a cohort into a bag on disk"),
        ("fit", "train, calibrate and write a bundle"),
        ("information", "say what a run's SurvQ keeps of slides and genes"),
        ("benchmark", "compare fusions and baselines on public tables"),
    ):
        command = commands_.add_parser(name, help=text)
        command.add_argument("config", type=Path, help="TOML, as in train/configs")
        command.add_argument(
            "overrides", nargs="*", metavar="key=value", help="of the TOML, such as fit.epochs=50"
        )
        command.set_defaults(
            run=lambda commands, o, name=name: getattr(commands, name)(o.config, o.overrides)
        )

    evaluate = commands_.add_parser("evaluate", help="score a labelled cohort with a bundle")
    evaluate.add_argument("bundle", type=Path, help="as `fit` writes")
    evaluate.add_argument(
        "cohort", type=Path, help="a folder as the CHIMERA download, or a manifest"
    )
    evaluate.add_argument(
        "--rna-table", type=Path, help="expression of all cases: .csv, .parquet or .h5ad"
    )
    evaluate.add_argument(
        "--clinical-table", type=Path, help="clinical records of all cases: .csv or .parquet"
    )
    evaluate.add_argument(
        "--time-unit", choices=["days", "months", "years"], help="of the cohort's times"
    )
    evaluate.add_argument("--embeddings", type=Path, help="bags to use; new ones are left there")
    evaluate.add_argument("--output", type=Path, help="write the predictions as CSV")
    evaluate.add_argument("--report", type=Path, help="folder for report.html and report.json")
    evaluate.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:0")
    evaluate.set_defaults(
        run=lambda commands, o: commands.evaluate(
            o.bundle, _cohort(o), output=o.output, report=o.report, device=o.device
        )
    )

    models = commands_.add_parser("models", help="list the fusions")
    models.set_defaults(run=lambda commands, _: commands.models())

    import_ = commands_.add_parser("import", help="turn a trained second-place model into a bundle")
    import_.add_argument("checkpoint", type=Path, help="the folder of its four files")
    import_.add_argument("--output", type=Path, required=True)
    import_.add_argument(
        "--trust-pickle", action="store_true", help="unpickle its files: they can run any code"
    )
    import_.set_defaults(
        run=lambda commands, o: commands.import_(
            o.checkpoint, o.output, trust_pickle=o.trust_pickle
        )
    )
    return parser


def _cohort(options: argparse.Namespace) -> "CohortConfig":
    from train.config import CohortConfig

    return CohortConfig(
        root=options.cohort,
        rna_table=options.rna_table,
        clinical_table=options.clinical_table,
        time_unit=options.time_unit,
        bags=options.embeddings,
    )


if __name__ == "__main__":
    raise SystemExit(main())
