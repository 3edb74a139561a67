"""The multiply-accumulates of a run on the meta device, added to the layer that runs."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from compress.cost.cost import Layer
from compress.cost.shapes import known_shape

aten = torch.ops.aten
# Operator -> the kind of MACs that it does; others of those that multiply are attention's.
_KIND = {
    aten.convolution: "conv",
    aten._convolution: "conv",
    aten.mm: "linear",
    aten.addmm: "linear",
}


def _linear_flops(x: torch.Tensor, weight: torch.Tensor, *_bias: Any, **_options: Any) -> int:
    return 2 * x.numel() * weight.shape[0]


def _attention_flops(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_args: Any, **_options: Any
) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


# What is counted by its arguments and not computed, where its shape is known.
_PRODUCTS: dict[Any, tuple[str, Callable[..., int]]] = {
    F.linear: ("linear", _linear_flops),
    F.scaled_dot_product_attention: ("attention", _attention_flops),
}


def _add(layer: Layer, kind: str, flops: int) -> None:
    """Add the MACs; torch counts a multiply-add as two."""
    name = f"macs_{kind}"
    setattr(layer, name, getattr(layer, name) + flops // 2)


class Calls(TorchFunctionMode):
    """Calls functions of torch only where their shapes are unknown, and counts those that multiply.

    An F.linear that is called is marked: it reaches the dispatcher as mm, addmm or bmm by memory
    layout. Inside nn.MultiheadAttention, which no source here uses, this sees nothing: on strided
    input the projections would be filed under attention. The sum is right either way.
    """

    in_linear = False

    def __init__(self, stack: list[Layer]):
        super().__init__()
        self.stack = stack

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Count a function of torch or run it, and know while it is F.linear."""
        kwargs = kwargs or {}
        sides = known_shape(func, args, kwargs)
        if sides is not None:
            if func in _PRODUCTS:
                kind, flops = _PRODUCTS[func]
                _add(self.stack[-1], kind, flops(*args, **kwargs))
            return args[0].new_empty(sides)
        self.in_linear = func is F.linear
        try:
            return func(*args, **kwargs)
        finally:
            self.in_linear = False


class Operators(TorchDispatchMode):
    """Adds the MACs of every operator to the layer that runs, the last of `stack`."""

    def __init__(self, stack: list[Layer], calls: Calls):
        super().__init__()
        self.stack = stack
        self.calls = calls

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an operator and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        operator = func.overloadpacket
        if operator in flop_registry:
            kind = "linear" if self.calls.in_linear else _KIND.get(operator, "attention")
            _add(self.stack[-1], kind, flop_registry[operator](*args, **kwargs, out_val=out))
        elif "scaled_dot_product" in str(operator):
            flops = sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
            _add(self.stack[-1], "attention", flops)
        return out
