"""Rewrites of single operators, on graphs made by hand."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import helper, numpy_helper
from support.onnx_graphs import PICTURE, RANDOM, changed, exported, kinds, make, ranks, run
from torch import nn

from export.rewrites.apply import rewrite


def test_constants_fold_and_integer_weights_do_not():
    nodes = [
        helper.make_node("Gemm", ["a", "b"], ["ab"]),
        helper.make_node("Sigmoid", ["ab"], ["s"]),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["w"]),
        helper.make_node("Reshape", ["w", "sides"], ["v"]),
        helper.make_node("Add", ["x", "s"], ["xs"]),
        helper.make_node("Mul", ["xs", "v"], ["y"]),
    ]
    constants = {
        "a": np.ones((1, 3), np.float32),
        "b": np.ones((3, 4), np.float32),
        "q": np.arange(4, dtype=np.int8),
        "scale": np.float32(0.5),
        "sides": np.array([1, 4]),
    }
    after, done = changed(make(nodes, [1, 8, 6, 4], constants), "fold_constants", PICTURE)
    assert done == {"fold_constants": 2}
    assert kinds(after) == ["DequantizeLinear", "Reshape", "Add", "Mul"]


@pytest.mark.parametrize("half_first", [True, False])
def test_erf_becomes_gelu(half_first):
    nodes = [
        helper.make_node("Div", ["x", "root"], ["d"]),
        helper.make_node("Erf", ["d"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["a"]),
    ]
    nodes += (
        [helper.make_node("Mul", ["x", "half"], ["h"]), helper.make_node("Mul", ["h", "a"], ["y"])]
        if half_first
        else [
            helper.make_node("Mul", ["x", "a"], ["h"]),
            helper.make_node("Mul", ["h", "half"], ["y"]),
        ]
    )
    constants = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    after, done = changed(make(nodes, [1, 8, 6, 4], constants), "gelu", PICTURE)
    assert kinds(after) == ["Gelu"]
    assert done == {"gelu": 1}


def test_swish_becomes_a_product():
    from onnx.reference import ReferenceEvaluator

    model = make([helper.make_node("Swish", ["x"], ["y"], alpha=1.0)], [1, 8, 6, 4], opset=24)
    copy = ir.from_proto(model)
    assert rewrite(copy, "silu") == {"silu": 1}
    after = ir.to_proto(copy)
    assert kinds(after) == ["Sigmoid", "Mul"]
    (y,) = ReferenceEvaluator(after).run(None, {"x": PICTURE})
    np.testing.assert_allclose(y, PICTURE / (1 + np.exp(-PICTURE)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_nearest_resize_has_asymmetric_coordinates(factor):
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest")
    constants = {"scales": np.array([1, 1, factor, factor], np.float32)}
    after, _ = changed(make([node], [1, 8, 6, 4], constants), "resize_nearest", PICTURE)
    attributes = {a.name: a.s.decode() for a in after.graph.node[0].attribute if a.type == 3}
    assert attributes["coordinate_transformation_mode"] == "asymmetric"
    assert attributes["nearest_mode"] == "floor"


def test_edge_padding_is_concatenation():
    node = helper.make_node("Pad", ["x", "ends"], ["y"], mode="edge")
    constants = {"ends": np.array([0, 0, 2, 1, 0, 0, 0, 3])}
    after, _ = changed(make([node], [1, 8, 6, 4], constants), "edge_padding", PICTURE, db=200)
    assert set(kinds(after)) == {"Slice", "Concat"}
    np.testing.assert_array_equal(
        run(after, {"x": PICTURE}), np.pad(PICTURE, ((0, 0), (0, 0), (2, 0), (1, 3)), "edge")
    )


def test_masks_become_finite():
    mask = np.where(RANDOM.random((6, 4)) > 0.5, -np.inf, 0).astype(np.float32)
    mask[:, 0] = 0
    nodes = [
        helper.make_node("Add", ["x", "mask"], ["m"]),
        helper.make_node("Softmax", ["m"], ["y"], axis=-1),
    ]
    after, _ = changed(make(nodes, [1, 8, 6, 4], {"mask": mask}), "finite_masks", PICTURE)
    (stored,) = [numpy_helper.to_array(i) for i in after.graph.initializer]
    assert stored.min() == -100.0


def test_division_and_selection_by_what_mediatek_has():
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("Sqrt", ["a"], ["r"]),
        helper.make_node("Less", ["r", "limit"], ["small"]),
        helper.make_node("Where", ["small", "one", "r"], ["safe"]),
        helper.make_node("Div", ["x", "safe"], ["d"]),
        helper.make_node("Pow", ["d", "two"], ["p"]),
        helper.make_node("Div", ["p", "three"], ["t"]),
        helper.make_node("Div", ["t", "safe2"], ["y"]),
    ]
    nodes.insert(6, helper.make_node("Add", ["x", "nine"], ["safe2"]))
    constants = {
        name: np.float32(n)
        for name, n in {"limit": 0.5, "one": 1, "two": 2, "three": 3, "nine": -9}.items()
    }
    after, done = changed(make(nodes, [1, 8, 6, 4], constants), "selection,division", PICTURE)
    assert not {"Div", "Where", "Less", "Pow"} & set(kinds(after))
    assert done == {
        "selection": 1,
        "division": 4,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "kind"), [(nn.PixelShuffle(2), "DepthToSpace"), (nn.PixelUnshuffle(2), "Conv")]
)
def test_pixel_shuffles(layer, kind):
    x = torch.from_numpy(PICTURE)
    after, _ = changed(exported(layer, x), "pixel_shuffle", PICTURE, db=200)
    assert kind in kinds(after)
    assert "Transpose" not in kinds(after)
    np.testing.assert_array_equal(run(after, {"x": PICTURE}), layer(x).numpy())


@pytest.mark.parametrize("opset", [18, 21])
def test_group_norm(opset):
    """Scale and bias count per group until opset 20, per channel from 21."""
    count = 4 if opset < 21 else 8
    node = helper.make_node(
        "GroupNormalization", ["x", "s", "b"], ["y"], num_groups=4, epsilon=1e-3
    )
    constants = {
        "s": RANDOM.random(count, dtype=np.float32),
        "b": RANDOM.random(count, dtype=np.float32),
    }
    model = make([node], [1, 8, 6, 4], constants, opset)
    copy = ir.from_proto(model)
    rewrite(copy, "group_norm")
    after = ir.to_proto(copy)
    assert "InstanceNormalization" in kinds(after)
    assert ranks(after) == {4}
    s, b = (np.repeat(constants[k], 8 // count)[:, None, None] for k in "sb")
    groups = PICTURE.reshape(1, 4, -1)
    centred = groups - groups.mean(-1, keepdims=True)
    expected = (centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-3)).reshape(
        PICTURE.shape
    ) * s + b
    np.testing.assert_allclose(run(after, {"x": PICTURE}), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer", "gone"),
    [
        ("instance_statistics", nn.GroupNorm(4, 8), "InstanceNormalization"),
        ("layer_statistics", nn.LayerNorm(4), "LayerNormalization"),
    ],
)
def test_norms_by_their_statistics(name, layer, gone):
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    model = exported(layer.requires_grad_(False), torch.from_numpy(PICTURE))
    assert gone in kinds(model)
    after, _ = changed(model, f"{name},four_d", PICTURE)
    assert gone not in kinds(after)
    assert ranks(after) == {4}
