"""Measure exported folders side by side: python -m export.latency FOLDER_FP32 FOLDER_W8A8

All run in one process with the same threads, and their repeats are interleaved.
"""

import argparse
from pathlib import Path

from compress.core.arguments import MOST_THREADS, whole_number
from compress.core.errors import command
from compress.core.program import command_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = command_parser("export.latency", description="Measure exported folders side by side")
    p.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="of python -m export.run; the first is the reference",
    )
    p.add_argument(
        "--threads",
        type=whole_number("--threads", most=MOST_THREADS),
        nargs="+",
        default=[1, 2],
        metavar="N",
        help="CPU threads, a table for each (default: 1 2)",
    )
    p.add_argument(
        "--repeats",
        type=whole_number("--repeats"),
        default=10,
        metavar="N",
        help="runs of each, of which the median counts (default: %(default)s)",
    )
    return p


@command
def main(argv: list[str]) -> int:
    """Print a table for each number of threads; returns the exit code."""
    arguments = parser().parse_args(argv)
    # These bring torch with them. It takes seconds, which --help need not wait for.
    from export.timing.folders import compare_folders
    from export.timing.rows import table

    for threads in arguments.threads:
        rows = compare_folders(arguments.folders, threads=threads, repeats=arguments.repeats)
        print(table(rows))
        for row in rows:
            print(
                f"{row['label']:24}loads in {row['load_s']:.2f} s, peak {row['peak_mib']:.0f} MiB"
            )
    return 0


if __name__ == "__main__":
    main()
