"""python -m eval.curve RUN… -o curve.png: size, MACs or latency against quality, beside the
published systems of the same data set and protocol; as PNG, SVG and an interactive page. Or metric
against metric, as PNG and SVG."""

import argparse
from pathlib import Path

from compress.core.arguments import number
from compress.core.errors import UserError, command
from compress.core.files import check_file
from compress.core.program import command_parser
from eval.reporting.axes import AXES, DEVICE


@command
def main(argv: list[str]) -> int:
    """Draw the runs named on the command line."""
    args = _arguments(argv)
    # These bring torch and matplotlib. They take seconds, which --help need not wait for.
    from eval.reporting.board import gather
    from eval.reporting.chart import write_chart
    from eval.reporting.curve import SUFFIXES, draw
    from eval.reporting.points import check, choose, device_of, until
    from eval.reporting.tradeoff import draw_tradeoff, place

    out = Path(args.out)
    check(args.metric, args.x)
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"-o {args.out}: give a name that ends in .png or .svg; both are written, and .html"
        )
    for suffix in (*SUFFIXES, ".html"):
        check_file(out.with_suffix(suffix), "-o")
    board = gather(args.runs, args.dataset, device_of(args.x, args.device))
    if args.x not in AXES:
        if args.x_max is not None:
            raise UserError(f"--x-max is for sizes, counts and latency, not for --x {args.x}")
        png, svg = draw_tradeoff(place(board, args.x, args.metric), out)
        print(f"written: {png}, {svg}")
        return 0
    selection = choose(board, args.metric, args.x)
    if args.x_max is not None:
        selection = until(selection, args.x_max)
    png, svg = draw(selection, out)
    page = write_chart(board, args.metric, args.x, out.with_suffix(".html"))
    print(f"written: {png}, {svg}, {page}")
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_parser("eval.curve", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run directories that were evaluated"
    )
    parser.add_argument(
        "-o", "--out", required=True, help="curve.png; .svg and .html are written beside it"
    )
    parser.add_argument("--metric", default="musiq")
    parser.add_argument(
        "--dataset", help="RealSR, DRealSR, DIV2K, …; default: the one that all runs share"
    )
    parser.add_argument(
        "--x",
        default="size",
        help=f"{', '.join(AXES)}, or a metric, such as psnr, against which the other is drawn with "
        "the line of each run that eval.run --strengths measured; default %(default)s",
    )
    parser.add_argument(
        "--x-max",
        type=number("--x-max"),
        help="published systems beyond it are named below the picture, not drawn",
    )
    parser.add_argument("--device", help=f"whose latency; default with --x latency: {DEVICE}")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
