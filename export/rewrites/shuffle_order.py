"""DepthToSpace in the order of channels that TensorFlow has.

torch's PixelShuffle reads channels as (channel, row, column), ONNX's mode CRD; TFLite's
DEPTH_TO_SPACE and some NPUs read (row, column, channel), mode DCR. The rows of the layer that makes
the channels are put into the other order, through operators that keep channels apart.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from export.graphs.edit import (
    Before,
    array,
    attribute,
    attributes_of,
    clean,
    infer,
    maker_of,
    nodes_of,
    operand,
    optional_operand,
    shape,
    sole_consumer,
)
from export.rewrites.options import DEFAULTS, Options

# Operators that treat every element alike.
ALIKE = (
    "Abs",
    "Cast",
    "Clip",
    "Erf",
    "Exp",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Log",
    "Neg",
    "Relu",
    "Sigmoid",
    "Sqrt",
    "Swish",
    "Tanh",
)
WITH_CONSTANT = ("Add", "Sub", "Mul", "Div", "Min", "Max")
RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Edit:
    """An input of a node whose elements come in another order along an axis."""

    node: ir.Node
    index: int
    axis: int


@dataclass
class Path:
    """From a map back to the layer that makes it.

    Attributes:
        value: Where the search is.
        axis: Of the channels there.
        edits: Constants that hold a value for each channel.
        found: Whether the layer is reached.
    """

    value: ir.Value
    axis: int
    edits: list[Edit] = field(default_factory=list)
    found: bool = False


def shuffle_order(model: ir.Model, options: Options = DEFAULTS) -> int:
    """DepthToSpace of mode CRD -> of mode DCR, exactly.

    The layer before it gets its output rows in the other order. Where none is found, because
    something else reads the channels too or mixes them, a 1x1 convolution of ones and zeros puts
    them in order.

    Returns:
        How many there were.
    """
    shuffles = [n for n in nodes_of(model.graph, "DepthToSpace") if _mode(n) == "CRD"]
    if shuffles:
        infer(model)
    for node in shuffles:
        order = dcr_order(shape(node.inputs[0])[1], attribute(node, "blocksize"))
        node.attributes["mode"] = ir.AttrString("mode", "DCR")
        if np.array_equal(order, np.arange(len(order))):
            continue
        if not _reorder_rows(model.graph, node, order):
            at = Before(model.graph, node)
            kernel = np.eye(len(order), dtype=np.float32)[order][:, :, None, None]
            node.replace_input_with(0, at("Conv", operand(node, 0), kernel, kernel_shape=[1, 1]))
    clean(model)
    return len(shuffles)


def dcr_order(channels: int, factor: int) -> np.ndarray:
    """Which channel in the order CRD stands at each place of the order DCR, int64 [channels]."""
    return np.arange(channels).reshape(-1, factor**2).T.reshape(-1)


def _mode(node: ir.Node) -> str:
    mode: str = attribute(node, "mode", "DCR")
    return mode


def _reorder_rows(graph: ir.Graph, node: ir.Node, order: np.ndarray) -> bool:
    """Put the rows of the layer before `node` in order; False where none can be."""
    path = Path(operand(node, 0), 1)
    while not path.found:
        if not _step(path, len(order)):
            return False
    new = [_ordered(graph, edit, order) for edit in path.edits]
    if any(value is None for value in new):
        return False
    for edit, value in zip(path.edits, new, strict=True):
        edit.node.replace_input_with(edit.index, value)
    return True


def _step(path: Path, channels: int) -> bool:
    """Go back by one node; False where the channels' order is lost or seen by others."""
    node = path.value.producer()
    if node is None or sole_consumer(path.value) is None:
        return False
    if node.op_type in ("Conv", "MatMul", "Gemm"):
        return _reach_layer(path, node)
    if node.op_type in ALIKE:
        return _go_on(path, node, path.axis)
    if node.op_type in WITH_CONSTANT:
        return _pass_constant(path, node, channels)
    if node.op_type in QUANTISERS:
        grid = [array(value) for value in node.inputs[1:] if value is not None]
        whole = all(values is not None and values.size == 1 for values in grid)
        return whole and _go_on(path, node, path.axis)
    if node.op_type == "Transpose":
        order = attribute(node, "perm", range(len(shape(path.value)))[::-1])
        return _go_on(path, node, order[path.axis])
    if node.op_type in RESHAPES:
        axis = _axis_before(shape(operand(node, 0)), shape(path.value), path.axis)
        return axis is not None and _go_on(path, node, axis)
    return False


