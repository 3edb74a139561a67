"""Latency of a whole model on phones at one precision, from published rates; nothing is run."""

from compress.cost import operators, phones
from compress.cost.count import measure
from compress.model.sr_model import SRModel

PRECISIONS = {"fp16": phones.FLOAT, "w8a8": phones.INTEGER, "w8a16": phones.MIXED}


def describe_predicted(model: SRModel, dtype: str, lr_size: tuple[int, int]) -> list[str]:
    """Two predictions, each a headline and one line a phone.

    The first is full GMACs over the published rate at `dtype`, the second that of a table of
    operators, with its interval.

    Args:
        model: Any; its structure is counted.
        dtype: fp16, w8a8 or w8a16, of all of it.
        lr_size: Height and width in pixels.
    """
    precision = PRECISIONS[dtype]
    cost = measure(model, lr_size)
    gmacs = sum(phones.gmacs_by_precision(cost).values())
    height, width = lr_size
    lines = [
        f"predicted phone latency at LR {width}x{height}, all of it at {precision}; nothing was "
        "run on a phone"
    ]
    for device, rates in phones.rates().items():
        rate = rates[precision]
        milliseconds = gmacs / rate.gmacs_per_ms
        source = rate.source.partition(" (")[0]
        lines.append(
            f"  {device:<26}predicted {milliseconds:8.2f} ms = {gmacs:,.1f} GMACs / "
            f"{rate.gmacs_per_ms:g} GMACs per ms ({source})"
        )
    return [*lines, *operators.as_lines({precision: operators.counts(cost)})]
