"""Linear layers as 1x1 convolutions on [B, C, h, w], and no tensor of another rank between (rewrite `four_d`).

The graph is written anew. Reshapes and transposes only change the view of a tensor (views.py), element-wise operators
run on it as it lies, and an operator that needs a certain order of axes gets it. So a transformer block, whose tokens
the original has as [B, S, C], stays [B, C, h, w]; only LayerNorm, which NPUs have over the last axis alone, is
transposed to [B, h, w, C] and back. Weights stored as integers keep their codes.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from export.rewrites.edit import (
    Before,
    Options,
    array,
    attribute,
    clean,
    constant,
    infer,
    names,
    scalar,
    shape,
)
from export.rewrites.views import Groups, View, align, arrange, flatten, fresh, plain, renamed

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
BINARY = (
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
REDUCE = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd")


class Writer:
    """The new graph while it is written. `views` maps a value of the old graph to what stands for it."""

    def __init__(self, model: ir.Model):
        old = model.graph
        inputs = [ir.Value(name=v.name, shape=v.shape, type=v.type) for v in old.inputs]
        self.graph = ir.Graph(inputs, [], nodes=[], opset_imports=old.opset_imports, name=old.name)
        self.graph.meta["names"] = set(names(old))
        self.at = Before(self.graph, None)
        self.views = {v: plain(new, shape(v)) for v, new in zip(old.inputs, inputs, strict=True)}
        self.stored: dict[ir.Value, ir.Value] = {}

    def view(self, value: ir.Value) -> View:
        if value not in self.views:
            self.views[value] = plain(self.store(value), shape(value))
        return self.views[value]

    def store(self, value: ir.Value) -> ir.Value:
        """The initializer of the new graph for one of the old."""
        if value not in self.stored:
            tensor = value.const_value
            self.stored[value] = ir.Value(
                name=value.name,
                shape=tensor.shape,
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
            self.graph.register_initializer(self.stored[value])
        return self.stored[value]

    def whole(self, value: ir.Value) -> ir.Value:
        """The tensor of `value` in the shape that the original graph believes in."""
        if array(value) is not None:
            return self.store(value)
        view = arrange(self.view(value), self.view(value).dims, self.at)
        self.views[value] = view
        return view.base

    def attributes(self, node: ir.Node, **changed) -> dict:
        kept = {name: a.value for name, a in node.attributes.items() if a.value is not None}
        return kept | changed


def positions(value: ir.Value) -> list[int]:
    return [int(n) for n in array(value).reshape(-1)]


def compact(groups: Groups, count: int) -> Groups:
    """The same atoms in exactly `count` axes: the first ones joined, or empty ones put in front."""
    if len(groups) > count:
        joined = len(groups) - count + 1
        return [flatten(groups[:joined]), *groups[joined:]]
    return [[]] * (count - len(groups)) + groups


def positions_of(view: View, atoms: list[int]) -> Groups:
    """The other atoms as they lie, one list for each axis of the base that holds some, without `atoms`."""
    rest = [[a for a in group if a not in atoms] for group in view.order]
    return [group for group in rest if group]


def unary(w: Writer, node: ir.Node) -> list[View] | None:
    parameters = [None if v is None else array(v) for v in node.inputs[1:]]
    if any(
        v is None and given is not None or v is not None and v.size > 1
        for v, given in zip(parameters, node.inputs[1:], strict=True)
    ):
        return None
    view = w.view(node.inputs[0])
    base = w.at(
        node.op_type,
        view.base,
        *(None if v is None else w.store(v) for v in node.inputs[1:]),
        domain=node.domain,
        **w.attributes(node),
    )
    return [replace(view, base=base)]


def _reference(views: list[View], inputs: list[ir.Value], sides: tuple[int, ...]) -> View | None:
    full = [v for v, x in zip(views, inputs, strict=True) if v.sides == sides and array(x) is None]
    return full[0] if full else None


def _against(view: View, like: View, w: Writer) -> tuple[View, ir.Value] | None:
    """An operand of an element-wise operator in the order of `like`'s base, which may gain factors."""
    pair = align(like, view)
    if pair is None:
        return None
    like, view = pair[0], renamed(pair[1], pair[0])
    mine = set(flatten(view.order))
    groups = [[a for a in group if a in mine] for group in like.order]
    values = array(view.base)
    if any(
        0 < len(mine_there) < len(group)
        for mine_there, group in zip(groups, like.order, strict=True)
    ):
        if values is None:
            return None
        lacking = [
            a
            for group, there in zip(like.order, groups, strict=True)
            if there
            for a in group
            if a not in mine
        ]
        sides = [like.sizes[a] for a in lacking]
        values = np.broadcast_to(
            values.reshape(*[1] * len(lacking), *view.base_sides), (*sides, *view.base_sides)
        )
        view = View(
            constant(w.graph, values, "spread"),
            [*([a] for a in lacking), *view.order],
            view.dims,
            view.sizes | {a: like.sizes[a] for a in lacking},
        )
        groups = [group if there else [] for group, there in zip(like.order, groups, strict=True)]
    return like, arrange(view, groups, w.at).base


