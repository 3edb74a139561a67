"""Latency on phones, *predicted*: MACs over a published rate. Nothing is run on a phone.

assets/phone_rates.csv holds GMACs per ms of a device at a precision: the latency that was
published for a network at 128x128 -> 512x512 over its MACs. Those of fp16 and W8A8 come from a
network without attention, where `macs_paper` and `macs_full` of compress/cost/count.py agree. Those
of W8A16 come from Stable Diffusion's UNet and decoder, where the published ms and rates agree on
*full* MACs, attention included (the UNet: 402.1 G / 69 ms = 5.8, but 339.1 G paper MACs / 69 ms =
4.9). So full MACs it is. Norms, activations, resampling and memory traffic are in a rate as far as
those networks have them.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from compress.cost.cost import FLOAT_BITS, Cost, Layer

FLOAT, MIXED, INTEGER = "fp16", "W8A16", "W8A8"
PRECISIONS = (FLOAT, MIXED, INTEGER)
PUBLISHED_SIZE = (128, 128)


@dataclass(frozen=True)
class Rate:
    """How fast a phone multiplies.

    Attributes:
        device: The phone.
        precision: One of PRECISIONS.
        gmacs_per_ms: 1e9 MACs a millisecond.
        source: The network whose published latency says so.
    """

    device: str
    precision: str
    gmacs_per_ms: float
    source: str


@dataclass(frozen=True)
class Prediction:
    """How long a phone would take.

    Attributes:
        device: The phone.
        gmacs: Precision -> full GMACs; only precisions that the model has.
        rates: Precision -> rate, of the same.
    """

    device: str
    gmacs: dict[str, float]
    rates: dict[str, Rate]

    @property
    def ms(self) -> float:
        """Milliseconds."""
        return sum(
            gmacs / self.rates[precision].gmacs_per_ms for precision, gmacs in self.gmacs.items()
        )

    def terms(self) -> str:
        """How the sum is made: `5.0 GMACs fp16 / 6 + 36.1 GMACs W8A8 / 21`."""
        return " + ".join(
            f"{gmacs:,.1f} GMACs {precision} / {self.rates[precision].gmacs_per_ms:g}"
            for precision, gmacs in self.gmacs.items()
        )


def _rows(table: str) -> list[dict[str, str]]:
    """The rows of a CSV file among the assets."""
    file = files("compress") / "assets" / f"{table}.csv"
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


@cache
def rates() -> dict[str, dict[str, Rate]]:
    """Device -> precision -> rate."""
    by_device: dict[str, dict[str, Rate]] = {}
    for row in _rows("phone_rates"):
        rate = Rate(row["device"], row["precision"], float(row["gmacs_per_ms"]), row["source"])
        by_device.setdefault(rate.device, {})[rate.precision] = rate
    return by_device


def precision(layer: Layer) -> str:
    """What a phone runs a layer at.

    Codes of 8 bits or fewer go through 8-bit arithmetic, floats through fp16. So do products of one
    bit, which no phone runtime has a kernel for: it would expand them.
    """
    bits = layer.arithmetic.bits
    if 1 < bits <= 8:
        return INTEGER
    if layer.arithmetic.floating or bits == 1 or bits >= FLOAT_BITS:
        return FLOAT
    return MIXED


def gmacs_by_precision(cost: Cost) -> dict[str, float]:
    """Precision -> full GMACs, in the order of PRECISIONS, without those that have none.

    Attention stays in float.
    """
    sums = dict.fromkeys(PRECISIONS, 0)
    for layer in cost.layers:
        sums[precision(layer)] += layer.macs
    return {name: macs / 1e9 for name, macs in sums.items() if macs}


def predict(cost: Cost) -> list[Prediction]:
    """One prediction for each device; a model of mixed precision is the sum of its parts."""
    gmacs = gmacs_by_precision(cost)
    predictions = []
    for device, table in rates().items():
        predictions.append(Prediction(device, gmacs, {name: table[name] for name in gmacs}))
    return predictions


def published(source: object) -> Iterator[tuple[str, str, float]]:
    """What was published for the system that a source config stands for.

    Yields:
        (system, device, ms at 128x128 -> 512x512) as printed.
    """
    family = getattr(source, "family", None)
    size = getattr(source, "size", None)
    for row in _rows("phone_latency"):
        if row["family"] == family and row["size"] == size:
            yield row["system"], row["device"], float(row["ms"])


def as_lines(cost: Cost, source: object | None = None) -> list[str]:
    """The predictions as text.

    Args:
        cost: Of the model.
        source: The uncompressed model's config, to say what was published for it as well.
    """
    height, width = cost.lr_size
    predictions = {prediction.device: prediction for prediction in predict(cost)}
    lines = [
        f"predicted phone latency at LR {width}x{height}: full GMACs / published rate in GMACs per "
        "ms; nothing was run on a phone"
    ]
    for device, prediction in predictions.items():
        lines.append(f"  {device:<26}predicted {prediction.ms:8.1f} ms = {prediction.terms()}")
    for name in gmacs_by_precision(cost):
        networks = [p.rates[name].source.partition(" (")[0] for p in predictions.values()]
        lines.append(f"  rates at {name}: from {', '.join(dict.fromkeys(networks))}")
    if cost.lr_size != PUBLISHED_SIZE:
        return lines
    for system, device, ms in published(source):
        predicted = predictions[device].ms
        lines.append(
            f"  {system} on {device}: published {ms:g} ms, predicted {predicted:.1f} ms "
            f"({predicted / ms:.2f} of it); docs/results/phones.md takes it apart"
        )
    return lines
