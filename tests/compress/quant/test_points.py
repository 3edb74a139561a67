"""Quantisers between operators: where they stand, that they act, and where the file has them."""

import copy

import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F

from compress.core.errors import UserError
from compress.model.passes import FitContext
from compress.passes.quantize import Quantize
from compress.passes.strip import Strip
from compress.quant import attention, points
from compress.quant.attention import attend, attend_in_chunks
from compress.quant.layers import QuantLayer
from compress.quant.norm import group_norm
from compress.quant.quantiser import TensorQuantiser
from export.graphs.export_onnx import export_onnx
from export.graphs.quick_export import quick_export
from export.parity.session import session
from export.parity.verify import verify

SMALL = {"images": 2, "size": 32}


def quantised(model, **options):
    step = Quantize(**{"method": "minmax", "calibration": SMALL, **options})
    source = copy.deepcopy(model)
    step.convert(model)
    figures = step.fit(model, FitContext(source=source))
    return model.eval().requires_grad_(False), figures


@pytest.fixture(scope="module")
def full(tiny):
    return quantised(tiny(), placement="full")


def test_every_tensor_between_operators_is_on_a_grid(full, monkeypatch):
    """While the model runs, what reaches a sum, norm or activation has at most 2^8 values."""
    model, figures = full
    assert figures["placement"] == "full"
    assert all(not left for left in figures["float_operators"].values())
    seen = []
    original = F.group_norm

    def watched(x, *args, **kwargs):
        seen.append(len(x.unique()))
        return original(x, *args, **kwargs)

    monkeypatch.setattr(
        points, "group_norm", lambda x, *a, stride=1, rows=False, **k: watched(x, *a, **k)
    )
    with torch.no_grad():
        model.network(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert len(seen) > 20
    assert max(seen) <= 256


def test_a_tensor_has_one_quantiser(full):
    """What reads codes has no quantiser of its own; an enlarged copy has the tensor's."""
    model, _ = full
    first = model.decoder.decoder.mid_block.resnets[0]
    assert model.decoder.decoder.conv_in.output is not None  # a norm and a sum read it
    assert first.conv2.input is not None
    assert first.conv1.input is not None
    steps = {step.name: step for step in model.decoder.points.steps}
    resize = next(step for name, step in steps.items() if name.endswith(".resize"))
    before = steps[resize.name.replace("upsamplers.0.resize", "resnets.0.add")]
    assert resize.roles["out"] == before.roles["out"]
    assert model.decoder.get_submodule(resize.name.replace(".resize", ".conv")).input is None


def test_ends_of_components_stay_float(full):
    model, _ = full
    for last in (
        model.decoder.decoder.conv_out,
        model.denoiser.unet.conv_out,
        model.encoder.quant_conv,
    ):
        assert isinstance(last, QuantLayer)
        assert last.output is None


def test_softmax_and_gates_are_pinned(full):
    model, _ = full
    pinned = {
        name: m for name, m in model.named_modules() if isinstance(m, TensorQuantiser) and m.pinned
    }
    assert any(name.endswith("probs") for name in pinned)
    assert any(name.endswith("gate") for name in pinned)
    for name, quantiser in pinned.items():
        step = 2**-16 if name.endswith("probs") else 2**-8
        assert quantiser.scale.item() == pytest.approx(step)
        assert quantiser.zero_point.item() == 0


def test_a_pin_lowers_the_softmax_as_well(tiny):
    model, _ = quantised(tiny(), placement="full", pins={"decoder.*.probs": 8})
    bits = {
        part: {
            q.grid.bits
            for name, q in getattr(model, part).points.table.items()
            if name.endswith("probs")
        }
        for part in ("encoder", "decoder")
    }
    assert bits == {"encoder": {16}, "decoder": {8}}


def test_compat_attention_is_passionsrs(tiny):
    """Q, K, V and softmax of the denoiser and of nothing else; norms and sums stay in float."""
    model, figures = quantised(tiny(), attention=True)
    assert figures["placement"] == "compat with attention"
    roles = {name.rsplit(".", 1)[1] for name in model.denoiser.points.names()}
    assert roles == {"q", "k", "v", "probs"}
    assert not hasattr(model.decoder, "points")
    assert not hasattr(model.encoder, "points")


def test_skip_and_pins_reach_tensors(tiny):
    model, _ = quantised(tiny(), placement="full", skip=["*.gate", "*.scores"], pins={"*.add": 16})
    names = {
        part: getattr(model, part).points.names() for part in ("encoder", "denoiser", "decoder")
    }
    assert not any(name.endswith(("gate", "scores")) for part in names.values() for name in part)
    table = model.decoder.points.table
    sums = [q for name, q in table.items() if name.endswith("add")]
    assert sums
    assert all(q.grid.bits == 16 for q in sums)
    with pytest.raises(UserError, match=r"skip pattern '\*\.gat' matches no layer"):
        quantised(tiny(), placement="full", skip=["*.gat"])


def test_float_layers_put_out_codes(tiny):
    """A layer left in float still hands its result on through a quantiser in placement full."""
    model, _ = quantised(tiny(), placement="full", skip=["decoder.decoder.conv_in"])
    assert "decoder.conv_in.conv2d" in model.decoder.points.names()


@pytest.mark.parametrize("stride", [1, 2])
def test_norm_by_moments(stride):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 12, 16, 16) * 3 + 1, torch.randn(12), torch.randn(12)
    expected = F.group_norm(x, 4, weight, bias, 1e-6)
    error = (group_norm(x, 4, weight, bias, 1e-6, stride=stride) - expected).abs().max().item()
    assert error < 1e-4 if stride == 1 else 1e-3 < error < 3
    smooth = F.interpolate(torch.randn(1, 12, 4, 4), size=(64, 64), mode="bicubic")
    expected = F.group_norm(smooth, 4, weight, bias)
    near = (group_norm(smooth, 4, weight, bias, stride=2) - expected).norm() / expected.norm()
    assert (
        near < 0.03
    )  # features are smooth: a quarter of the positions tells nearly the same moments