def _go_on(path: Path, node: ir.Node, axis: int, index: int = 0) -> bool:
    path.value, path.axis = operand(node, index), axis
    return True


def _axis_before(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    """The axis before a reshape that is one of its axes, None where it was split or joined."""
    for i, side in enumerate(before):
        same_place = np.prod(before[:i], dtype=int) == np.prod(after[:axis], dtype=int)
        if side == after[axis] and same_place:
            return i
    return None


def _pass_constant(path: Path, node: ir.Node, channels: int) -> bool:
    """Go through an operator of a map and a constant."""
    if len(node.inputs) != 2:
        return False
    computed = [i for i in (0, 1) if not _is_constant(node.inputs[i])]
    if len(computed) != 1:
        return False
    rank = len(shape(path.value))
    sides = shape(node.inputs[1 - computed[0]])
    axis = path.axis - rank + len(sides)  # in the constant, which has the last axes
    if len(shape(node.inputs[computed[0]])) != rank:
        return False
    if axis >= 0 and sides[axis] == channels:
        path.edits.append(Edit(node, 1 - computed[0], axis))
    return _go_on(path, node, path.axis, computed[0])


def _is_constant(value: ir.Value | None) -> bool:
    """Whether a value is a constant, or the floats of one in codes."""
    if array(value) is not None:
        return True
    node = maker_of(value, "DequantizeLinear")
    return node is not None and all(array(given) is not None for given in node.inputs)


def _reach_layer(path: Path, node: ir.Node) -> bool:
    """Note which weights of a layer make the channels; False where they are none of its rows."""
    rank = len(shape(path.value))
    edits: list[Edit] = []
    if node.op_type == "Conv" and path.axis == 1 and attribute(node, "group", 1) == 1:
        edits = [Edit(node, 1, 0), Edit(node, 2, 0)]
    if node.op_type == "Gemm" and path.axis == 1:
        edits = [Edit(node, 1, 0 if attribute(node, "transB", 0) else 1)]
        bias = optional_operand(node, 2)
        if bias is not None and shape(bias) and shape(bias)[-1] > 1:
            edits.append(Edit(node, 2, len(shape(bias)) - 1))
    if node.op_type == "MatMul":
        given = 1 if path.axis == rank - 1 else 0
        weight = operand(node, given)
        if path.axis >= rank - 2 and len(shape(weight)) >= 2:
            edits = [Edit(node, given, len(shape(weight)) - (1 if given else 2))]
    edits = [edit for edit in edits if optional_operand(node, edit.index) is not None]
    path.edits += edits
    path.found = bool(edits)
    return path.found


def _ordered(graph: ir.Graph, edit: Edit, order: np.ndarray) -> ir.Value | None:
    """The input of an edit in the new order; None where it is computed."""
    value = edit.node.inputs[edit.index]
    at = Before(graph, edit.node)
    values = array(value)
    if values is not None:
        return at.value(np.take(values, order, edit.axis))
    node = maker_of(value, "DequantizeLinear")
    if node is None or not _is_constant(value):
        return None
    rank = len(shape(node.inputs[0]))
    along = attribute(node, "axis", 1) % max(rank, 1)
    codes, *grids = [array(given) for given in node.inputs]
    if codes is None:
        return None
    new = [
        grid if grid is None else _ordered_grid(grid, along, rank, edit.axis, order)
        for grid in grids
    ]
    return at("DequantizeLinear", np.take(codes, order, edit.axis), *new, **attributes_of(node))


def _ordered_grid(
    grid: np.ndarray, along: int, rank: int, axis: int, order: np.ndarray
) -> np.ndarray:
    """Scales or zero points of codes whose `axis` gets the new order."""
    if grid.ndim == 1 and grid.size > 1 and along == axis:
        return grid[order]
    if grid.ndim == rank > 1 and grid.shape[axis] == len(order):
        return np.take(grid, order, axis)
    return grid