def binary(w: Writer, node: ir.Node) -> list[View] | None:
    sides = shape(node.outputs[0])
    views = []
    for value in node.inputs:
        view = w.view(value)
        views.append(replace(view, dims=[[]] * (len(sides) - len(view.dims)) + view.dims))
    like = _reference(views, node.inputs, sides)
    if like is None:
        return None
    operands = []
    for view in views:  # twice: a later operand may give `like` more factors
        found = _against(view, like, w) if view.sizes else (like, view.base)
        if found is None:
            return None
        like = found[0]
    for view, value in zip(views, node.inputs, strict=True):
        operands.append(_against(view, like, w)[1] if view.sizes else _single(w, view, value))
    return [replace(like, base=w.at(node.op_type, *operands, **w.attributes(node)))]


def _single(w: Writer, view: View, value: ir.Value) -> ir.Value:
    """A tensor of one element: a number without axes where it is a constant."""
    if array(value) is None:
        return view.base
    return (
        w.store(value)
        if array(value).ndim == 0
        else constant(w.graph, array(value).reshape(()), "number")
    )


def look(w: Writer, node: ir.Node) -> list[View] | None:
    """Reshape, Transpose, Squeeze, Unsqueeze, Flatten, Identity, and an Expand to the same shape."""
    view = w.view(node.inputs[0])
    if node.op_type == "Transpose":
        rank = len(view.dims)
        return [view.permuted(list(attribute(node, "perm", range(rank)[::-1])))]
    if node.op_type == "Expand" and shape(node.inputs[0]) != shape(node.outputs[0]):
        return None
    found = view.reshaped(shape(node.outputs[0]))
    return None if found is None else [found]


def spatial(view: View, channels: list[int]) -> Groups:
    """[[], channels, rows, columns] that differs least from how `view` lies."""
    rest = positions_of(view, channels)
    if len(rest) == 1 and len(rest[0]) == 2:
        rest = [[rest[0][0]], [rest[0][1]]]
    return [[], channels, *compact(rest, 2)]


def linear(w: Writer, node: ir.Node) -> list[View] | None:
    """MatMul or Gemm with a weight: a 1x1 convolution."""
    gemm = node.op_type == "Gemm"
    weight = w.view(node.inputs[1])
    if gemm and (
        attribute(node, "alpha", 1.0),
        attribute(node, "beta", 1.0),
        attribute(node, "transA", 0),
    ) != (1, 1, 0):
        return None
    if len(weight.dims) != 2 or not _fixed(node.inputs[1]):
        return None
    if gemm and attribute(node, "transB", 0):
        weight = weight.permuted([1, 0])
    x = w.view(node.inputs[0])
    x = arrange(x, spatial(x, x.dims[-1]), w.at)
    w.views[node.inputs[0]] = x
    size = weight.sides[1]
    kernel = arrange(weight, [weight.dims[1], weight.dims[0], [], []], w.at)
    bias = (
        [w.store(node.inputs[2])]
        if gemm and len(node.inputs) > 2 and node.inputs[2] is not None
        else []
    )
    if bias and array(node.inputs[2]).ndim != 1:
        bias = [constant(w.graph, array(node.inputs[2]).reshape(-1), "bias")]
    y = w.at("Conv", x.base, kernel.base, *bias, kernel_shape=[1, 1])
    atoms, sizes = fresh(size)
    kept = {a: s for a, s in x.sizes.items() if a not in x.dims[-1]}
    return [View(y, [[], atoms, *x.order[2:]], [*x.dims[:-1], atoms], kept | sizes)]


