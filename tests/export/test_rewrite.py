"""Rewrites: each alone on graphs made by hand, all together on the tiny and the nano models, floats and integers."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.tiny_model import quantised, tiny
from torch import nn

from compress.core.errors import UserError
from compress.families.adcsr import AdcSRSource
from compress.families.osediff import OSEDiffSource
from compress.model.sr_model import SRModel
from export import rewrite as module
from export.graphs.export_onnx import EndToEnd, export_onnx
from export.graphs.graph import tidy
from export.graphs.probes import probes
from export.graphs.translate import TABLE
from export.linting.facts import Graph
from export.parity.measure import psnr
from export.parity.session import session
from export.rewrite import FOR, REWRITES, names_for, rewrite, rewrite_file
from export.rewrites.edit import Options
from export.rewrites.fp16 import absolute_maxima
from export.rewrites.views import arrange, plain


def run(model: onnx.ModelProto, feed: dict) -> np.ndarray:
    return session(model.SerializeToString(), 1).run(None, feed)[0]


def make(
    nodes: list, x: list[int], constants: dict[str, np.ndarray] | None = None, opset: int = 20
) -> onnx.ModelProto:
    """A graph from `x` to `y`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def exported(layer: nn.Module, x: torch.Tensor, opset: int = 20) -> onnx.ModelProto:
    return torch.onnx.export(
        layer.eval(),
        (x,),
        dynamo=True,
        opset_version=opset,
        verbose=False,
        input_names=["x"],
        output_names=["y"],
        custom_translation_table=TABLE,
    ).model_proto


def changed(
    model: onnx.ModelProto,
    names: str,
    x: np.ndarray,
    options: Options = Options(),
    db: float = 100.0,
) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The rewritten graph, after checking that it computes what the first did."""
    before = run(model, {"x": x})
    copy = ir.from_proto(model)
    done = rewrite(copy, names, options)
    tidy(copy)
    after = ir.to_proto(copy)
    onnx.checker.check_model(after, full_check=True)
    found = run(after, {"x": x})
    assert found.shape == before.shape and psnr(found, before, float(np.abs(before).max())) >= db
    return after, done


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def ranks(model: onnx.ModelProto) -> set[int]:
    graph = Graph(model)
    return {
        len(graph.shape(out))
        for node in graph.model.graph.node
        for out in node.output
        if out not in graph.fixed
    }


RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.standard_normal((1, 8, 6, 4), dtype=np.float32)


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
    assert kinds(after) == ["Gelu"] and done == {"gelu": 1}


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
    assert (
        attributes["coordinate_transformation_mode"] == "asymmetric"
        and attributes["nearest_mode"] == "floor"
    )


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
    assert not {"Div", "Where", "Less", "Pow"} & set(kinds(after)) and done == {
        "selection": 1,
        "division": 4,
    }


@pytest.mark.parametrize(
    "layer, kind", [(nn.PixelShuffle(2), "DepthToSpace"), (nn.PixelUnshuffle(2), "Conv")]
)
def test_pixel_shuffles(layer, kind):
    x = torch.from_numpy(PICTURE)
    after, _ = changed(exported(layer, x), "pixel_shuffle", PICTURE, db=200)
    assert kind in kinds(after) and "Transpose" not in kinds(after)
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
    assert "InstanceNormalization" in kinds(after) and ranks(after) == {4}
    s, b = (np.repeat(constants[k], 8 // count)[:, None, None] for k in "sb")
    groups = PICTURE.reshape(1, 4, -1)
    centred = groups - groups.mean(-1, keepdims=True)
    expected = (centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-3)).reshape(
        PICTURE.shape
    ) * s + b
    np.testing.assert_allclose(run(after, {"x": PICTURE}), expected, atol=1e-5)


@pytest.mark.parametrize(
    "name, layer, gone",
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
    assert gone not in kinds(after) and ranks(after) == {4}


class Tokens(nn.Module):
    """Self-attention of `heads` and a GEGLU on the pixels of [1, 8, 6, 4], with a bias on the scores."""

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


def test_tokens_become_maps(tokens):
    after, done = changed(tokens, "four_d", PICTURE)
    assert ranks(after) == {4} and done == {"four_d": 6}
    assert kinds(after).count("MatMul") == 2, "only the products of attention are left"


@pytest.mark.parametrize("chunk, products", [(None, 4), (10, 12)])
def test_attention_by_heads_and_chunks(tokens, chunk, products):
    after, _ = changed(tokens, "attention_heads,four_d", PICTURE, Options(chunk=chunk))
    assert kinds(after).count("MatMul") == products and ranks(after) == {4}
    graph = Graph(after)
    scores = [graph.shape(n.output[0]) for n in after.graph.node if n.op_type == "Softmax"]
    assert all(s[1] == 1 and s[2] <= (chunk or 24) for s in scores)


def test_attention_as_convolutions(tokens):
    after, _ = changed(tokens, "attention_convolutions,four_d", PICTURE)
    assert "MatMul" not in kinds(after) and ranks(after) == {4}
    graph = Graph(after)
    computed = [
        graph.shape(n.input[1])
        for n in after.graph.node
        if n.op_type == "Conv" and n.input[1] not in graph.fixed
    ]
    assert len(computed) == 4 and all(s[1] % 16 == 0 or s[0] % 16 == 0 for s in computed)


def test_geglu_is_two_convolutions_with_their_biases(tokens):
    after, done = changed(tokens, "four_d,conv_bias,geglu", PICTURE)
    assert done["geglu"] == 1 and done["conv_bias"] == 6 and "Split" not in kinds(after)
    assert kinds(after).count("Conv") == 7 and all(
        len(n.input) == 3 for n in after.graph.node if n.op_type == "Conv"
    )


def test_windows_have_four_axes():
    """A Swin layer's partition, as it is and after the rewrites."""
    from compress.networks.swin_unet import SwinBlock, SwinUNetConfig

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
    from export.rewrites.edit import Before

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