def test_attention_in_parts_is_attention():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 8) for n in (5, 7, 7))
    torch.testing.assert_close(
        attend({}, q, k, v), F.scaled_dot_product_attention(q, k, v), rtol=1e-4, atol=1e-5
    )
    mask = torch.randn(5, 7)
    torch.testing.assert_close(
        attend({}, q, k, v, attn_mask=mask, scale=0.3),
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.fixture(scope="module")
def cpu(tiny):
    # The tiny maps have less than 64 rows, so that norm_stride 4 sees them all.
    return quantised(
        tiny(),
        placement="cpu",
        norm_stride=4,
        skip=["denoiser.*.attention.*", "decoder.decoder.conv_in"],
        outputs=["decoder.decoder.conv_out"],
    )


@pytest.fixture(scope="module")
def cpu_file(cpu, tmp_path_factory):
    """The decoder of `cpu`, exported."""
    (file,) = export_onnx(
        cpu[0], tmp_path_factory.mktemp("cpu"), lr_size=(32, 32), stems=("decoder",)
    )
    return file


def test_cpu_quantises_what_convolutions_put_out_and_its_sums(cpu):
    model, figures = cpu
    assert figures["placement"] == "cpu with outputs"
    decoder = model.decoder.decoder
    block = decoder.mid_block.resnets[0]
    assert block.conv1.output is not None
    assert block.conv2.output is not None
    assert decoder.conv_out.output is not None  # named
    assert model.denoiser.unet.conv_out.output is None  # not named
    names = model.decoder.points.names()
    assert any(name.endswith("resnets.0.add") for name in names)
    assert not any(
        name.endswith(("group_norm", "silu", "gate", "scores", "softmax")) for name in names
    )
    roles = {
        name.rsplit("/", 1)[1]: q
        for name, q in model.decoder.points.table.items()
        if "/attention/" in name
    }
    assert {role: q.grid.signed for role, q in roles.items()} == {
        "q": False,
        "k": True,
        "v": True,
        "probs": False,
    }
    assert not any(".attention." in name for name in model.denoiser.points.names())


def test_cpu_file_convolves_adds_and_attends_in_integers(cpu, cpu_file, tmp_path):
    """By the graph that onnxruntime makes of it; GroupNorm's affine is one operator."""
    model, _ = cpu
    options = ort.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = (
        3,
        str(tmp_path / "optimised.onnx"),
    )
    ort.InferenceSession(cpu_file, options, providers=["CPUExecutionProvider"])
    kinds = [n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node]
    layers = [
        m
        for m in model.decoder.modules()
        if isinstance(m, QuantLayer) and m.weight_q.ndim == 4 and m.output
    ]
    # One more: between codes, onnxruntime itself rounds the weight of a convolution left in float.
    assert kinds.count("QLinearConv") == len(layers) + 1 > 15
    assert kinds.count("QLinearAdd") >= 6
    assert kinds.count("BatchNormalization") >= 12
    assert "Softmax" not in kinds
    assert "MatMul" not in kinds
    assert kinds.count("MatMulIntegerToFloat") >= 6
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        simulated = model.decoder(x)
    ran = session(cpu_file, 1).run(None, {"clean_latent": x.numpy()})[0]
    error = torch.from_numpy(ran) - simulated
    assert (
        error.norm() < 0.06 * simulated.norm()
    )  # a random network on 8-bit grids: codes flip by the last bit of a sum


def test_cpu_file_shuffles_and_crops_codes(tiny, tmp_path):
    model = tiny()
    Strip(upsample="phases").convert(model)
    model, _ = quantised(model, placement="cpu", skip=["denoiser.*.attention.*"])
    export_onnx(model, tmp_path, lr_size=(32, 32), stems=("decoder",))
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "decoder.onnx")).graph
    types = {v.name: v.type.tensor_type.elem_type for v in graph.value_info}
    moved = [n.op_type for n in graph.node if types.get(n.input[0]) == onnx.TensorProto.UINT8]
    assert moved.count("Transpose") == 3 * 3
    assert moved.count("Slice") >= 3
    assert not {"DepthToSpace", "Resize"} & {n.op_type for n in graph.node}
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        simulated = model.decoder(x)
    ran = session(tmp_path / "decoder.onnx", 1).run(None, {"clean_latent": x.numpy()})[0]
    assert (torch.from_numpy(ran) - simulated).norm() < 0.06 * simulated.norm()  # as above