def _fixed(value: ir.Value) -> bool:
    """Whether a value depends on no input of the graph."""
    node = value.producer()
    if node is None:
        return value.const_value is not None
    return all(v is None or _fixed(v) for v in node.inputs)


def product(w: Writer, node: ir.Node) -> list[View] | None:
    """A product of two activations on four axes: [b1, b2, M, K] x [b1, b2, K, N]."""
    a, b = (w.view(v) for v in node.inputs)
    if len(a.dims) != len(b.dims) or len(a.dims) < 2 or a.sides[:-2] != b.sides[:-2]:
        return None
    # Only the batch axes and K are shared; each side keeps M or N to itself.
    left = replace(a, dims=[*a.dims[:-2], a.dims[-1], a.dims[-2]])
    pair = align(replace(left, dims=left.dims[:-1] + [[]]), replace(b, dims=b.dims[:-1] + [[]]))
    if pair is None:
        return None
    rows, columns = a.dims[-2], b.dims[-1]
    left, right = pair
    names = {
        x: y
        for mine, theirs in zip(right.dims, left.dims, strict=True)
        for x, y in zip(mine, theirs, strict=True)
    }
    batch = compact([list(group) for group in left.dims[:-2]], 2)
    inner = left.dims[-2]
    back = {y: x for x, y in names.items()}
    right_groups = [[back[a] for a in group] for group in (*batch, inner)] + [columns]
    x = arrange(left, [*batch, rows, inner], w.at)
    y = arrange(right, right_groups, w.at)
    out = w.at("MatMul", x.base, y.base)
    n, sizes = fresh(b.of(columns))
    m, more = fresh(a.of(rows))
    kept = {i: left.sizes[i] for i in flatten(batch)}
    return [View(out, [*batch, m, n], [*left.dims[:-2], m, n], kept | sizes | more)]


def own_axis(view: View, atoms: list[int], w: Writer) -> View:
    """With `atoms` at the head of one axis of the base, so that a piece of them is a piece of that axis."""
    if not atoms or any(group[: len(atoms)] == atoms for group in view.order):
        return view
    return arrange(view, compact([[], atoms, *compact(positions_of(view, atoms), 2)], 4), w.at)


def head_axis(view: View, atoms: list[int]) -> tuple[int, int]:
    """The base axis that begins with `atoms`, and how many elements each step of them spans there."""
    for i, group in enumerate(view.order):
        if group[: len(atoms)] == atoms and (atoms or not group):
            return i, view.of(group[len(atoms) :])
    raise RuntimeError("no axis begins with these atoms")


def resized(view: View, atoms: list[int], size: int, base: ir.Value) -> View:
    """The view of `base`, in which one axis has `size` elements in the place of `atoms`."""
    new, sizes = fresh(size)

    def swap(groups: Groups) -> Groups:
        return [
            new + group[len(atoms) :] if group[: len(atoms)] == atoms else group for group in groups
        ]

    return View(
        base,
        swap(view.order),
        swap(view.dims),
        {a: s for a, s in view.sizes.items() if a not in atoms} | sizes,
    )


def split(w: Writer, node: ir.Node) -> list[View] | None:
    view = w.view(node.inputs[0])
    atoms = view.dims[view.axis(attribute(node, "axis", 0))]
    if not atoms:
        return None
    view = own_axis(view, atoms, w)
    axis, step = head_axis(view, atoms)
    counts = [shape(out)[attribute(node, "axis", 0)] for out in node.outputs]
    given = w.at.value(np.array([n * step for n in counts], dtype=np.int64))
    outs = w.at("Split", view.base, given, outputs=len(counts), axis=axis)
    outs = (outs,) if len(counts) == 1 else outs
    return [resized(view, atoms, n, out) for n, out in zip(counts, outs, strict=True)]


