"""Latency on phones, *predicted*: MACs over a published rate. Nothing is run on a phone.

assets/phone_rates.csv holds GMACs per ms of a device at a precision: the latency that was published for a network at
128x128 -> 512x512 over its MACs. Those of fp16 and W8A8 come from a network without attention, where both accounts of
compress/cost/count.py agree; those of W8A16 from Stable Diffusion's UNet and decoder, where the published ms and rates agree
on *full* MACs, attention included (the UNet: 402.1 G / 69 ms = 5.8, but 339.1 G paper MACs / 69 ms = 4.9). So full MACs
it is. Norms, activations, resampling and memory traffic are in no rate but as far as those networks have them.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from compress.cost.count import Cost, Layer

FLOAT, MIXED, INTEGER = "fp16", "W8A16", "W8A8"
PRECISIONS = (FLOAT, MIXED, INTEGER)


@dataclass(frozen=True)
class Rate:
    """GMACs that `device` does in a ms at `precision`, and the network whose published latency says so."""

    device: str
    precision: str
    gmacs_per_ms: float
    source: str


@dataclass(frozen=True)
class Prediction:
    """`gmacs` are full GMACs by precision; only precisions that the model has."""

    device: str
    gmacs: dict[str, float]
    rates: dict[str, Rate]

    @property
    def ms(self) -> float:
        return sum(
            count / self.rates[precision].gmacs_per_ms for precision, count in self.gmacs.items()
        )

    def terms(self) -> str:
        """How the sum is made: `5.0 GMACs fp16 / 6 + 36.1 GMACs W8A8 / 21`."""
        return " + ".join(
            f"{count:,.1f} GMACs {precision} / {self.rates[precision].gmacs_per_ms:g}"
            for precision, count in self.gmacs.items()
        )


def _rows(table: str) -> list[dict[str, str]]:
    with (files("compress") / "assets" / f"{table}.csv").open(
        encoding="utf-8", newline=""
    ) as stream:
        return list(csv.DictReader(stream))


@cache
def rates() -> dict[str, dict[str, Rate]]:
    """Device -> precision -> rate."""
    found: dict[str, dict[str, Rate]] = {}
    for row in _rows("phone_rates"):
        rate = Rate(row["device"], row["precision"], float(row["gmacs_per_ms"]), row["source"])
        found.setdefault(rate.device, {})[rate.precision] = rate
    return found


def precision(layer: Layer) -> str:
    """What a phone runs a layer at. Codes of 8 bits or fewer go through 8-bit arithmetic, floats through fp16, and
    so do products of one bit, which no phone runtime has a kernel for: it would expand them.

    A float stored in 16 bits is told from a quantised layer with 16-bit activations by its weights, which count as 32
    bits in the papers' account; that holds for every layer with a fan-in above 1.
    """
    if 1 < layer.arithmetic_bits <= 8:
        return INTEGER
    return (
        FLOAT if layer.arithmetic_bits in (1, 32) or layer.paper_bits > 16 * layer.params else MIXED
    )


def gmacs_by_precision(cost: Cost) -> dict[str, float]:
    """Precision -> full GMACs, in the order of PRECISIONS, without those that have none. Attention stays in float."""
    sums = dict.fromkeys(PRECISIONS, 0)
    for layer in cost.layers:
        sums[precision(layer)] += layer.macs_conv + layer.macs_linear + layer.macs_attention
    return {name: count / 1e9 for name, count in sums.items() if count}


def predict(cost: Cost) -> list[Prediction]:
    """One prediction for each device; a model of mixed precision is the sum of its parts."""
    gmacs = gmacs_by_precision(cost)
    return [
        Prediction(device, gmacs, {name: table[name] for name in gmacs})
        for device, table in rates().items()
    ]


def published(source: object) -> Iterator[tuple[str, str, float]]:
    """(system, device, ms at 128x128 -> 512x512) as printed for the system that a source config stands for."""
    key = (getattr(source, "family", None), getattr(source, "size", None))
    yield from (
        (row["system"], row["device"], float(row["ms"]))
        for row in _rows("phone_latency")
        if (row["family"], row["size"]) == key
    )


def as_lines(cost: Cost, source: object | None = None) -> list[str]:
    """The predictions as text. With `source`, the uncompressed model's config, also what was published for it."""
    height, width = cost.lr_size
    found = predict(cost)
    lines = [
        f"predicted phone latency at LR {width}x{height}: full GMACs / published rate in GMACs per ms; nothing "
        "was run on a phone"
    ]
    for one in found:
        lines.append(f"  {one.device:<26}predicted {one.ms:8.1f} ms = {one.terms()}")
    for name in gmacs_by_precision(cost):
        sources = dict.fromkeys(one.rates[name].source.partition(" (")[0] for one in found)
        lines.append(f"  rates at {name}: from {', '.join(sources)}")
    for system, device, ms in published(source) if cost.lr_size == (128, 128) else ():
        one = next(p for p in found if p.device == device)
        lines.append(
            f"  {system} on {device}: published {ms:g} ms, predicted {one.ms:.1f} ms "
            f"({one.ms / ms:.2f} of it); the gap is not explained"
        )
    return lines
