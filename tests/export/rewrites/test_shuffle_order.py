"""DepthToSpace of mode CRD as one of mode DCR, the picture the same to the last bit."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper
from support.onnx_graphs import PICTURE, RANDOM, changed, exported, kinds, make, run
from support.tiny_families import tiny_family
from torch import nn

from compress.recipe.checkpoint import parse_pass
from export.rewrites.apply import rewrite
from export.rewrites.shuffle_order import dcr_order

REWRITES = "fold_constants,pixel_shuffle,shuffle_order"
SHUFFLE = helper.make_node("DepthToSpace", ["c"], ["y"], blocksize=2, mode="CRD")


class Patches(nn.Module):
    """Tokens, and pixels of them, as transformers end."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.linear(x.flatten(2).transpose(1, 2))
        return nn.functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, x.shape[-2:]), 2)


def weights(*sides: int) -> np.ndarray:
    return RANDOM.standard_normal(sides).astype(np.float32)


def check_same(before: onnx.ModelProto, rewrites: str = REWRITES) -> list[str]:
    """The operators after the rewrite, which changes no bit and leaves one mode."""
    after, done = changed(before, rewrites, PICTURE, db=200)
    assert done["shuffle_order"] == 1
    modes = [
        helper.get_node_attr_value(n, "mode") for n in after.graph.node if "Depth" in n.op_type
    ]
    assert modes == [b"DCR"]
    np.testing.assert_array_equal(run(after, {"x": PICTURE}), run(before, {"x": PICTURE}))
    return kinds(after)


def test_the_order():
    x = torch.arange(24)
    crd = nn.functional.pixel_shuffle(x.view(1, 24, 1, 1), 2)
    given = x[dcr_order(24, 2)].view(1, 2, 2, 6, 1, 1)  # row, column, channel
    assert torch.equal(crd, given.permute(0, 3, 4, 1, 5, 2).reshape(1, 6, 2, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer",
    [
        nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)),
        nn.Sequential(nn.Conv2d(8, 27, 1, bias=False), nn.LeakyReLU(0.1), nn.PixelShuffle(3)),
        Patches(),
    ],
)
def test_layers_of_torch_get_their_rows_in_order(layer):
    before = exported(layer, torch.from_numpy(PICTURE))
    plain, _ = changed(before, "fold_constants,pixel_shuffle", PICTURE)
    assert check_same(before) == kinds(plain)


CONV = helper.make_node("Conv", ["x", "w", "b"], ["m"])
CONSTANTS = {"w": weights(12, 8, 1, 1), "b": weights(12)}


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        (
            [("Mul", ["m", "s"], "n"), ("Add", ["t", "n"], "c")],
            {"s": (12, 1, 1), "t": (1, 12, 1, 1)},
        ),
        ([("Add", ["m", "s"], "n"), ("Relu", ["n"], "c")], {"s": (1, 1, 6, 4)}),
    ],
)
def test_constants_on_the_way_follow(nodes, constants):
    way = [helper.make_node(op, inputs, [out]) for op, inputs, out in nodes]
    given = CONSTANTS | {name: weights(*sides) for name, sides in constants.items()}
    before = make([CONV, *way, SHUFFLE], [1, 8, 6, 4], given)
    assert check_same(before) == kinds(before)


def test_codes_of_weights_and_quantisers_of_values_follow():
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scales"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w", "b"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["c"]),
        SHUFFLE,
    ]
    constants = {
        "codes": RANDOM.integers(-127, 127, (12, 8, 1, 1)).astype(np.int8),
        "scales": RANDOM.random(12).astype(np.float32),
        "b": weights(12),
        "scale": np.float32(3),
        "zero": np.uint8(128),
    }
    before = make(nodes, [1, 8, 6, 4], constants)
    assert check_same(before) == kinds(before)


@pytest.mark.parametrize("transposed", [0, 1])
def test_rows_of_a_gemm(transposed):
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["f"]),
        helper.make_node("Transpose", ["f"], ["t"], perm=[1, 0]),
        helper.make_node("Gemm", ["t", "w", "b"], ["g"], transB=transposed),
        helper.make_node("Transpose", ["g"], ["m"], perm=[1, 0]),
        helper.make_node("Reshape", ["m", "map"], ["c"]),
        SHUFFLE,
    ]
    constants = {
        "flat": np.array([8, 24]),
        "map": np.array([1, 12, 6, 4]),
        "w": weights(12, 8) if transposed else weights(8, 12),
        "b": weights(12),
    }
    before = make(nodes, [1, 8, 6, 4], constants)
    assert check_same(before) == kinds(before)


def test_rows_of_a_product_with_the_weight_first():
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["f"]),
        helper.make_node("MatMul", ["w", "f"], ["m"]),
        helper.make_node("Reshape", ["m", "map"], ["c"]),
        SHUFFLE,
    ]
    constants = {
        "flat": np.array([1, 8, 24]),
        "map": np.array([1, 12, 6, 4]),
        "w": weights(12, 8),
    }
    before = make(nodes, [1, 8, 6, 4], constants)
    assert check_same(before) == kinds(before)


@pytest.mark.parametrize(
    "nodes",
    [
        [("Sigmoid", ["m"], "s"), ("Mul", ["m", "s"], "c")],
        [("Softmax", ["m"], "s"), ("Identity", ["s"], "c")],
    ],
)
def test_where_no_row_can_move_a_convolution_orders_channels(nodes):
    way = [helper.make_node(op, inputs, [out]) for op, inputs, out in nodes]
    before = make([CONV, *way, SHUFFLE], [1, 8, 6, 4], CONSTANTS)
    found = check_same(before)
    assert found.count("Conv") == 2
    assert found[-2:] == ["Conv", "DepthToSpace"]


def test_one_channel_is_in_both_orders():
    constants = {"w": weights(4, 8, 1, 1), "b": weights(4)}
    conv = helper.make_node("Conv", ["x", "w", "b"], ["c"])
    before = make([conv, SHUFFLE], [1, 8, 6, 4], constants)
    after, _ = changed(before, "shuffle_order", PICTURE, db=200)
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in after.graph.initializer}
    assert np.array_equal(stored["w"], constants["w"])


@pytest.mark.slow
def test_a_transformers_last_layer_gets_its_rows_in_order():
    model = tiny_family("tsdsr")
    parse_pass({"pass": "strip"}, "test").convert(model)
    latent = torch.from_numpy(RANDOM.standard_normal((1, 4, 8, 8)).astype(np.float32))
    before = exported(model.denoiser, latent)
    copy = ir.from_proto(before)
    assert rewrite(copy, REWRITES)["shuffle_order"] == 1
    after = ir.to_proto(copy)
    assert kinds(after).count("DepthToSpace") == 1
    assert kinds(after).count("Conv") == kinds(before).count("Conv")
    feed = {"x": latent.numpy()}
    np.testing.assert_array_equal(run(after, feed), run(before, feed))
