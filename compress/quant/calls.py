"""Which calls of torch functions are operators of a network.

Quantisers stand on tensors between operators. The recording of a flow (flow.py) and the run of a
quantised component (points.py) both count calls by these rules, so that they agree.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch.utils._pytree import tree_leaves

_SPELLINGS = {
    "add": ("add", "add_", "__add__", "__radd__", "__iadd__"),
    "sub": ("sub", "sub_", "__sub__", "__rsub__", "rsub", "__isub__"),
    "mul": ("mul", "mul_", "__mul__", "__rmul__", "multiply", "__imul__"),
    "div": ("div", "div_", "__truediv__", "__rdiv__", "__rtruediv__", "true_divide"),
    "concat": ("cat", "concat", "concatenate"),
    "matmul": ("matmul", "__matmul__", "bmm", "baddbmm"),
    "silu": ("silu", "silu_"),
    "relu": ("relu", "relu_"),
    "attention": ("scaled_dot_product_attention",),
    "resize": ("interpolate",),
    "conv2d": ("conv2d",),
    "linear": ("linear",),
    "gelu": ("gelu",),
    "leaky_relu": ("leaky_relu",),
    "prelu": ("prelu",),
    "sigmoid": ("sigmoid",),
    "tanh": ("tanh",),
    "softmax": ("softmax",),
    "group_norm": ("group_norm",),
    "layer_norm": ("layer_norm",),
    "instance_norm": ("instance_norm",),
}
# Functions that compute new values: the name that torch calls one by -> the operator.
OPERATORS: dict[str, str] = {}
for _op, _names in _SPELLINGS.items():
    OPERATORS |= dict.fromkeys(_names, _op)
NEUTRAL = "neutral"
SCALAR = ("add", "sub", "mul", "div")
# The number that leaves every value as it is.
_NEUTRAL_NUMBER = {"add": 0, "sub": 0, "mul": 1, "div": 1}
# Functions that move values without changing them. Zero padding is one of them: every quantiser's
# range contains 0.
MOVES = frozenset(
    (
        "reshape",
        "view",
        "flatten",
        "unflatten",
        "transpose",
        "permute",
        "movedim",
        "chunk",
        "split",
        "unbind",
        "__getitem__",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "expand",
        "clone",
        "detach",
        "to",
        "float",
        "type",
        "roll",
        "pad",
        "pixel_shuffle",
        "pixel_unshuffle",
        "narrow",
        "repeat_interleave",
        "t",
        "select",
    )
)
_is_paused: ContextVar[bool] = ContextVar("is_paused", default=False)


@contextmanager
def paused() -> Iterator[None]:
    """Take what is called inside for no operator of the network.

    It is a quantiser's or a quantised layer's own arithmetic. The state belongs to the context of
    execution: other threads and tasks do not see it.
    """
    token = _is_paused.set(True)
    try:
        yield
    finally:
        _is_paused.reset(token)


def operator_of(func: Callable, args: tuple, kwargs: dict) -> str | None:
    """Say which operator a call of a torch function is.

    Args:
        func: What is called.
        args: Its arguments.
        kwargs: Its named arguments.

    Returns:
        The operator's name, one of the values of `OPERATORS`, or `interpolate` for a resize other
        than by nearest neighbours. `NEUTRAL` for a product with 1 or a sum with 0, as in diffusers'
        rescaling of residuals, which only moves values. None for a function that is not in the
        table, for one that sees neither a map nor tokens, and while `paused`.
    """
    name = getattr(func, "__name__", "")
    if _is_paused.get() or name not in OPERATORS:
        return None
    if not any(t.is_floating_point() and t.ndim > 1 for t in tensors_of(args)):
        return None
    op = OPERATORS[name]
    if name == op and _is_neutral(op, args):
        return NEUTRAL
    if op == "resize" and _resize_mode(args, kwargs) != "nearest":
        return "interpolate"
    return op


def _is_neutral(op: str, args: tuple) -> bool:
    """Whether the second of two operands is the number that changes nothing."""
    if op not in _NEUTRAL_NUMBER or len(args) != 2 or isinstance(args[1], torch.Tensor):
        return False
    return bool(args[1] == _NEUTRAL_NUMBER[op])


def _resize_mode(args: tuple, kwargs: dict) -> str:
    """The `mode` of a call of F.interpolate, its fourth argument."""
    default = args[3] if len(args) > 3 else "nearest"
    return kwargs.get("mode") or default


def tensors_of(value: object) -> list[torch.Tensor]:
    """All tensors in nested tuples, lists and dicts, in their order."""
    return [t for t in tree_leaves(value) if isinstance(t, torch.Tensor)]