def test_rescaling_ahead_of_norms_is_exact_and_lowers_the_peak():
    torch.manual_seed(0)
    layer = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.GroupNorm(4, 8), nn.Conv2d(8, 3, 1)
    )
    layer[0].weight.data *= 1e5
    model = exported(layer.requires_grad_(False), torch.from_numpy(PICTURE))
    feeds = [{"x": PICTURE}]
    assert max(absolute_maxima(model, feeds).values()) > 65504
    after, done = changed(
        model, "four_d,rescale", PICTURE, Options(feeds=feeds, limit=64.0), db=110
    )
    assert done["rescale"] >= 2 and max(absolute_maxima(after, feeds).values()) <= 64
    assert changed(model, "rescale", PICTURE)[1] == {"rescale": 0}, (
        "nothing is known without values"
    )


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    model, folder = tiny(), tmp_path_factory.mktemp("plain")
    export_onnx(model, folder, lr_size=(32, 32), per_component=False)
    return model, folder / "model.onnx"


@pytest.mark.parametrize("name", [*REWRITES, *FOR])
def test_each_on_a_whole_model(tiny_file, tmp_path, name):
    model, file = tiny_file
    lr = probes((32, 32))["textured"]
    rewrite_file(
        file,
        tmp_path / "model.onnx",
        name,
        Options(chunk=100, feeds=[{"lr": lr.numpy()}], limit=16.0),
    )
    with torch.no_grad():
        expected = model(lr).numpy()
    assert (
        psnr(session(tmp_path / "model.onnx", 1).run(None, {"lr": lr.numpy()})[0], expected, 1.0)
        >= 80
    )


@pytest.mark.parametrize("weights, acts", [(8, 8), (8, 16)])
def test_integer_weights_keep_their_codes(tmp_path, weights, acts):
    model = quantised(tiny(), weights, acts)
    export_onnx(model, tmp_path, lr_size=(32, 32), per_component=False)
    lr = probes((32, 32))["textured"]
    before = session(tmp_path / "model.onnx", 1).run(None, {"lr": lr.numpy()})[0]

    def codes(file: onnx.ModelProto) -> Counter:
        stored = {i.name: i for i in file.graph.initializer}
        return Counter(
            c
            for n in file.graph.node
            if n.op_type == "DequantizeLinear" and n.input[0] in stored
            for c in numpy_helper.to_array(stored[n.input[0]]).reshape(-1).tolist()
        )

    first = codes(onnx.load(tmp_path / "model.onnx"))
    rewrite_file(tmp_path / "model.onnx", tmp_path / "qnn.onnx", "qnn")
    file = onnx.load(tmp_path / "qnn.onnx")
    # Layers of the time embedding and of the constant prompt fold away; nothing else may change.
    assert not codes(file) - first and codes(file).total() > 0.6 * first.total()
    graph = Graph(file)
    layers = [n for n in file.graph.node if n.op_type == "Conv" and n.input[1] in graph.fixed]
    assert all(
        graph.producer[n.input[1]].op_type == "DequantizeLinear"
        for n in layers
        if n.input[1] in graph.producer
    )
    assert ranks(file) == {4} and not [n for n in file.graph.node if n.op_type == "Gemm"]
    after = session(tmp_path / "qnn.onnx", 1).run(None, {"lr": lr.numpy()})[0]
    assert psnr(after, before, 1.0) >= 40


@pytest.fixture(scope="module", params=[OSEDiffSource, AdcSRSource])
def nano_file(request, tmp_path_factory) -> tuple[SRModel, onnx.ModelProto]:
    source = request.param()
    model = source.build()
    source.load(model)
    folder = tmp_path_factory.mktemp("nano")
    export_onnx(model, folder, lr_size=(32, 32), per_component=False)
    return model, onnx.load(folder / "model.onnx")


def test_the_whole_nano(nano_file):
    model, file = nano_file
    lr = probes((32, 32))["textured"]
    with torch.no_grad():
        expected = EndToEnd(model)(lr).numpy()
    for name in [*REWRITES, "qnn", "mediatek"]:
        copy = ir.from_proto(file)
        rewrite(copy, name, Options(feeds=[{"lr": lr.numpy()}], limit=16.0))
        found = run(ir.to_proto(copy), {"lr": lr.numpy()})
        assert psnr(found, expected, 1.0) >= 80, name


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            ["m.onnx", "--for", "qnm", "-o", "o.onnx"],
            "rewrite 'qnm' is unknown (did you mean 'qnn'?); choose a target (qnn",
        ),
        (["/nowhere.onnx", "--for", "qnn", "-o", "o.onnx"], "/nowhere.onnx: no such ONNX file"),
        (["m.onnx", "--for", "qnn", "--chunk", "0", "-o", "o.onnx"], "--chunk 0 is too small"),
    ],
)
def test_refusals(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    onnx.save(make([helper.make_node("Relu", ["x"], ["y"])], [1, 8, 6, 4]), "m.onnx")
    with pytest.raises(SystemExit) as ended:
        module.main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and words in error and len(error.splitlines()) == 1


def test_dynamic_shapes_are_refused():
    model = make(
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Relu", ["r"], ["y"])],
        [1, 8, 6, 4],
    )
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "rows"
    with pytest.raises(UserError, match="export without --dynamic"):
        rewrite(ir.from_proto(model), "four_d")
    assert names_for("qnn") == FOR["qnn"] and names_for("silu,gelu") == ("silu", "gelu")
