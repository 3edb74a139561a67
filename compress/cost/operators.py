"""Latency on phones, *predicted* from a table of operators: products, and values that are moved.

    ms = slowness of the device x sum over precisions (GMACs / rate + GB moved / bandwidth)

Rates, bandwidth and the slowness of a device are fitted to published latencies
(assets/phone_published.csv) of networks that are counted (assets/phone_networks.csv, made by
tests/bench/phone_networks.py). A value is moved once for each layer that reads or writes it. What
lies between layers in code, such as sums of two branches, is not in the table.

The interval holds 90 of 100 networks like the fitted ones, if the logarithm of an error is normal.
Its width comes from networks that the fit had not seen. Where a model is unlike all of them, `gaps`
says in what, and the interval says nothing.
"""

import csv
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from compress.cost.cost import Cost
from compress.cost.phones import PRECISIONS, precision

COUNTS = ("macs", "macs_attention", "weights", "values")
BYTES = {"fp16": (2, 2), "W8A16": (1, 2), "W8A8": (1, 1)}  # of a weight, of a value
REFERENCE = "Galaxy S24"  # whose slowness is 1
ROUNDS = 50  # of the fit
ROOM = 2.0  # how many times as large or as small as any fitted network a model may be
COVERED = 0.9  # of the networks
# Degrees of freedom -> the quantile of Student's t that leaves (1 - COVERED) / 2 above it, and that
# of the normal distribution for more of them.
STUDENT = {3: 2.353, 4: 2.132, 5: 2.015, 6: 1.943, 7: 1.895, 8: 1.860, 9: 1.833, 10: 1.812}
NORMAL = 1.645
FLOAT_BYTES = 4
LEAST_ATTENTION = 0.05  # a share of the products below which attention makes no other network
LEAST_SHARE = 0.05  # of the milliseconds, below which a precision decides nothing

Counts = dict[str, float]


def counts(cost: Cost, kind: str | None = None) -> Counts:
    """COUNTS of a cost.

    Args:
        cost: Of a model or a part of it.
        kind: Of the layers that are counted, one of PRECISIONS; None counts all.

    Returns:
        MACs with attention's, those of attention alone, parameters, and the values that layers
        read and write.
    """
    layers = [layer for layer in cost.layers if kind in (None, precision(layer))]
    return {
        "macs": sum(layer.macs for layer in layers),
        "macs_attention": sum(layer.macs_attention for layer in layers),
        "weights": sum(layer.params for layer in layers),
        "values": sum(layer.activation_bytes for layer in layers) // FLOAT_BYTES,
    }


@dataclass(frozen=True)
class Published:
    """A published latency.

    Attributes:
        network: Its name in the table of networks.
        kind: One of PRECISIONS.
        device: The phone.
        ms: Published; the middle where a range is.
    """

    network: str
    kind: str
    device: str
    ms: float


@dataclass(frozen=True)
class Fit:
    """Coefficients of the formula, for REFERENCE.

    Attributes:
        per_gmac: Precision -> ms of 1e9 MACs.
        per_gb: Milliseconds of 1e9 bytes moved.
        slowness: Device -> factor of all.
    """

    per_gmac: dict[str, float]
    per_gb: float
    slowness: dict[str, float]

    def ms(self, table: dict[str, Counts], device: str) -> float:
        """Milliseconds of what is counted for each precision."""
        total = 0.0
        for kind, row in table.items():
            total += self.per_gmac[kind] * row["macs"] / 1e9 + self.per_gb * moved_gb(row, kind)
        return self.slowness[device] * total


def moved_gb(row: Counts, kind: str) -> float:
    """1e9 bytes that layers of one precision read and write."""
    of_weight, of_value = BYTES[kind]
    return (row["weights"] * of_weight + row["values"] * of_value) / 1e9


def _rows(table: str) -> list[dict[str, str]]:
    file = files("compress") / "assets" / f"{table}.csv"
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


