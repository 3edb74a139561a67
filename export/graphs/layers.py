"""The quantised layers of a module, as an export counts and names them."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import nn

from compress.core.errors import UserError

BYTE_BITS = 8


def _having(module: nn.Module, name: str) -> Iterator[tuple[nn.Module, Any]]:
    """The modules in `module` whose attribute `name` is there and not None, with its value."""
    for layer in module.modules():
        value = getattr(layer, name, None)
        if value is not None:
            yield layer, value


def quantised_layers(module: nn.Module) -> list[nn.Module]:
    """The layers of `module` that hold weight codes.

    Raises:
        UserError: Their ranges were never set.
    """
    layers = [layer for layer in module.modules() if hasattr(layer, "weight_q")]
    if any(getattr(layer, "fit", None) is not None for layer in layers):
        raise UserError(
            "the model has quantised layers without ranges; run the quantize pass with its "
            "calibration before exporting"
        )
    return layers


def distinct_weights(module: nn.Module) -> int:
    """How many of the layers with weight codes differ: of equal ones a graph keeps the first.

    Copies of a network that were not trained, such as a reference adapter's, are equal.
    """
    seen = set()
    for layer in quantised_layers(module):
        held: Any = layer
        digest = hashlib.sha256()
        for tensor in (held.weight_q, held.weight_scale):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        seen.add(digest.digest())
    return len(seen)


def low_bit_layers(module: nn.Module) -> list[nn.Module]:
    """The layers whose inputs are rounded to few bits: a last-bit difference can flip a code."""
    return [layer for layer, _ in _having(module, "act_bits")]


def packed_bytes(module: nn.Module) -> int:
    """Bytes of the weights that are stored as bits."""
    return sum(packed.nbytes for _, packed in _having(module, "weight_packed"))


def has_16_bits(module: nn.Module) -> bool:
    """Whether a weight or a quantiser has more than 8 bits."""
    weights = [bits for _, bits in _having(module, "weight_bits")]
    grids = [grid.bits for _, grid in _having(module, "grid")]
    return any(bits > BYTE_BITS for bits in (*weights, *grids))


def summary(module: nn.Module) -> dict[str, int]:
    """How many layers have which widths, such as {'W8A8': 41}; empty for a float model."""
    widths = Counter(f"W{layer.weight_bits}A{bits}" for layer, bits in _having(module, "act_bits"))
    return dict(widths)
