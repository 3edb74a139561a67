"""Products: with a weight a 1x1 convolution, of two activations one on four axes."""

from dataclasses import replace

import onnx_ir as ir

from export.graphs.edit import array, attribute, constant, operand, operands, optional_operand
from export.rewrites.arrange import arrange
from export.rewrites.four_d.layouts import compact, spatial
from export.rewrites.four_d.writer import Writer
from export.rewrites.views import NotExpressible, View, align, flatten, fresh, rename, renaming


def rewrite_matmul(writer: Writer, node: ir.Node) -> list[View]:
    """MatMul with a weight or of two activations."""
    if _is_weight(writer, node):
        return [_convolution(writer, node, writer.input_view(node, 1), None)]
    return [_product(writer, node)]


def rewrite_gemm(writer: Writer, node: ir.Node) -> list[View]:
    """Gemm with a weight.

    Raises:
        NotExpressible: Its second factor is computed, or it has alpha, beta or transA.
    """
    factors = (
        attribute(node, "alpha", 1.0),
        attribute(node, "beta", 1.0),
        attribute(node, "transA", 0),
    )
    if factors != (1, 1, 0) or not _is_weight(writer, node):
        raise NotExpressible("Gemm is no plain linear layer")
    weight = writer.input_view(node, 1)
    if attribute(node, "transB", 0):
        weight = weight.permuted([1, 0])
    return [_convolution(writer, node, weight, _bias(writer, optional_operand(node, 2)))]


def _is_weight(writer: Writer, node: ir.Node) -> bool:
    """Whether the second input is a matrix that depends on no input of the graph."""
    value = operand(node, 1)
    return len(writer.view(value).dims) == 2 and _is_fixed(value)


def _is_fixed(value: ir.Value) -> bool:
    node = value.producer()
    if node is None:
        return value.const_value is not None
    return all(_is_fixed(given) for given in operands(node))


def _bias(writer: Writer, value: ir.Value | None) -> ir.Value | None:
    """The bias of a Gemm, as one axis."""
    if value is None:
        return None
    values = array(value)
    if values is None:
        raise NotExpressible("the bias is computed")
    if values.ndim == 1:
        return writer.store(value)
    return constant(writer.graph, values.reshape(-1), "bias")


def _convolution(writer: Writer, node: ir.Node, weight: View, bias: ir.Value | None) -> View:
    """[..., C] times [C, D] as a 1x1 convolution on [1, C, rows, columns]."""
    x = writer.input_view(node)
    x = arrange(x, spatial(x, x.dims[-1]), writer.at)
    writer.views[operand(node, 0)] = x
    kernel = arrange(weight, [weight.dims[1], weight.dims[0], [], []], writer.at)
    inputs = [x.base, kernel.base]
    if bias is not None:
        inputs.append(bias)
    y = writer.at("Conv", *inputs, kernel_shape=[1, 1])
    factors, sizes = fresh(weight.sides[1])
    sizes |= {factor: n for factor, n in x.sizes.items() if factor not in x.dims[-1]}
    return View(y, [[], factors, *x.order[2:]], [*x.dims[:-1], factors], sizes)


def _product(writer: Writer, node: ir.Node) -> View:
    """A product of two activations on four axes: [b1, b2, M, K] x [b1, b2, K, N].

    Raises:
        NotExpressible: One is broadcast, or the sides have no common factors.
    """
    a = writer.input_view(node, 0)
    b = writer.input_view(node, 1)
    if len(a.dims) != len(b.dims) or len(a.dims) < 2 or a.sides[:-2] != b.sides[:-2]:
        raise NotExpressible("the factors of the product have other batches")
    rows = a.dims[-2]
    columns = b.dims[-1]
    # Only the batch axes and K are shared; each side keeps M or N to itself.
    left, right = align(
        replace(a, dims=[*a.dims[:-2], a.dims[-1], []]), replace(b, dims=[*b.dims[:-1], []])
    )
    inner = left.dims[-2]
    batch = compact([list(group) for group in left.dims[:-2]], 2)
    theirs = rename([*batch, inner], renaming(left.dims, right.dims))
    x = arrange(left, [*batch, rows, inner], writer.at)
    y = arrange(right, [*theirs, columns], writer.at)
    product = writer.at("MatMul", x.base, y.base)
    m, row_sizes = fresh(a.size_of(rows))
    n, column_sizes = fresh(b.size_of(columns))
    sizes = {factor: left.sizes[factor] for factor in flatten(batch)} | row_sizes | column_sizes
    return View(product, [*batch, m, n], [*left.dims[:-2], m, n], sizes)
