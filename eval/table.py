"""python -m eval.table RUN… [--published NAME,…|none]: runs beside the published systems of the
same protocol."""

import argparse
from pathlib import Path

from compress.core.errors import command
from compress.core.program import command_parser
from eval.reporting.formats import FORMATS


@command
def main(argv: list[str]) -> int:
    """Print the table."""
    args = _arguments(argv)
    # These bring torch with them. It takes seconds, which --help need not wait for.
    from eval.metric.names import check_names
    from eval.reporting.board import gather
    from eval.reporting.table import only, render

    metrics = check_names(args.metrics.split(",")) if args.metrics else None
    board = gather(args.runs, args.dataset, beside=args.published != "none")
    if args.published not in ("all", "none"):
        board = only(board, args.published)
    print(render(board, metrics, args.format))
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_parser("eval.table", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run directories that were evaluated"
    )
    parser.add_argument(
        "--published",
        default="all",
        metavar="NAME,…",
        help="which published systems; all (default), none",
    )
    parser.add_argument(
        "--dataset", help="RealSR, DRealSR, …; default: the one that all runs share"
    )
    parser.add_argument("--metrics", help="comma-separated; default: all that anyone has")
    parser.add_argument("--format", default="text", choices=FORMATS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
