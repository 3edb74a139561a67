"""The precisions that a graph of one operator is measured at."""

import re
from dataclasses import dataclass

from onnx import TensorProto

from compress.core.errors import UserError, nearest

PRECISIONS = (
    "fp32",
    "fp16",
    "a8w8",
    "a8w8s",
    "a8w8pc",
    "a16w8",
    "a16w8pc",
    "a16s",
    "a16w16",
    "a16w4pc",
    "a8w4pc",
)
FLOATS = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}
QUANTISED = re.compile(r"a(\d+)(?:w(\d+))?(s|pc)?")
DEFAULT_BITS = 8  # of weights that a name does not tell of
ACTIVATIONS = {8: TensorProto.UINT8, 16: TensorProto.UINT16}
WEIGHTS = {4: TensorProto.INT4, 8: TensorProto.INT8, 16: TensorProto.INT16}


@dataclass(frozen=True)
class Widths:
    """How a graph is quantised.

    Attributes:
        activations: Bits of activations.
        weights: Bits of weights.
        symmetric: Whether the ranges of activations are symmetric.
        per_channel: Whether weights have a scale per output channel.
    """

    activations: int
    weights: int
    symmetric: bool = False
    per_channel: bool = False


def widths_of(precision: str) -> Widths | None:
    """How a graph at a precision is quantised; None for floats.

    Raises:
        UserError: There is no such precision.
    """
    if precision in FLOATS:
        return None
    match = QUANTISED.fullmatch(precision)
    activations = int(match[1]) if match else 0
    weights = int(match[2] or DEFAULT_BITS) if match else 0
    if match is None or activations not in ACTIVATIONS or weights not in WEIGHTS:
        raise UserError(
            f"precision '{precision}' is unknown{nearest(precision, PRECISIONS)}; choose one of "
            f"{', '.join(PRECISIONS)}"
        )
    return Widths(activations, weights, match[3] == "s", match[3] == "pc")
