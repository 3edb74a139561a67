"""What a recipe comes to on each kind of phone: whether its parts fit, and the *predicted* time.

Nothing is run. Sizes are counted, limits come from file_limits.csv, and milliseconds from the table
of operators (compress/cost/operators.py).

A run that was quantised goes to target qnn with a grid on every tensor. So attention, norms and
activation functions are counted in its codes, and in float16 only the layers that it left in float.
Which more of them have to stay in float16 is known after calibration alone. A float run is computed
in float16. A weight of one bit is expanded to float16, because no phone's runtime has a kernel for
it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import ceil

from compress.cost import operators
from compress.cost.cost import Arithmetic, Cost, Layer
from compress.cost.phones import FLOAT, MIXED, precision
from export.targets.file_limits import too_large
from export.targets.phones import Choice, Phone, choice_for, phones
from export.targets.table import TARGETS

HALF = 16  # bits of float16
BYTE_BITS = 8
SMALL_MS = 10.0  # below which a tenth is shown
NO_GROUND = "no ground: "
UNPUBLISHED = "chip"  # what the prediction lacks where nothing of its precision is published


@dataclass(frozen=True)
class PhoneKind:
    """Phones that get the same file.

    Attributes:
        name: The version of the HTP, or the target.
        choice: What is exported for them.
        chips: In words, in the order of phones.csv.
        device: Whose latency is predicted for them, of `compress.cost.operators`; None for none.
    """

    name: str
    choice: Choice
    chips: tuple[str, ...]
    device: str | None


@dataclass(frozen=True)
class Outcome:
    """What a recipe comes to on a kind of phone.

    Attributes:
        fits: Whether the target takes the model and each part of it is within the limit.
        ms: *Predicted* milliseconds; None where nothing is published for the chip.
        low: The lower end of the interval.
        high: The upper end; both are None where there is no ground for them.
        reason: Why something of that is missing, in full; empty where nothing is.
        verdict: The same for a table: milliseconds and interval, or the reason in few words.
    """

    fits: bool
    ms: float | None
    low: float | None
    high: float | None
    reason: str
    verdict: str


@cache
def phone_kinds() -> tuple[PhoneKind, ...]:
    """All kinds: Snapdragons by their HTP first, then those of other targets."""
    chips: dict[tuple[str, str | None, str | None], list[str]] = {}
    first: dict[tuple[str, str | None, str | None], Phone] = {}
    for phone in phones().values():
        choice = choice_for(phone)
        key = (choice.target, choice.dtype, choice.chip)
        first.setdefault(key, phone)
        chips.setdefault(key, []).append(phone.chip)
    kinds = []
    for key, phone in first.items():
        choice = choice_for(phone)
        name = phone.kind if choice.chip else choice.target
        names = tuple(dict.fromkeys(chips[key]))
        kinds.append(PhoneKind(name, choice, names, _device(phone.kind) if choice.chip else None))
    return tuple(sorted(kinds, key=lambda kind: (kind.choice.chip is None, kind.name)))


def _device(kind: str) -> str | None:
    """The device of the fit that has a kind of NPU, by the name of a phone or of its chip."""
    for phone in phones().values():
        for name in (phone.name, phone.chip):
            if phone.kind == kind and name in operators.fitted().slowness:
                return name
    return None


def exported_bytes(cost: Cost) -> int:
    """Bytes of weights as a phone's file has them: floats in 16 bits, codes as they are."""
    return sum(ceil(_exported_bits(layer) / BYTE_BITS) for layer in cost.layers)


def _exported_bits(layer: Layer) -> int:
    bits = layer.arithmetic.weight_bits
    if layer.arithmetic.bits == 1:
        return layer.params * HALF
    if layer.arithmetic.floating and bits > HALF:
        return layer.stored_bits * HALF // bits
    return layer.stored_bits


def part_sizes(cost: Cost, parts: tuple[str, ...]) -> dict[str, int]:
    """Part -> bytes of its weights as exported.

    Args:
        cost: Of the whole model.
        parts: The components that are a file each; one alone stands for all.
    """
    if len(parts) == 1:
        return {parts[0]: exported_bytes(cost)}
    return {part: exported_bytes(cost.component(part)) for part in parts}


def own_codes(cost: Cost) -> str | None:
    """W8A8 or W8A16, where most products of a model are in codes; None for a float one."""
    shares = {kind: row["macs"] for kind, row in operators.by_precision(cost).items()}
    shares.pop(FLOAT, None)
    return max(shares, key=lambda kind: shares[kind]) if shares else None


def as_computed(cost: Cost) -> Cost:
    """A cost as target qnn exports it: all is in the model's codes but products left in float."""
    codes = own_codes(cost)
    if codes is None:
        return cost
    bits = HALF if codes == MIXED else BYTE_BITS
    arithmetic = Arithmetic(BYTE_BITS, bits, floating=False)
    layers = []
    for layer in cost.layers:
        has_weights_in_float = layer.macs_conv or layer.macs_linear
        if not has_weights_in_float and precision(layer) == FLOAT:
            layer = replace(layer, arithmetic=arithmetic)
        layers.append(layer)
    return Cost(cost.lr_size, tuple(layers), cost.calls)


def outcome(cost: Cost, sizes: dict[str, int], kind: PhoneKind) -> Outcome:
    """What a model comes to on a kind of phone.

    Args:
        cost: Of the whole model.
        sizes: Of its parts, as `part_sizes` gives them.
        kind: One of `phone_kinds`.
    """
    target = kind.choice.target
    if own_codes(cost) is not None and not TARGETS[target].takes_quantised:
        reason = f"target {target} takes no quantised model"
        return Outcome(False, None, None, None, reason, "takes float alone")
    large = too_large(sizes, target)
    if large is not None:
        return Outcome(False, None, None, None, large, large)
    if kind.device is None:
        reason = f"no latency of {', '.join(kind.chips)} is published"
        return Outcome(True, None, None, None, reason, "fits, nothing published")
    table = operators.by_precision(as_computed(cost))
    [one] = [one for one in operators.estimates(table) if one.device == kind.device]
    lacking = list(_lacking(table, kind.device))
    if lacking:
        words = ", ".join(dict.fromkeys(gap.kind for gap in lacking))
        reason = "; ".join(gap.text for gap in lacking)
        return Outcome(True, one.ms, None, None, reason, f"{NO_GROUND}{words}")
    verdict = f"{_shown(one.ms)} ({_shown(one.low)} to {_shown(one.high)})"
    return Outcome(True, one.ms, one.low, one.high, "", verdict)


def _shown(ms: float) -> str:
    return f"{ms:.1f}" if ms < SMALL_MS else f"{ms:,.0f}"


def _lacking(table: dict[str, operators.Counts], device: str) -> Iterator[operators.Gap]:
    yield from operators.find_gaps(table)
    known = {point.kind for point in operators.published() if point.device == device}
    for kind in operators.weighty(table):
        if kind not in known:
            text = f"nothing at {kind} is published of {device}"
            yield operators.Gap(UNPUBLISHED, text)