def piece(w: Writer, node: ir.Node) -> list[View] | None:
    """A Slice with step 1 along one axis, or a Gather of one position."""
    view = w.view(node.inputs[0])
    if node.op_type == "Gather":
        if scalar(node.inputs[1]) is None:
            return None
        axis = view.axis(attribute(node, "axis", 0))
        start = int(scalar(node.inputs[1])) % view.sides[axis]
        stop = start + 1
    else:
        values = [
            positions(v) if v is not None and array(v) is not None else None
            for v in node.inputs[1:]
        ]
        if len(values[0] or ()) != 1 or len(values) < 3 or len(values) > 3 and values[3] != [1]:
            return None
        axis = view.axis(values[2][0])
        start, stop, _ = slice(values[0][0], values[1][0]).indices(view.sides[axis])
    atoms = view.dims[axis]
    if not atoms:
        return None
    if (start, stop) != (0, view.sides[axis]):
        view = own_axis(view, atoms, w)
        base, step = head_axis(view, atoms)
        view = resized(
            view, atoms, stop - start, w.at.slice(view.base, base, start * step, stop * step)
        )
    if node.op_type == "Gather":
        indices = array(node.inputs[1]).ndim
        view = replace(view, dims=[*view.dims[:axis], *[[]] * indices, *view.dims[axis + 1 :]])
    return [view]


def concat(w: Writer, node: ir.Node) -> list[View] | None:
    views = [w.view(v) for v in node.inputs]
    axis = views[0].axis(attribute(node, "axis"))
    like = next(
        (v for v, x in zip(views, node.inputs, strict=True) if array(x) is None and v.dims[axis]),
        None,
    )
    if like is None:
        return None
    for view in views:
        pair = align(_without(like, axis), _without(view, axis))
        if pair is None:
            return None
        like = replace(
            pair[0], dims=[*pair[0].dims[:axis], like.dims[axis], *pair[0].dims[axis + 1 :]]
        )
    like = arrange(like, _alone(like, like.dims[axis]), w.at)
    place = like.order.index(like.dims[axis])
    bases = []
    for view in views:
        pair = align(_without(view, axis), _without(like, axis))
        mine = replace(
            pair[0], dims=[*pair[0].dims[:axis], view.dims[axis], *pair[0].dims[axis + 1 :]]
        )
        names = {
            y: x
            for i, (xs, ys) in enumerate(zip(mine.dims, like.dims, strict=True))
            if i != axis
            for x, y in zip(xs, ys, strict=True)
        }
        groups = [
            mine.dims[axis] if i == place else [names[a] for a in group]
            for i, group in enumerate(like.order)
        ]
        bases.append(arrange(mine, groups, w.at).base)
    return [
        resized(
            like, like.dims[axis], shape(node.outputs[0])[axis], w.at("Concat", *bases, axis=place)
        )
    ]


def _without(view: View, axis: int) -> View:
    return replace(view, dims=[[] if i == axis else group for i, group in enumerate(view.dims)])


def _alone(view: View, atoms: list[int]) -> Groups:
    """An order with `atoms` as one axis: as it lies, if it does."""
    return (
        view.order if atoms in view.order else [[], atoms, *compact(positions_of(view, atoms), 2)]
    )


