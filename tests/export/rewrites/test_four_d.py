"""Transformer blocks as maps: four_d, attention by heads, GEGLU."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper
from support.onnx_graphs import PICTURE, changed, exported, kinds, make, ranks, run
from torch import nn

from export.linting.graph import Graph
from export.rewrites.arrange import arrange
from export.rewrites.options import Options
from export.rewrites.views import NotExpressible, plain


class Tokens(nn.Module):
    """Self-attention with a bias on its scores and a GEGLU, on the pixels of [1, 8, 6, 4]."""

    def __init__(self, heads: int):
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(8)
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.up, self.down = nn.Linear(8, 48), nn.Linear(24, 8)
        self.bias = nn.Parameter(torch.randn(heads, 24, 24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        t = x.flatten(2).transpose(1, 2)
        n = self.norm(t)
        q, k, v = (
            layer(n).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        scores = q * 0.5 @ k.transpose(2, 3) + self.bias
        t = t + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        value, gate = self.up(t).chunk(2, dim=2)
        t = t + self.down(value * nn.functional.gelu(gate))
        return t.transpose(1, 2).unflatten(2, x.shape[2:])


@pytest.fixture(scope="module")
def tokens() -> onnx.ModelProto:
    torch.manual_seed(0)
    return exported(Tokens(2).requires_grad_(False), torch.from_numpy(PICTURE))


@pytest.mark.slow
def test_tokens_become_maps(tokens):
    after, done = changed(tokens, "four_d", PICTURE)
    assert ranks(after) == {4}
    assert done == {"four_d": 6}
    assert kinds(after).count("MatMul") == 2, "only the products of attention are left"


@pytest.mark.parametrize(("chunk", "products"), [(None, 4), (10, 12)])
def test_attention_by_heads_and_chunks(tokens, chunk, products):
    after, _ = changed(tokens, "attention_heads,four_d", PICTURE, Options(chunk=chunk))
    assert kinds(after).count("MatMul") == products
    assert ranks(after) == {4}
    graph = Graph(after)
    scores = [graph.shape(n.output[0]) for n in after.graph.node if n.op_type == "Softmax"]
    assert all(s[1] == 1 and s[2] <= (chunk or 24) for s in scores)


def test_attention_as_convolutions(tokens):
    after, _ = changed(tokens, "attention_convolutions,four_d", PICTURE)
    assert "MatMul" not in kinds(after)
    assert ranks(after) == {4}
    graph = Graph(after)
    computed = [
        graph.shape(n.input[1])
        for n in after.graph.node
        if n.op_type == "Conv" and n.input[1] not in graph.fixed
    ]
    assert len(computed) == 4
    assert all(s[1] % 16 == 0 or s[0] % 16 == 0 for s in computed)


@pytest.mark.parametrize("sides", [(), (6,), (1, 6), (8, 6, 6)])
def test_masks_of_any_rank_follow_the_scores_of_convolutions(sides):
    """Scores of convolutions are [1, keys, 1, queries]; here there are as many keys as queries."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["k"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["x", "k"], ["s"]),
        helper.make_node("Add", ["s", "mask"], ["m"]),
        helper.make_node("Softmax", ["m"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "x"], ["y"]),
    ]
    mask = np.array(np.random.default_rng(1).standard_normal(sides), np.float32)
    model = make(nodes, [1, 8, 6, 4], {"mask": mask})
    after, done = changed(model, "attention_convolutions", PICTURE)
    assert done == {"attention_convolutions": 1}
    assert "MatMul" not in kinds(after)


def test_a_gemm_with_a_computed_bias_stays():
    nodes = [
        helper.make_node("Reshape", ["x", "rows"], ["r"]),
        helper.make_node("ReduceMean", ["r", "first"], ["b"], keepdims=0),
        helper.make_node("Gemm", ["r", "w", "b"], ["y"]),
    ]
    constants = {
        "rows": np.array([48, 4]),
        "first": np.array([0]),
        "w": np.eye(4, dtype=np.float32),
    }
    after, done = changed(make(nodes, [1, 8, 6, 4], constants), "four_d", PICTURE)
    assert done == {"four_d": 0}
    assert "Gemm" in kinds(after)


def test_an_uneven_cut_is_not_expressible():
    view = plain(ir.Value(name="x"), (6, 4))
    assert view.reshaped((3, 8)).sides == (3, 8)
    with pytest.raises(NotExpressible, match="6 elements cannot be cut into rows of 8"):
        view.reshaped((8, 3))


def test_geglu_is_two_convolutions_with_their_biases(tokens):
    after, done = changed(tokens, "four_d,conv_bias,geglu", PICTURE)
    assert done["geglu"] == 1
    assert done["conv_bias"] == 6
    assert "Split" not in kinds(after)
    assert kinds(after).count("Conv") == 7
    assert all(len(n.input) == 3 for n in after.graph.node if n.op_type == "Conv")


@pytest.mark.slow
def test_windows_have_four_axes():
    """A Swin layer's partition, as it is and after the rewrites."""
    from compress.networks.swin_layer import SwinBlock, SwinUNetConfig

    torch.manual_seed(0)
    config = SwinUNetConfig(
        channels=32,
        multipliers=(1, 2),
        embed=16,
        head_channels=8,
        window=4,
        groups=8,
        size=16,
        attention=(16, 8),
        mask="swin",
    )
    block = SwinBlock(config, 16, shifted=True)
    nn.init.normal_(block.attn.relative_position_bias_table)
    x = torch.randn(1, 16, 16, 16)
    model = exported(block.requires_grad_(False), x)
    assert ranks(model) == {3, 4}
    after, _ = changed(model, "qnn", x.numpy())
    assert max(ranks(after)) == 4


def test_any_permutation_in_four_axes():
    from export.graphs.edit import Before

    for seed in range(6):
        perm = np.random.default_rng(seed).permutation(6).tolist()
        sides = (2, 3, 4, 5, 2, 3)
        x = np.arange(np.prod(sides), dtype=np.float32).reshape(4 * 6 * 5, 2, 3)
        graph = ir.Graph(
            [ir.Value(name="x", shape=ir.Shape(x.shape), type=ir.TensorType(ir.DataType.FLOAT))],
            [],
            nodes=[],
            opset_imports={"": 20},
            name="g",
        )
        at, view = (
            Before(graph, None),
            plain(graph.inputs[0], x.shape).reshaped(sides).permuted(perm),
        )
        final = arrange(
            view, [view.dims[0] + view.dims[1], *view.dims[2:4], view.dims[4] + view.dims[5]], at
        ).base
        final.name = "y"
        final.type = ir.TensorType(ir.DataType.FLOAT)
        graph.outputs.append(final)
        model = ir.to_proto(ir.Model(graph, ir_version=10))
        moved = x.reshape(sides).transpose(perm)
        expected = moved.reshape(moved.shape[0] * moved.shape[1], *moved.shape[2:4], -1)
        np.testing.assert_array_equal(run(model, {"x": x}), expected)
        assert all(
            len(n.attribute[0].ints) == 4 for n in model.graph.node if n.op_type == "Transpose"
        )
