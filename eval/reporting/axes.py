"""The axes that quality is drawn against: sizes, counts and latency, each with its unit."""

from dataclasses import dataclass

from compress.recipe.run_files import Number

DEVICE = "Galaxy S24"  # of the latency axis, unless another is asked for


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: What it says, with the unit.
        key: The entry of a ledger's cost; None where the cost does not hold it.
        divisor: What that entry is divided by to be in the axis' unit.
        column: The column of cost.csv; None where nobody prints it.
        counts: Whether figures that were scaled by bits do not belong here.
    """

    label: str
    key: str | None = None
    divisor: float = 1.0
    column: str | None = None
    counts: bool = False


AXES = {
    "size": Axis(
        "million fp32-equivalent parameters (parameters × bits / 32)",
        "param_equivalents",
        1e6,
        "params_m",
    ),
    "params": Axis("million parameters", "params", 1e6, "params_m", counts=True),
    "macs": Axis(
        "GMACs at 128 → 512 (conv + linear, as the papers count)",
        "macs_paper",
        1e9,
        "macs_g",
        counts=True,
    ),
    "ops": Axis(
        "fp32-equivalent GMACs at 128 → 512 (MACs × bits / 32)", "macs_equivalent", 1e9, "macs_g"
    ),
    "bytes": Axis("MB of weights", "bytes", 1e6),
    "latency": Axis("ms at 128 → 512"),
}


def costs(cost: dict[str, Number]) -> dict[str, float]:
    """A ledger's cost, by axis and in the axis' unit."""
    found = {}
    for name, axis in AXES.items():
        if axis.key is not None and cost.get(axis.key):
            found[name] = cost[axis.key] / axis.divisor
    return found
