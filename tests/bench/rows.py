"""The rows of a benchmark as JSON, for eval.results."""

import argparse
import json
from pathlib import Path

from compress.core.files import write_text


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")


def write_rows(file: Path | None, rows: list[dict]) -> None:
    """Write `rows`, where a file was asked for."""
    if file is not None:
        write_text(file, json.dumps(rows, allow_nan=False, indent=1) + "\n")