@cache
def networks() -> dict[str, Counts]:
    """Network -> its counts."""
    return {
        row["network"]: {key: float(row[key]) for key in COUNTS} for row in _rows("phone_networks")
    }


@cache
def published() -> tuple[Published, ...]:
    """All published latencies of the table."""
    found = []
    for row in _rows("phone_published"):
        middle = (float(row["low_ms"]) + float(row["high_ms"])) / 2
        found.append(Published(row["network"], row["precision"], row["device"], middle))
    return tuple(found)


def fit(points: Iterable[Published]) -> Fit:
    """The coefficients that leave the least relative errors, none of them negative.

    Args:
        points: Published latencies; each device has one, and so has each precision that is asked
            for later.
    """
    points = list(points)
    devices = sorted({point.device for point in points} | {REFERENCE})
    slowness = dict.fromkeys(devices, 1.0)
    coefficients = np.zeros(len(PRECISIONS) + 1)
    for _ in range(ROUNDS):
        rows = [_row(point, slowness) for point in points]
        coefficients = _least_squares(np.array(rows))
        made = Fit(
            dict(zip(PRECISIONS, coefficients[:-1], strict=True)), coefficients[-1], slowness
        )
        for device in devices:
            ratios = [
                math.log(point.ms / (made.ms(_alone(point), device) / slowness[device]))
                for point in points
                if point.device == device
            ]
            if device != REFERENCE and ratios:
                slowness = {**slowness, device: math.exp(statistics.mean(ratios))}
    return Fit(
        {name: float(value) for name, value in zip(PRECISIONS, coefficients[:-1], strict=True)},
        float(coefficients[-1]),
        slowness,
    )


def _alone(point: Published) -> dict[str, Counts]:
    return {point.kind: networks()[point.network]}


def _row(point: Published, slowness: dict[str, float]) -> list[float]:
    """What each coefficient adds to a point, over the published latency."""
    counted = networks()[point.network]
    share = slowness[point.device] / point.ms
    macs = [counted["macs"] / 1e9 * share * (kind == point.kind) for kind in PRECISIONS]
    return [*macs, moved_gb(counted, point.kind) * share]


def _least_squares(rows: np.ndarray) -> np.ndarray:
    """Coefficients >= 0 whose sums over each row come nearest to 1."""
    used = [column for column in range(rows.shape[1]) if rows[:, column].any()]
    found = np.zeros(rows.shape[1])
    while used:
        part, *_ = np.linalg.lstsq(rows[:, used], np.ones(len(rows)), rcond=None)
        if (part >= 0).all():
            found[used] = part
            return found
        used.pop(int(part.argmin()))
    return found


@cache
def fitted() -> Fit:
    """The fit to all published latencies."""
    return fit(published())


@cache
def unseen_errors() -> tuple[float, ...]:
    """Logarithms of predicted over published, of points whose network the fit had not seen.

    A network that is alone at its precision has none: no rate can be fitted without it.
    """
    errors = []
    for name in networks():
        rest = [point for point in published() if point.network != name]
        known = {point.kind for point in rest}
        held = [point for point in published() if point.network == name and point.kind in known]
        if not held:
            continue
        made = fit(rest)
        for point in held:
            if point.device in made.slowness:
                errors.append(math.log(made.ms(_alone(point), point.device) / point.ms))
    return tuple(errors)


def factor() -> float:
    """The interval is from predicted / factor to predicted * factor."""
    errors = np.array(unseen_errors())
    # One error a network and precision: those of its devices say the same again.
    independent = len({(point.network, point.kind) for point in published()})
    deviation = math.sqrt((errors**2).sum() / len(errors))
    quantile = STUDENT.get(independent - 1, NORMAL)
    return math.exp(quantile * deviation * math.sqrt(1 + 1 / independent))


