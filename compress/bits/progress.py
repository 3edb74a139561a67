"""A file of finished measurements, one a line, under the key of what they depend on."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from compress.core.errors import UserError
from compress.core.files import write_text
from compress.core.json_files import read_lines

_LOG = logging.getLogger(__name__)


def first_key(file: Path) -> str | None:
    """The key in the first line of a file of rows; None where there is no file.

    Raises:
        UserError: It is any other file.
    """
    if not file.exists() and not file.is_symlink():
        return None
    try:
        first = json.loads(file.read_text(encoding="utf-8").partition("\n")[0])
    except (OSError, ValueError, RecursionError):
        first = None
    if file.is_symlink() or not isinstance(first, dict) or "key" not in first:
        raise UserError(
            f"{file}: exists and holds no rows of python -m compress.sensitivity; give another -o, "
            "or move it away"
        )
    return first["key"]


@dataclass(frozen=True)
class Progress:
    """The rows that were measured so far.

    Attributes:
        file: Its first line holds the key, every other one a row.
        key: Identity of everything that a row depends on.
    """

    file: Path
    key: str

    def read(self) -> list[dict]:
        """The rows in the file if it has this key; otherwise the file is begun anew."""
        lines = read_lines(self.file, dict)
        if lines and first_key(self.file) == self.key:
            # Whole lines alone: a killed run may have ended within one, and the next row goes
            # behind it.
            write_text(self.file, "".join(json.dumps(line) + "\n" for line in lines))
            return lines[1:]
        if lines:
            _LOG.warning("%s: of another model, data or code; measuring anew", self.file)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.file, json.dumps({"key": self.key}) + "\n")
        return []

    def add(self, row: dict) -> None:
        """Write one row behind the others, at once."""
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
