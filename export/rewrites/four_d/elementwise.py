"""Operators that treat every element alike: they run on a tensor as it lies."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from export.graphs.edit import array, constant, operands, scalar, shape
from export.rewrites.arrange import arrange
from export.rewrites.four_d.writer import Writer
from export.rewrites.views import Groups, NotExpressible, View, align, renamed

UNARY = (
    "Sigmoid",
    "Gelu",
    "Relu",
    "Tanh",
    "Sqrt",
    "Reciprocal",
    "Exp",
    "Neg",
    "Abs",
    "Clip",
    "Cast",
    "Swish",
    "Erf",
    "HardSwish",
    "HardSigmoid",
    "LeakyRelu",
    "Elu",
    "Softplus",
    "QuantizeLinear",
    "DequantizeLinear",
    "Not",
    "Sign",
    "Sin",
    "Cos",
    "Log",
    "Round",
    "Floor",
    "Ceil",
)
BROADCAST = (
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Max",
    "Min",
    "Where",
    "Less",
    "Greater",
    "LessOrEqual",
    "GreaterOrEqual",
    "Equal",
    "And",
    "Or",
    "PRelu",
)


def rewrite_unary(writer: Writer, node: ir.Node) -> list[View]:
    """An operator on one tensor, whose other inputs are single numbers.

    Raises:
        NotExpressible: Another input has several numbers (a scale per channel), or is computed.
    """
    parameters = node.inputs[1:]
    if any(value is not None and scalar(value) is None for value in parameters):
        raise NotExpressible(f"{node.op_type} has a parameter that is no single number")
    view = writer.input_view(node)
    stored = [None if value is None else writer.store(value) for value in parameters]
    return [replace(view, base=writer.repeat(node, view.base, *stored))]


def rewrite_elementwise(writer: Writer, node: ir.Node) -> list[View]:
    """An operator on several tensors that broadcast against each other.

    The result lies as the first computed operand of its size does.

    Raises:
        NotExpressible: No operand has the size of the result, or two cannot be aligned.
    """
    sides = shape(node.outputs[0])
    values = operands(node)
    views = [_with_rank(writer.view(value), len(sides)) for value in values]
    like = _of_full_size(views, values, sides)
    for view in views:  # before any is laid out, as a later one may give `like` more factors
        like, _ = align(like, view)
    bases = []
    for view, value in zip(views, values, strict=True):
        bases.append(_laid_out(view, like, writer) if view.sizes else _single(view, value, writer))
    return [replace(like, base=writer.repeat(node, *bases))]


def _with_rank(view: View, rank: int) -> View:
    """With dims of one element in front, up to `rank`."""
    missing: Groups = [[]] * (rank - len(view.dims))
    return replace(view, dims=missing + view.dims)


def _of_full_size(views: list[View], values: list[ir.Value], sides: tuple[int, ...]) -> View:
    for view, value in zip(views, values, strict=True):
        if view.sides == sides and array(value) is None:
            return view
    raise NotExpressible("no computed operand has the size of the result")


def _laid_out(view: View, like: View, writer: Writer) -> ir.Value:
    """The tensor of an operand in the order of `like`, whose factors it has or broadcasts over."""
    like, view = align(like, view)
    view = renamed(view, like)
    own = set(view.sizes)
    lacking: list[int] = []
    groups: Groups = []
    for group in like.order:
        missing = [factor for factor in group if factor not in own]
        if len(missing) == len(group):
            groups.append([])
        else:
            groups.append(group)
            lacking += missing
    if lacking:
        view = _spread(view, like, lacking, writer)
    return arrange(view, groups, writer.at).base


def _spread(view: View, like: View, lacking: list[int], writer: Writer) -> View:
    """A constant repeated over the factors `lacking`, which share an axis with its own."""
    values = array(view.base)
    if values is None:
        raise NotExpressible("a computed operand has one part of an axis only")
    sides = [like.sizes[factor] for factor in lacking]
    column = values.reshape(*[1] * len(lacking), *view.base_sides)
    repeated = np.broadcast_to(column, (*sides, *view.base_sides))
    order = [*([factor] for factor in lacking), *view.order]
    sizes = view.sizes | dict(zip(lacking, sides, strict=True))
    return View(constant(writer.graph, repeated, "spread"), order, view.dims, sizes)


def _single(view: View, value: ir.Value, writer: Writer) -> ir.Value:
    """A tensor of one element: a number without axes where it is a constant."""
    values = array(value)
    if values is None:
        return view.base
    if values.ndim == 0:
        return writer.store(value)
    return constant(writer.graph, values.reshape(()), "number")