@dataclass(frozen=True)
class Estimate:
    """What the table of operators says of a model on one device.

    Attributes:
        device: The phone.
        ms: Milliseconds.
        low: The lower end of the interval.
        high: The upper end.
    """

    device: str
    ms: float
    low: float
    high: float


def by_precision(cost: Cost) -> dict[str, Counts]:
    """Precision -> counts, without those that a model has not."""
    table = {kind: counts(cost, kind) for kind in PRECISIONS}
    return {kind: row for kind, row in table.items() if row["macs"]}


def estimates(table: dict[str, Counts]) -> list[Estimate]:
    """One for each device.

    Args:
        table: What is counted for each precision.
    """
    width = factor()
    found = []
    for device in fitted().slowness:
        ms = fitted().ms(table, device)
        found.append(Estimate(device, ms, ms / width, ms * width))
    return found


@dataclass(frozen=True)
class Gap:
    """In what a model is unlike the networks that the fit has seen.

    Attributes:
        kind: attention, bytes or size.
        text: The same with its numbers.
    """

    kind: str
    text: str


def weighty(table: dict[str, Counts]) -> list[str]:
    """The precisions that take at least LEAST_SHARE of the milliseconds."""
    whole = fitted().ms(table, REFERENCE)
    return [
        kind
        for kind, row in table.items()
        if fitted().ms({kind: row}, REFERENCE) >= LEAST_SHARE * whole
    ]


def gaps(table: dict[str, Counts]) -> list[str]:
    """In what a model is unlike the networks that the fit has seen; empty where it is like them."""
    return [gap.text for gap in find_gaps(table)]


def find_gaps(table: dict[str, Counts]) -> list[Gap]:
    """The same as `gaps`, each with its kind.

    Precisions that are not `weighty` are not looked at.

    Args:
        table: What is counted for each precision.
    """
    found = []
    for kind in weighty(table):
        row = table[kind]
        seen = [networks()[point.network] for point in published() if point.kind == kind]
        share = _attention(row)
        most = max(_attention(other) for other in seen)
        if share > max(ROOM * most, LEAST_ATTENTION):
            text = (
                f"{share:.0%} of the products at {kind} are attention's, and at most {most:.0%} of "
                "a network published at it"
            )
            found.append(Gap("attention", text))
        known = [_per_byte(other, kind) for other in seen]
        if not min(known) / ROOM <= _per_byte(row, kind) <= max(known) * ROOM:
            text = (
                f"{_per_byte(row, kind):.0f} MACs for each byte moved at {kind}, and "
                f"{min(known):.0f} to {max(known):.0f} in networks published at it"
            )
            found.append(Gap("bytes", text))
    macs = sum(row["macs"] for row in table.values()) / 1e9
    sizes = [other["macs"] / 1e9 for other in networks().values()]
    if macs < min(sizes) / ROOM or macs > max(sizes) * ROOM:
        text = (
            f"{macs:,.1f} GMACs, and {min(sizes):,.1f} to {max(sizes):,.1f} in published networks"
        )
        found.append(Gap("size", text))
    return found


def _attention(row: Counts) -> float:
    return row["macs_attention"] / row["macs"]


def _per_byte(row: Counts, kind: str) -> float:
    return row["macs"] / (moved_gb(row, kind) * 1e9)


def as_lines(table: dict[str, Counts]) -> list[str]:
    """The estimates as text, and where there is no ground for them.

    Args:
        table: What is counted for each precision.
    """
    lines = [
        "predicted from a table of operators (products and bytes moved, fitted to published "
        f"latencies; nine of ten networks like those lie within a factor of {factor():.2f})"
    ]
    if not table:
        return [*lines, "  nothing is multiplied, so there is nothing to predict"]
    for one in estimates(table):
        lines.append(
            f"  {one.device:<26}predicted {one.ms:8.2f} ms, between {one.low:.2f} and "
            f"{one.high:.2f}"
        )
    lines += [f"  no ground for the interval: {gap}" for gap in gaps(table)]
    return lines
