"""The rows of a comparison, the first of which is the reference."""

import statistics
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from export.timing.turns import machine

KIBIBYTE = 2**10


class Row(TypedDict):
    """One exported form.

    Attributes:
        label: Its name.
        median_ms: Of all repeats, by the clock of `turns.interleaved`.
        min_ms: Likewise.
        ratio: Median of the reference over this one's: above 1 is faster.
        bytes: Of the graphs with their weights.
        size_ratio: These over the reference's.
        threads: CPU threads.
        repeats: How many were measured.
        machine: Where.
        load_s: Of a folder, seconds to load its graphs.
        peak_mib: Of a folder, the peak memory of a process that runs its graphs.
    """

    label: str
    median_ms: float
    min_ms: float
    ratio: float
    bytes: int
    size_ratio: float
    threads: int
    repeats: int
    machine: str
    load_s: NotRequired[float]
    peak_mib: NotRequired[float]


@dataclass(frozen=True)
class Measured:
    """Milliseconds of the calls of one form, and the bytes that it takes."""

    times: list[float]
    size: int


def make_rows(measured: dict[str, Measured], threads: int, repeats: int) -> list[Row]:
    """A row for each label; the first is the reference."""
    reference = next(iter(measured.values()))
    reference_ms = statistics.median(reference.times)
    where = machine()
    rows: list[Row] = []
    for label, form in measured.items():
        median_ms = statistics.median(form.times)
        rows.append(
            {
                "label": label,
                "median_ms": median_ms,
                "min_ms": min(form.times),
                "ratio": reference_ms / median_ms,
                "bytes": form.size,
                "size_ratio": form.size / reference.size,
                "threads": threads,
                "repeats": repeats,
                "machine": where,
            }
        )
    return rows


def table(rows: list[Row]) -> str:
    """The rows as text, the first line with machine, threads and repeats."""
    first = rows[0]
    threads = _counted(first["threads"], "thread")
    repeats = _counted(first["repeats"], "repeat")
    lines = [
        f"measured on {first['machine']}; {threads}, {repeats}, interleaved",
        f"{'':24}{'median ms':>11}{'min ms':>9}{'speed':>8}{'KiB':>9}{'size':>7}",
    ]
    for row in rows:
        lines.append(
            f"{row['label']:24}{row['median_ms']:11.1f}{row['min_ms']:9.1f}{row['ratio']:7.2f}x"
            f"{row['bytes'] / KIBIBYTE:9.0f}{row['size_ratio']:7.3f}"
        )
    return "\n".join(lines)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
