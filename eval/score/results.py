"""The files of an evaluation: metrics.csv, a row an image, averages.json, references.json."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from compress.core.files import replacing, write_text
from compress.recipe.run_files import REFERENCES
from eval.score.restoring import Reference

Row = dict[str, str | float | None]


def write_results(folder: Path, rows: list[Row], result: dict[str, Any], names: list[str]) -> None:
    """Write metrics.csv and averages.json, each whole or not at all.

    Args:
        folder: Where to write; made where it is missing.
        rows: An image each: `image`, `data`, `protocol`, and scores by metric; None is a blank.
        result: What `evaluate` returns.
        names: The metrics with a column of their own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _whole(folder / "metrics.csv") as stream:
        table = csv.DictWriter(stream, ["image", "data", "protocol", *names], lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow({column: _cell(value) for column, value in row.items()})
    with _whole(folder / "averages.json") as stream:
        stream.write(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_references(folder: Path, references: Mapping[str, Sequence[Reference]]) -> None:
    """Write references.json: which patches each image was restored with.

    Without any no file is left there, also not of an earlier evaluation.
    """
    file = folder / REFERENCES
    if not any(references.values()):
        file.unlink(missing_ok=True)
        return
    rows = {name: [one._asdict() for one in found] for name, found in references.items()}
    write_text(file, json.dumps(rows, indent=1) + "\n")


def _cell(value: str | float | None) -> str | float | None:
    return f"{value:.6f}" if isinstance(value, float) else value


@contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    """A text file that gets its name only when it is complete."""
    with (
        replacing(path) as partial,
        partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        yield stream