def test_a_reduced_range_is_the_same_in_simulation_and_file(tiny, tmp_path):
    """Codes lie within [-64, 64] in torch and in the file, as a header's config restores them.

    Results agree in the fast kernels too, which overflow on x86 before VNNI for a wider code.
    """
    model, figures = quantised(
        tiny(), placement="cpu", skip=["denoiser.*.attention.*"], reduce_range=True
    )
    plain, _ = quantised(tiny(), placement="cpu", skip=["denoiser.*.attention.*"])
    codes, wider = (
        [m.weight_q for m in one.decoder.modules() if isinstance(m, QuantLayer)]
        for one in (model, plain)
    )
    assert max(c.abs().max() for c in codes) == 64
    assert max(c.abs().max() for c in wider) == 127
    assert figures["placement"] == "cpu"
    again = tiny()
    Quantize(
        method="minmax",
        placement="cpu",
        skip=["denoiser.*.attention.*"],
        reduce_range=True,
        calibration=SMALL,
    ).convert(again)
    grids = {m.weight_grid for m in again.modules() if isinstance(m, QuantLayer)}
    assert {(g.qmin, g.qmax) for g in grids} == {(-64, 64)}
    export_onnx(model, tmp_path, lr_size=(32, 32), stems=("decoder",))
    stored = [
        onnx.numpy_helper.to_array(i)
        for i in onnx.load(tmp_path / "decoder.onnx").graph.initializer
        if i.data_type == onnx.TensorProto.INT8 and len(i.dims) > 1
    ]
    assert len(stored) == len(codes)
    assert all(abs(w.astype(int)).max() <= 64 for w in stored)
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        simulated = model.decoder(x)
    ran = session(tmp_path / "decoder.onnx", 1).run(None, {"clean_latent": x.numpy()})[0]
    assert (torch.from_numpy(ran) - simulated).norm() < 0.06 * simulated.norm()  # as above


