"""Values as a reader wants them: 1.30 M, 4.20 MB, 0.7341, a dash for what is missing."""

from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]  # column -> value

COSTS = (
    "params",
    "param_equivalents",
    "bytes",
    "macs_paper",
    "macs_equivalent",
    "macs_full",
    "peak_activation_bytes",
)
HEADINGS = {
    "params": "parameters",
    "param_equivalents": "fp32-equivalent parameters",
    "bytes": "weights",
    "file_bytes": "file",
    "container_bytes": "weights in 8-bit containers",
    "peak_activation_bytes": "peak activations",
    "macs_paper": "MACs (conv + linear)",
    "macs_full": "MACs (with attention)",
    "macs_equivalent": "MACs, fp32-equivalent",
    "psnr_db": "PSNR, dB",
    "self_db": "own noise, dB",
    "own_db": "own rounding, dB",
    "tolerance_db": "tolerance, dB",
    "seconds": "time, s",
    "median_ms": "median, ms",
    "min_ms": "least, ms",
    "ratio": "speed against the first",
    "size_ratio": "size against the first",
}
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
SMALL = 1e-2  # from here on four decimals say enough


def cell(value: object, key: str = "") -> str:
    """A value as text.

    Args:
        value: A number, a text, None, or a list or table of them.
        key: The column, which decides on the unit.
    """
    if value is None:
        return "—"
    if isinstance(value, dict | list):
        return _nested(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    unit = _unit(key)
    if unit is None:
        return _plain(value)
    return _shortened(value, unit)


def _shortened(value: float, unit: str) -> str:
    for divisor, prefix in PREFIXES:
        if abs(value) >= divisor:
            return f"{value / divisor:.2f} {prefix}{unit}"
    return f"{value:g} {unit}".strip()


def _plain(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if abs(value) < SMALL else f"{value:.4f}"


def _unit(key: str) -> str | None:
    """The unit of a column whose numbers are shortened to k, M, G, T; None for any other."""
    if key.startswith("param"):
        return ""
    if key.startswith("macs"):
        return "MACs"
    return "B" if key.endswith("bytes") else None


def _nested(value: dict | list) -> str:
    if isinstance(value, list):
        return ", ".join(cell(entry) for entry in value)
    return ", ".join(
        f"{heading(key)}: {cell(entry, key)}"
        for key, entry in value.items()
        if not _is_table(entry)
    )


def heading(key: str) -> str:
    """What stands over a column."""
    return HEADINGS.get(key, key.replace("_", " "))


def columns(rows: list[Row]) -> list[str]:
    """Every key of the rows, once, in the order of appearance; tables in a table are left out."""
    found: dict[str, None] = {}
    for row in rows:
        found |= {key: None for key, value in row.items() if not _is_table(value)}
    return list(found)


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def chosen(values: Mapping[str, Any], keys: tuple[str, ...]) -> Row:
    """`values` of `keys`, None for one that is not there."""
    return {key: values.get(key) for key in keys}