def reduce(w: Writer, node: ir.Node) -> list[View] | None:
    axes = (
        positions(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else None
    )
    if axes is None:
        return None
    view = w.view(node.inputs[0])
    axes = [view.axis(a) for a in axes]
    gone = set(flatten([view.dims[a] for a in axes]))
    bases = [i for i, group in enumerate(view.order) if group and gone.issuperset(group)]
    if not gone:
        return None
    if set(flatten([view.order[i] for i in bases])) != gone:
        lying = [a for group in view.order for a in group if a in gone]
        view = arrange(view, [*compact(positions_of(view, lying), 2), lying[:-1], lying[-1:]], w.at)
        w.views[node.inputs[0]] = view  # whoever subtracts the mean from it wants it so
        bases = [i for i in (2, 3) if view.order[i]]
    base = w.at(node.op_type, view.base, np.array(bases, dtype=np.int64), keepdims=1)
    dims = [[] if i in axes else group for i, group in enumerate(view.dims)]
    if not attribute(node, "keepdims", 1):
        dims = [group for i, group in enumerate(dims) if i not in axes]
    order = [[] if i in bases else group for i, group in enumerate(view.order)]
    return [View(base, order, dims, {a: s for a, s in view.sizes.items() if a not in gone})]


def along(w: Writer, node: ir.Node) -> list[View] | None:
    """Softmax."""
    view = w.view(node.inputs[0])
    atoms = view.dims[view.axis(attribute(node, "axis", -1))]
    if atoms not in view.order or not atoms:
        view = arrange(view, compact(view.dims, 4) if len(view.dims) <= 4 else view.dims, w.at)
    base = w.at(node.op_type, view.base, axis=view.order.index(atoms))
    return [replace(view, base=base)]


def layer_norm(w: Writer, node: ir.Node) -> list[View] | None:
    """Over the last axis, as the facts of NPUs want it."""
    view = w.view(node.inputs[0])
    axis = attribute(node, "axis", -1)
    if axis not in (-1, len(view.dims) - 1) or len(node.outputs) > 1:
        return None
    _, channels, *rest = spatial(view, view.dims[-1])
    view = arrange(view, [[], *rest, channels], w.at)
    base = w.at(
        node.op_type,
        view.base,
        *(None if v is None else w.whole(v) for v in node.inputs[1:]),
        **w.attributes(node, axis=-1),
    )
    return [replace(view, base=base)]


def instance_norm(w: Writer, node: ir.Node) -> list[View] | None:
    view = w.view(node.inputs[0])
    rest = flatten(view.dims[2:])
    if len(rest) < 2 and rest:
        side = view.sizes[rest[0]]
        factor = next((f for f in (64, 32, 16, 8, 4, 2) if side % f == 0 and side > f), 1)
        view = view.split(rest[0], side // factor) if factor > 1 else view
        rest = flatten(view.dims[2:])
    view = arrange(view, [view.dims[0], view.dims[1], rest[:-1], rest[-1:]], w.at)
    base = w.at(
        node.op_type, view.base, *(w.whole(v) for v in node.inputs[1:]), **w.attributes(node)
    )
    return [replace(view, base=base)]


def as_it_is(w: Writer, node: ir.Node) -> list[View]:
    inputs = [None if v is None else w.whole(v) for v in node.inputs]
    outs = w.at(
        node.op_type, *inputs, outputs=len(node.outputs), domain=node.domain, **w.attributes(node)
    )
    outs = (outs,) if len(node.outputs) == 1 else outs
    return [plain(out, shape(old)) for out, old in zip(outs, node.outputs, strict=True)]


def matmul(w: Writer, node: ir.Node) -> list[View] | None:
    return linear(w, node) or product(w, node)


Handler = Callable[[Writer, ir.Node], list[View] | None]
HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(BINARY, binary),
    **dict.fromkeys(REDUCE, reduce),
    **dict.fromkeys(
        ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand"), look
    ),
    "MatMul": matmul,
    "Gemm": linear,
    "Split": split,
    "Slice": piece,
    "Gather": piece,
    "Concat": concat,
    "Softmax": along,
    "LayerNormalization": layer_norm,
    "InstanceNormalization": instance_norm,
}


def four_d(model: ir.Model, options: Options = Options()) -> int:
    """Rewrite the whole graph; returns how many linear layers became convolutions."""
    infer(model)
    w, before = Writer(model), sum(node.op_type == "Conv" for node in model.graph)
    for node in model.graph:
        handler = HANDLERS.get(node.op_type) if node.domain == "" else None
        views = handler(w, node) if handler else None
        for value, view in zip(node.outputs, views or as_it_is(w, node), strict=True):
            w.views[value] = view
    for old in model.graph.outputs:
        new = w.whole(old)
        if new in w.graph.inputs or new.is_graph_output() or new.is_initializer():
            new = w.at("Identity", new)
        new.name, new.type, new.shape = old.name, old.type, old.shape
        w.graph.outputs.append(new)
    model.graph = w.graph
    clean(model)
    return sum(node.op_type == "Conv" for node in model.graph) - before