def test_a_reduced_range_leaves_other_widths(tiny):
    step = Quantize(
        method="minmax",
        reduce_range=True,
        pins={"decoder.decoder.conv_out": 4, "encoder.encoder.conv_in": {"weights": 16}},
    )
    model = tiny()
    step.convert(model)
    grids = {name: m.weight_grid for name, m in model.named_modules() if isinstance(m, QuantLayer)}
    assert not grids["decoder.decoder.conv_out"].reduced
    assert grids["decoder.decoder.conv_out"].qmax == 7
    assert not grids["encoder.encoder.conv_in"].reduced
    assert grids["decoder.decoder.conv_in"].reduced


@quick_export()
def test_moments_of_flat_maps_survive_float32_sums(tmp_path):
    """onnxruntime adds a map's numbers one after the other.

    Of two flat maps in a group the variance is a small difference of large numbers, which a mean
    over both axes at once loses.
    """

    class Norm(torch.nn.Module):
        def forward(self, x):
            return group_norm(x, 4, eps=1e-6)

    flat = (
        torch.tensor([0.3284, 0.3448, 0.2, 0.21, 0.5, 0.51, 0.1, 0.11])
        .view(1, 8, 1, 1)
        .expand(1, 8, 512, 512)
    )
    torch.onnx.export(
        Norm().eval(),
        (flat.contiguous(),),
        dynamo=True,
        verbose=False,
        opset_version=20,
        input_names=["x"],
    ).save(tmp_path / "norm.onnx")
    ran = session(tmp_path / "norm.onnx", 1).run(None, {"x": flat.numpy()})[0]
    expected = F.group_norm(flat.double(), 4, eps=1e-6)
    assert abs(ran - expected.numpy()).max() < 0.02


def test_maps_in_parts_change_no_code(cpu, cpu_file, tmp_path, monkeypatch):
    """GroupNorm's affine and SiLU a few channels at a time; moments without a map of squares."""
    model, _ = cpu
    monkeypatch.setattr("export.graphs.cpu_forms.norms.PART", 2**12)
    (parted,) = export_onnx(model, tmp_path, lr_size=(32, 32), stems=("decoder",))
    results, kinds = [], []
    for file in (cpu_file, parted):
        graph = onnx.load(file).graph
        kinds.append([n.op_type for n in graph.node])
        squares = {
            n.output[0] for n in graph.node if n.op_type == "Mul" and n.input[0] == n.input[1]
        }
        assert not any(n.op_type == "ReduceMean" and n.input[0] in squares for n in graph.node)
        x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).numpy()
        results.append(session(file, 1).run(None, {"clean_latent": x})[0])
    assert kinds[0].count("ReduceSumSquare") == kinds[1].count("ReduceSumSquare") >= 12
    assert kinds[1].count("BatchNormalization") > 2 * kinds[0].count("BatchNormalization")
    assert (results[0] == results[1]).all()


