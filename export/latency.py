"""Measure exported folders side by side: python -m export.latency FOLDER_FP32 FOLDER_W8A8

All run in one process with the same threads, and their repeats are interleaved.
"""

import argparse
from pathlib import Path

from compress.core.errors import command
from compress.core.program import program_name
from export.timing.folders import compare_folders
from export.timing.rows import table


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog=program_name("export.latency"), description="Measure exported folders side by side"
    )
    p.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="of python -m export.run; the first is the reference",
    )
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    p.add_argument("--repeats", type=int, default=10)
    return p


@command
def main(argv: list[str]) -> int:
    """Print a table for each number of threads; returns the exit code."""
    arguments = parser().parse_args(argv)
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
