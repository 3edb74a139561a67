"""Widths and budgets: what the user writes, and the quantize pass with chosen widths."""

import re
from dataclasses import dataclass

from compress.core.errors import UserError
from compress.passes.quantize import Quantize, Width
from compress.quant.affine import BITS

UNITS = {"MB": 1e6, "KB": 1e3, "ms": 1.0}
# Bits of layers that no pin is for.
DEFAULT_BITS = 8


@dataclass(frozen=True)
class Budget:
    """What a model may take at most.

    Attributes:
        amount: A number of units.
        unit: MB or KB of weights, or ms of predicted latency on a phone.
    """

    amount: float
    unit: str

    @property
    def limit(self) -> float:
        """Bytes or ms."""
        return self.amount * UNITS[self.unit]

    def __str__(self) -> str:
        return f"{self.amount:g}{self.unit}"


def parse_budget(text: str) -> Budget:
    """'2.1MB', '850KB' or '12ms'.

    Raises:
        UserError: It is anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(MB|KB|ms)", text)
    if not match:
        raise UserError(
            f"--budget '{text}' is none; write a size like 2.1MB or 850KB, or a predicted latency "
            "like 12ms"
        )
    return Budget(float(match[1]), match[2])


def parse_width(text: str) -> Width:
    """'6' is 6 bits for weights and input, as in `pins`; 'w4a8' says them apart.

    Raises:
        UserError: It is anything else, or a number of bits that no layer can have.
    """
    both = re.fullmatch(r"\d+", text)
    apart = re.fullmatch(r"[wW](\d+)[aA](\d+)", text)
    weights = activations = 0
    if both:
        weights = activations = int(text)
    elif apart:
        weights, activations = int(apart[1]), int(apart[2])
    if weights not in BITS or activations not in BITS:
        raise UserError(
            f"--bits '{text}' is no width; write one of {', '.join(map(str, BITS))}, or weights "
            "and activations apart, like w4a8"
        )
    return Width(weights=weights, activations=activations)


def name_of(width: Width) -> str:
    """'W4A8' for 4 bits of weights and 8 of the input."""
    return f"W{width.weights}A{width.activations}"


def everywhere(step: Quantize, width: Width) -> Quantize:
    """`step` with every layer at `width`, also those that the config gives other bits."""
    return step.model_copy(
        update={"weights": DEFAULT_BITS, "activations": DEFAULT_BITS, "pins": {"*": width}}
    )


def pinned(step: Quantize, chosen: dict[str, Width]) -> Quantize:
    """`step` with the layers of `chosen` at their widths. The rest keeps its activations' bits."""
    activations = max(DEFAULT_BITS, step.activations)
    default = Width(weights=DEFAULT_BITS, activations=activations)
    pins = {name: width for name, width in chosen.items() if width != default}
    return step.model_copy(
        update={"weights": DEFAULT_BITS, "activations": activations, "pins": pins}
    )
