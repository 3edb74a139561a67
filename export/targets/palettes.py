"""Palettes of weights in Core ML programs: which weights have one, and what it holds.

A palette is a table of 2^bits float16 values, which k-means of coremltools chooses for one weight;
in place of the weight an index of so many bits is stored for each of its values.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.targets.contract import Parts

WIDTHS = (4, 6, 8)  # bits of an index
DECODER = "constexpr_lut_to_dense"
SUFFIX = "_palettized"  # which coremltools puts behind a weight's name
WEIGHTS_FILE = "weight.bin"
ALIGNMENT = 64  # bytes, of each tensor in that file and of the record before it
VALUE_BYTES = 2  # of float16
LEAST = 1e-30  # in place of mean squares of 0, to divide by
# float16 has 11 bits; what is below its least normal number keeps fewer.
ROUNDING, LEAST_NORMAL = 2.0**-10, 2.0**-14


@dataclass(frozen=True)
class Weight:
    """A weight of a program that can have a palette.

    Attributes:
        graph: The program.
        name: The weight's name in it.
        parameter: Full name of the parameter of the torch model that it is; None where there is
            none, such as for a product of two.
        decoders: Bits -> the operator that a program with palettes of so many bits has for it.
    """

    graph: str
    name: str
    parameter: str | None
    decoders: dict[int, Any]

    @property
    def layer(self) -> str | None:
        """Full name of the layer whose weight it is, as tables of sensitivities have it."""
        return None if self.parameter is None else self.parameter.removesuffix(".weight")

    @cached_property
    def count(self) -> int:
        """How many values it has."""
        decoder = next(iter(self.decoders.values()))
        return int(np.prod(decoder.outputs[0].shape))

    def decoded(self, bits: int) -> torch.Tensor:
        """What the palette and the indices of so many bits give: float32 of the weight's shape."""
        values = self.decoders[bits].materialized_val_inference()
        return torch.from_numpy(values.astype(np.float32))

    def stored(self, bits: int) -> int:
        """Bytes of palette and indices in the file of weights, in whole blocks."""
        return stored(self.count * bits // 8) + stored(2**bits * VALUE_BYTES)

    @property
    def stored_in_float16(self) -> int:
        """Bytes in the file of weights without a palette."""
        return stored(self.count * VALUE_BYTES)


def stored(size: int) -> int:
    """Bytes that a tensor of `size` bytes takes in a file of weights, its record included."""
    return ALIGNMENT + -(-size // ALIGNMENT) * ALIGNMENT


def weights_bytes(program: Any) -> int:
    """Bytes of a converted program's file of weights; 0 where it has none."""
    file = Path(program.weights_dir) / WEIGHTS_FILE
    return file.stat().st_size if file.is_file() else 0


def decoders(program: Any) -> dict[str, Any]:
    """Name of a weight -> the operator that looks its values up in a palette."""
    operators = program._mil_program.functions["main"].operations
    return {op.name.removesuffix(SUFFIX): op for op in operators if op.op_type == DECODER}


def find_weights(parts: Parts, stem: str, program: Any, palettised: dict[int, Any]) -> list[Weight]:
    """The weights of one graph that have palettes.

    Args:
        parts: What was converted.
        stem: The graph.
        program: As converted, in float16.
        palettised: Bits -> the same with palettes of so many bits everywhere.
    """
    lookups = {bits: decoders(copy) for bits, copy in palettised.items()}
    constants = {
        op.name: op.outputs[0].val
        for op in program._mil_program.functions["main"].operations
        if op.op_type == "const"
    }
    names = {id(value): name for name, value in parts.model.named_parameters()}
    free = {
        names[id(value)]: value.detach()
        for value in parts.module(stem).parameters()
        if id(value) in names
    }
    found = []
    for name in next(iter(lookups.values())):
        parameter = _origin(torch.from_numpy(constants[name]), free)
        free.pop(parameter or "", None)
        found.append(
            Weight(stem, name, parameter, {bits: all_[name] for bits, all_ in lookups.items()})
        )
    return found


def _origin(constant: torch.Tensor, parameters: dict[str, torch.Tensor]) -> str | None:
    """The first of the parameters that rounds to this constant; None where there is none."""
    for name, parameter in parameters.items():
        if parameter.shape == constant.shape and torch.allclose(
            parameter.float(), constant.float(), rtol=ROUNDING, atol=LEAST_NORMAL
        ):
            return name
    return None


@contextmanager
def held(parts: Parts, chosen: list[tuple[Weight, int]]) -> Iterator[None]:
    """Within, the torch model has the decoded values of palettes in place of those weights.

    Args:
        parts: The model.
        chosen: Weights with the bits of their palettes. One that no parameter is, is left out.
    """
    parameters = dict(parts.model.named_parameters())
    before = {}
    try:
        for weight, bits in chosen:
            if weight.parameter is not None:
                data = parameters[weight.parameter].data
                before[weight.parameter] = data.clone()
                data.copy_(weight.decoded(bits))
        yield
    finally:
        for name, data in before.items():
            parameters[name].data.copy_(data)


def signal_to_error(parts: Parts, weight: Weight, bits: int) -> float | None:
    """How near a palette's values are to torch's, in dB of the weight's mean square.

    None where no parameter is this weight.
    """
    if weight.parameter is None:
        return None
    exact = parts.model.get_parameter(weight.parameter).detach().float()
    error = (weight.decoded(bits) - exact).square().mean().item()
    signal = exact.square().mean().item()
    return 10 * math.log10(max(signal, LEAST) / max(error, LEAST))