@pytest.mark.parametrize("chunk", [2**20, 2 * 5 * 7, 7])
def test_attention_in_chunks_is_attention(monkeypatch, chunk):
    """With quantisers that do nothing, for chunks of all, some and one of the queries."""
    monkeypatch.setattr(attention, "CHUNK", chunk)

    class Same(torch.nn.Module):
        def forward(self, x, gain=1.0):
            return x * gain

    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 8) for n in (5, 7, 7))
    roles = dict.fromkeys(("q", "k", "v", "probs"), Same())
    torch.testing.assert_close(
        attend_in_chunks(roles, q, k, v),
        F.scaled_dot_product_attention(q, k, v),
        rtol=1e-4,
        atol=1e-5,
    )
    mask = torch.randn(5, 7)
    torch.testing.assert_close(
        attend_in_chunks(roles, q, k, v, attn_mask=mask, scale=0.3),
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3),
        rtol=1e-4,
        atol=1e-5,
    )
    with pytest.raises(UserError, match="causal"):
        attend_in_chunks(roles, q, k, v, is_causal=True)


def test_eight_bits_hold_flat_rows_and_peaks():
    """Half of the queries flat over 1024 keys, half on one: a grid of probabilities loses some."""
    torch.manual_seed(0)
    weights = torch.cat([torch.randn(64, 1024) * 0.1, torch.eye(64, 1024) * 20])
    v = torch.randn(1024, 8)
    expected = weights.softmax(-1) @ v
    grid = TensorQuantiser(8, pinned=True)
    grid.set(torch.tensor(2.0**-8), torch.tensor(0))
    ours = grid((weights - weights.amax(-1, keepdim=True)).exp())
    ours = ours @ v / ours.sum(-1, keepdim=True)
    plain = grid(weights.softmax(-1)) @ v
    error = [
        ((y - expected).square().mean() / expected.square().mean()).item() for y in (ours, plain)
    ]
    assert error[0] < 1e-4 < 0.001 < error[1]


def test_float_forms_change_no_value(tiny, tmp_path, monkeypatch):
    """export/graphs/cpu_forms on a float model: fewer passes, attention in parts, same image."""
    monkeypatch.setattr(attention, "CHUNK", 64)
    model = tiny()
    for norm in (
        m for m in model.modules() if isinstance(m, torch.nn.GroupNorm)
    ):  # ones and zeros are left out
        norm.weight += 0.1 * torch.randn_like(norm.weight)
        norm.bias += 0.1
    files = {form: tmp_path / str(form) / "decoder.onnx" for form in (False, True)}
    for form, file in files.items():
        export_onnx(model, file.parent, lr_size=(32, 32), stems=("decoder",), for_cpu=form)
    kinds = {form: [n.op_type for n in onnx.load(file).graph.node] for form, file in files.items()}
    assert "BatchNormalization" not in kinds[False]
    assert kinds[False].count("Softmax") == 1
    assert kinds[True].count("BatchNormalization") >= 12
    assert kinds[True].count("Softmax") > 1
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).numpy()
    before, after = (session(file, 1).run(None, {"clean_latent": x})[0] for file in files.values())
    assert abs(before - after).max() < 1e-4 * abs(before).max()


def test_file_has_what_the_simulation_has(full, tmp_path):
    model, _ = full
    export_onnx(model, tmp_path, lr_size=(32, 32), end_to_end=False)
    file = onnx.load(tmp_path / "decoder.onnx")
    made_by = {out: node for node in file.graph.node for out in node.output}
    for kind in ("Sigmoid", "Softmax", "Concat"):
        for node in (n for n in file.graph.node if n.op_type == kind):
            sources = [made_by.get(name) for name in node.input]
            assert all(s is None or s.op_type == "DequantizeLinear" for s in sources), node.name
    assert sum(n.op_type == "Softmax" for n in file.graph.node) == 1
    # A random network answers noise in the last bit with as much as a wrong code; rounding itself
    # does more.
    rows = verify(model, tmp_path, threads=1)
    assert all(
        row["psnr_db"] >= min(40.0, row["self_db"] - 3, row["own_db"] - 3) for row in rows
    ), rows


def test_another_path_is_noticed(full):
    model, _ = full
    decoder = copy.deepcopy(model.decoder)
    del decoder.points.steps[3]
    with pytest.raises(RuntimeError, match="was recorded"):
        decoder(torch.zeros(1, 4, 4, 4))
