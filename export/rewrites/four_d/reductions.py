"""Operators that look along axes: reductions, softmax and normalisations."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from export.graphs.edit import attribute, operand, optional_operand
from export.rewrites.arrange import arrange
from export.rewrites.four_d.layouts import AXES, compact, spatial, without
from export.rewrites.four_d.pieces import integers
from export.rewrites.four_d.writer import Writer
from export.rewrites.views import Groups, NotExpressible, View, flatten

REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd")
ROWS = (64, 32, 16, 8, 4, 2)  # widths into which instance norm cuts a single axis, best first


def rewrite_reduce(writer: Writer, node: ir.Node) -> list[View]:
    """A reduction over the axes of its second input.

    Raises:
        NotExpressible: The axes are not given, or have one element each.
    """
    view = writer.input_view(node)
    axes = [view.axis(axis) for axis in integers(optional_operand(node, 1))]
    reduced = set(flatten([view.dims[axis] for axis in axes]))
    if not reduced:
        raise NotExpressible("the reduced axes have one element")
    base_axes = _axes_within(view.order, reduced)
    if set(flatten([view.order[axis] for axis in base_axes])) != reduced:
        view = _with_last_axes(view, reduced, writer)
        writer.views[operand(node, 0)] = view  # whoever subtracts the mean from it wants it so
        base_axes = [axis for axis in (2, 3) if view.order[axis]]
    base = writer.at(node.op_type, view.base, np.array(base_axes, dtype=np.int64), keepdims=1)
    sizes = {factor: size for factor, size in view.sizes.items() if factor not in reduced}
    dims = _emptied(view.dims, axes)
    if not attribute(node, "keepdims", 1):
        dims = [group for axis, group in enumerate(dims) if axis not in axes]
    return [View(base, _emptied(view.order, base_axes), dims, sizes)]


def _axes_within(order: Groups, factors: set[int]) -> list[int]:
    """The axes that hold nothing but `factors`."""
    return [axis for axis, group in enumerate(order) if group and factors.issuperset(group)]


def _emptied(groups: Groups, axes: list[int]) -> Groups:
    """The groups with those of `axes` empty: they are reduced to one element."""
    return [[] if axis in axes else group for axis, group in enumerate(groups)]


def _with_last_axes(view: View, factors: set[int], writer: Writer) -> View:
    """With `factors` as the last two axes of the base."""
    last = [factor for factor in flatten(view.order) if factor in factors]
    rest = compact(without(view, last), 2)
    return arrange(view, [*rest, last[:-1], last[-1:]], writer.at)


def rewrite_softmax(writer: Writer, node: ir.Node) -> list[View]:
    """Softmax along one axis."""
    view = writer.input_view(node)
    factors = view.dims[view.axis(attribute(node, "axis", -1))]
    if not factors or factors not in view.order:
        groups = compact(view.dims, AXES) if len(view.dims) <= AXES else view.dims
        view = arrange(view, groups, writer.at)
    base = writer.at(node.op_type, view.base, axis=view.order.index(factors))
    return [replace(view, base=base)]


def rewrite_layer_norm(writer: Writer, node: ir.Node) -> list[View]:
    """LayerNormalization over the last axis, as NPUs have it: on [1, rows, columns, channels].

    Raises:
        NotExpressible: It goes over other axes, or has further outputs.
    """
    view = writer.input_view(node)
    axis = attribute(node, "axis", -1)
    if axis not in (-1, len(view.dims) - 1) or len(node.outputs) > 1:
        raise NotExpressible("LayerNormalization goes over several axes")
    _, channels, *rest = spatial(view, view.dims[-1])
    view = arrange(view, [[], *rest, channels], writer.at)
    parameters = [writer.whole(value) for value in node.inputs[1:]]
    return [replace(view, base=writer.repeat(node, view.base, *parameters, axis=-1))]


def rewrite_instance_norm(writer: Writer, node: ir.Node) -> list[View]:
    """InstanceNormalization on four axes; a single spatial axis is cut into rows."""
    view = writer.input_view(node)
    inside = flatten(view.dims[2:])
    if len(inside) == 1:
        view = view.split(inside[0], view.sizes[inside[0]] // _row(view.sizes[inside[0]]))
        inside = flatten(view.dims[2:])
    view = arrange(view, [view.dims[0], view.dims[1], inside[:-1], inside[-1:]], writer.at)
    parameters = [writer.whole(value) for value in node.inputs[1:]]
    return [replace(view, base=writer.repeat(node, view.base, *parameters))]


def _row(side: int) -> int:
    """The width of rows into which `side` elements are cut; 1 where there is none."""
    return next((width for width in ROWS if side % width == 0 and side > width), 1)
