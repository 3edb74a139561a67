"""Pieces of a tensor along one axis, and tensors put together along one."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from export.graphs.edit import (
    array,
    attribute,
    numbers,
    operand,
    operands,
    optional_operand,
    scalar,
    shape,
)
from export.rewrites.arrange import arrange
from export.rewrites.four_d.layouts import at_head, head_axis, on_own_axis, resized
from export.rewrites.four_d.writer import Writer
from export.rewrites.views import NotExpressible, View, align, rename, renaming


def factors_of(view: View, axis: int) -> list[int]:
    """The factors of an axis.

    Raises:
        NotExpressible: It has one element, and so none.
    """
    factors = view.dims[axis]
    if not factors:
        raise NotExpressible("the axis has one element")
    return factors


def integers(value: ir.Value | None) -> list[int]:
    """The integers of a constant.

    Raises:
        NotExpressible: It is computed, or not there.
    """
    values = array(value)
    if values is None:
        raise NotExpressible("a position is computed")
    return [int(number) for number in values.reshape(-1)]


def rewrite_split(writer: Writer, node: ir.Node) -> list[View]:
    """Pieces along one axis."""
    view = writer.input_view(node)
    given_axis = attribute(node, "axis", 0)
    factors = factors_of(view, view.axis(given_axis))
    view = at_head(view, factors, writer)
    axis, step = head_axis(view, factors)
    counts = [shape(value)[given_axis] for value in node.outputs]
    lengths = writer.at.value(np.array([count * step for count in counts], dtype=np.int64))
    pieces = writer.at.several("Split", view.base, lengths, outputs=len(counts), axis=axis)
    return [
        resized(view, factors, count, piece) for count, piece in zip(counts, pieces, strict=True)
    ]


def rewrite_slice(writer: Writer, node: ir.Node) -> list[View]:
    """A Slice with step 1 along one axis.

    Raises:
        NotExpressible: It takes several axes or other steps.
    """
    starts = integers(optional_operand(node, 1))
    stops = integers(optional_operand(node, 2))
    axes = integers(optional_operand(node, 3))
    steps = integers(node.inputs[4]) if len(node.inputs) > 4 else [1]
    if len(starts) != 1 or steps != [1]:
        raise NotExpressible("Slice takes several axes, or steps")
    view = writer.input_view(node)
    axis = view.axis(axes[0])
    start, stop, _ = slice(starts[0], stops[0]).indices(view.sides[axis])
    return [_piece(view, axis, start, stop, writer)]


def rewrite_gather(writer: Writer, node: ir.Node) -> list[View]:
    """A Gather of one position.

    Raises:
        NotExpressible: It takes several, or a computed one.
    """
    index = scalar(operand(node, 1))
    if index is None:
        raise NotExpressible("Gather takes several positions, or a computed one")
    view = writer.input_view(node)
    axis = view.axis(attribute(node, "axis", 0))
    start = int(index) % view.sides[axis]
    view = _piece(view, axis, start, start + 1, writer)
    added: list[list[int]] = [[]] * numbers(operand(node, 1)).ndim
    return [replace(view, dims=[*view.dims[:axis], *added, *view.dims[axis + 1 :]])]


def _piece(view: View, axis: int, start: int, stop: int, writer: Writer) -> View:
    """The elements `start` to `stop` (exclusive) of an axis."""
    factors = factors_of(view, axis)
    if (start, stop) == (0, view.sides[axis]):
        return view
    view = at_head(view, factors, writer)
    base_axis, step = head_axis(view, factors)
    base = writer.at.slice(view.base, base_axis, start * step, stop * step)
    return resized(view, factors, stop - start, base)


def rewrite_concat(writer: Writer, node: ir.Node) -> list[View]:
    """Tensors one after the other along one axis, in the order of the first computed one.

    Raises:
        NotExpressible: All are constants or have one element there, or two cannot be aligned.
    """
    values = operands(node)
    views = [writer.view(value) for value in values]
    axis = views[0].axis(attribute(node, "axis"))
    like = _first_computed(views, values, axis)
    for view in views:
        like = _aligned(like, view, axis)
    own = like.dims[axis]
    like = arrange(like, on_own_axis(like, own), writer.at)
    place = like.order.index(own)
    bases = []
    for view in views:
        mine = _aligned(view, like, axis)
        mapped = renaming(like.with_dim(axis, []).dims, mine.with_dim(axis, []).dims)
        order = [*like.order]
        order[place] = []
        groups = rename(order, mapped)
        groups[place] = mine.dims[axis]
        bases.append(arrange(mine, groups, writer.at).base)
    base = writer.at("Concat", *bases, axis=place)
    return [resized(like, own, shape(node.outputs[0])[axis], base)]


def _first_computed(views: list[View], values: list[ir.Value], axis: int) -> View:
    for view, value in zip(views, values, strict=True):
        if array(value) is None and view.dims[axis]:
            return view
    raise NotExpressible("no computed tensor has several elements on the axis")


def _aligned(view: View, other: View, axis: int) -> View:
    """`view` with the factors of `other` on every axis but one."""
    aligned, _ = align(view.with_dim(axis, []), other.with_dim(axis, []))
    return aligned.with_dim(axis, view.dims[axis])
