"""How large one exported part may be, from file_limits.csv."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class FileLimit:
    """The most that a runtime takes of one part.

    Attributes:
        target: Of `export.targets.table`.
        bytes: At most, of weights.
        what: What has that limit.
        source: Where that is said.
    """

    target: str
    bytes: int
    what: str
    source: str


@cache
def file_limits() -> dict[str, FileLimit]:
    """Target -> its limit, of those that have a known one."""
    text = (files("export") / "targets" / "file_limits.csv").read_text(encoding="utf-8")
    limits = {}
    for row in csv.DictReader(text.splitlines()):
        limits[row["target"]] = FileLimit(
            row["target"], int(row["bytes"]), row["what"], row["source"]
        )
    return limits


def too_large(sizes: dict[str, int], target: str) -> str | None:
    """Why parts do not fit a target, in words; None where each fits, or no limit is known.

    Args:
        sizes: Part -> bytes of its weights as exported.
        target: The runtime.
    """
    limit = file_limits().get(target)
    if limit is None:
        return None
    name = max(sizes, key=lambda part: sizes[part])
    if sizes[name] <= limit.bytes:
        return None
    return f"too large: {name} {sizes[name] / 1e6:,.0f} MB, at most {limit.bytes / 1e6:,.0f}"
