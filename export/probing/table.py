"""The table of a probe: operator form -> precision -> dB."""

import csv
from pathlib import Path

from compress.core.errors import UserError
from compress.core.files import check_name, replacing
from export.probing.precisions import PRECISIONS

HEAD = b"form,"  # what a table begins with
Rows = dict[str, dict[str, str]]


def check_table(file: Path) -> None:
    """Refuse a place where no table of ours can be written, or where something else stands.

    Raises:
        UserError: It is such a place.
    """
    check_name(file, "--out")
    if not file.exists() and not file.is_symlink():
        return
    head = b""
    if file.is_file() and not file.is_symlink():
        with file.open("rb") as stream:
            head = stream.read(len(HEAD))
    if head != HEAD:
        raise UserError(
            f"--out {file}: exists and is no table of python -m export.probe; give another name, "
            "or remove it"
        )


def read_table(file: Path) -> Rows:
    """The rows of a table; none where there is no file."""
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8", newline="") as stream:
        return {row.pop("form"): row for row in csv.DictReader(stream) if row.get("form")}


def write_table(file: Path, rows: Rows) -> None:
    """Write a table; it is complete before it takes its name."""
    with replacing(file) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        out = csv.DictWriter(stream, ["form", *PRECISIONS], lineterminator="\n")
        out.writeheader()
        for form, row in rows.items():
            out.writerow({"form": form} | row)
