"""python -m eval.report RUN: report.html of a run; python -m eval.report RUN RUN… -o compare.html:
many side by side."""

import argparse
import time
from pathlib import Path

from compress.core.arguments import whole_number
from compress.core.errors import UserError, command
from compress.core.files import check_file
from compress.core.hub import hub_name
from compress.core.program import command_parser


@command
def main(argv: list[str]) -> int:
    """Write the report of one run, or the comparison of several."""
    args = _arguments(argv)
    # These bring torch with them. It takes seconds, which --help need not wait for.
    from eval.reporting import rundir
    from eval.reporting.compare import write_comparison
    from eval.reporting.report import collect, write_report

    if args.out is not None:
        check_file(args.out, "-o", args.runs)
    if args.live is not None:
        return look(args.runs, args.out or Path("live.html"), args.live)
    runs = [rundir.read(path) for path in args.runs]
    if len(runs) == 1 and args.out is None:
        name = hub_name(args.runs[0])
        place = args.runs[0] if name is None else Path(name.label)
        place.mkdir(exist_ok=True)
        print(f"written: {write_report(place, collect(runs[0]))}")
        return 0
    if args.out is None or args.out.suffix != ".html":
        raise UserError(
            "several runs need -o NAME.html for their comparison, such as -o compare.html"
        )
    print(f"written: {write_comparison(runs, args.out, args.dataset)}")
    return 0


def look(runs: list[Path], out: Path, every: int) -> int:
    """Write the page of one run or training that is going on; again and again until Ctrl-C."""
    from eval.reporting.live import write_live

    if len(runs) != 1:
        raise UserError("--live looks at one run or training; give one")
    check_file(out, "-o", runs)
    print(f"written: {write_live(runs[0], out, every or None)}", flush=True)
    while every:
        time.sleep(every)
        write_live(runs[0], out, every)
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_parser("eval.report", description=__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="run directories or their names on the hub",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        help="of several runs: compare.html; of one: RUN/report.html, of the hub NAME/report.html",
    )
    parser.add_argument(
        "--live",
        nargs="?",
        const=0,
        type=whole_number("--live"),
        metavar="SECONDS",
        help="of a run or training that is going on: write its curves and samples so far to "
        "live.html; with SECONDS again and again, and a browser follows",
    )
    parser.add_argument("--dataset", help="of several runs: which; default: the one that all share")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
