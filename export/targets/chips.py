"""The chips that target qnn compiles for, from htp_chips.csv."""

import csv
from dataclasses import dataclass
from importlib.resources import files

from compress.core.errors import UserError, nearest

DEFAULT = "snapdragon-8-gen-3"


@dataclass(frozen=True)
class Chip:
    """A Snapdragon.

    Attributes:
        name: Such as snapdragon-8-gen-3.
        part: Such as SM8650.
        htp_arch: The version of its NPU, such as 75.
        soc_model: Its number in QNN.
        phones: Which have it, in words.
    """

    name: str
    part: str
    htp_arch: str
    soc_model: str
    phones: str


def chips() -> dict[str, Chip]:
    """All chips, by name."""
    text = (files("export") / "targets" / "htp_chips.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {row["name"]: Chip(**row) for row in rows}


def choose_chip(name: str | None) -> Chip:
    """A chip by its name, its part number or the version of its NPU; None for the default.

    Raises:
        UserError: There is none of that name.
    """
    wanted = (name or DEFAULT).lower()
    table = chips()
    for chip in table.values():
        if wanted in (chip.name, chip.part.lower(), f"v{chip.htp_arch}"):
            return chip
    choices = ", ".join(f"{c.name} (v{c.htp_arch}: {c.phones})" for c in table.values())
    raise UserError(f"chip '{name}' is unknown{nearest(str(name), table)}; choose one of {choices}")
