"""Exported files: what is in them, at which sizes they run, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, numpy_helper
from support.tiny_families import tiny_family
from support.tiny_model import quantised, tiny
from torch import nn

from compress.core.errors import UserError
from compress.model.sr_model import SRModel
from compress.passes.encoder_swap import PixelUnshuffleEncoder
from compress.process.colour import FIXES, adain
from compress.process.direct import Direct
from compress.quant.layers import QuantConv2d, QuantLayer
from export.graphs import graph
from export.graphs.export_onnx import export_onnx, resolve_opset
from export.graphs.probes import probes
from export.graphs.quick_export import quick_export
from export.graphs.translate import TABLE, bicubic_taps
from export.parity.session import session


def nodes(model: onnx.ModelProto, kind: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == kind]


def test_versions_metadata_and_bytes(float_files):
    model, folder = float_files
    named = {
        "model": ("lr", "sr"),
        "encoder": ("lr", "latent"),
        "denoiser": ("latent", "prediction"),
        "decoder": ("clean_latent", "image"),
    }
    for stem, (source, result) in named.items():
        file = onnx.load(folder / f"{stem}.onnx")
        assert file.ir_version <= 13
        assert [o.version for o in file.opset_import if not o.domain] == [20]
        assert [i.name for i in file.graph.input] == [source]
        assert [o.name for o in file.graph.output] == [result]
        notes = {p.key: p.value for p in file.metadata_props}
        assert notes["project"] == "diffusion-sr-compress"
        assert notes["scale"] == "4"
        assert notes["lr_size"] == "32x32"
        assert json.loads(notes["quantised_layers"]) == {}
        assert not any(node.metadata_props or node.doc_string for node in file.graph.node)
    parameters = sum(p.numel() for p in model.decoder.parameters())
    # A graph of this size costs about 100 bytes a node beside its weights.
    assert (folder / "decoder.onnx").stat().st_size < 4 * parameters + 60_000
    assert not list(folder.glob(".*")), "no partial file may remain"


class Same(nn.Module):
    """In place of a denoiser."""

    def forward(self, latent, context):
        return latent


class Enlarge(nn.Module):
    """In place of a decoder: the pixels of a PixelUnshuffleEncoder, four times as large."""

    def forward(self, latent):
        return F.interpolate(F.pixel_shuffle(latent, 2), scale_factor=4) * 0.7 + 0.4


@pytest.mark.parametrize("name", FIXES)
def test_every_colour_fix(tmp_path, name):
    parts = {"encoder": PixelUnshuffleEncoder(2), "denoiser": Same(), "decoder": Enlarge()}
    model = SRModel(parts, Direct(), colour_fix=name).eval()
    export_onnx(model, tmp_path, lr_size=(32, 48), per_component=False)
    loaded = session(tmp_path / "model.onnx", 1)
    for lr in probes((32, 48)).values():
        sr = loaded.run(None, {"lr": lr.numpy()})[0]
        np.testing.assert_allclose(sr, model(lr).numpy(), atol=1e-4)
        assert sr.min() >= 0
        assert sr.max() <= 1


def test_output_is_network_clamp_and_colour_fix(float_files):
    model, folder = float_files
    lr = probes((32, 32))["textured"]
    sr = session(folder / "model.onnx", 1).run(None, {"lr": lr.numpy()})[0]
    with torch.no_grad():
        image = adain(
            model.network(lr).clamp(0, 1), F.interpolate(lr, scale_factor=4, mode="bicubic")
        )
    assert sr.shape == (1, 3, 128, 128)
    assert sr.min() >= 0
    assert sr.max() <= 1
    np.testing.assert_allclose(sr, image.clamp(0, 1).numpy(), atol=1e-4)
    with torch.no_grad():  # and that is what the model itself answers for an image of one tile
        np.testing.assert_allclose(sr, model(lr).numpy(), atol=1e-4)


def test_weights_are_integers_once(int8_files):
    model, folder = int8_files
    layers = [m for m in model.modules() if isinstance(m, QuantLayer)]
    file = onnx.load(folder / "model.onnx")
    initialisers = {i.name: i for i in file.graph.initializer}
    stored = [
        initialisers[n.input[0]]
        for n in nodes(file, "DequantizeLinear")
        if n.input[0] in initialisers
    ]
    assert len(stored) == len(layers) == len({i.name for i in stored})
    assert all(i.data_type == TensorProto.INT8 for i in stored)
    assert sum(int(np.prod(i.dims)) for i in stored) == sum(
        layer.weight_q.numel() for layer in layers
    )
    shapes = {tuple(layer.weight_q.shape) for layer in layers if layer.weight_q.ndim == 4}
    floats = {tuple(i.dims) for i in initialisers.values() if i.data_type == TensorProto.FLOAT}
    assert not shapes & floats, "a weight is stored in floating point as well"
    # One QuantizeLinear per layer; fewer where layers read one tensor with one range.
    assert 0 < len(nodes(file, "QuantizeLinear")) <= len(layers)
    zero_points = [
        n.input[2] for n in nodes(file, "DequantizeLinear") if n.input[0] in initialisers
    ]
    assert len(set(zero_points)) == len(layers), (
        "onnxruntime's exact integers take no zero point that weights share"
    )
    large = [
        numpy_helper.to_array(i).tobytes()
        for name, i in initialisers.items()
        if int(np.prod(i.dims)) > 64 and name not in zero_points
    ]
    assert len(set(large)) == len(large), "an initialiser is there twice"
    assert json.loads({p.key: p.value for p in file.metadata_props}["quantised_layers"]) == {
        "W8A8": len(layers)
    }


def test_int8_file_is_smaller(int8_files, float_files):
    (model, folder), reference = int8_files, float_files[1]
    layers = [m for m in model.modules() if isinstance(m, QuantLayer)]
    sizes = [(f / "model.onnx").stat().st_size for f in (reference, folder)]
    # Three bytes a weight are saved; Q/DQ nodes, scales and names cost about 1100 bytes a layer.
    assert sizes[1] < sizes[0] - sum(3 * m.weight_q.numel() for m in layers) + 1500 * len(layers)


@quick_export()
def test_six_bits_stay_on_their_grid(tmp_path):
    layer = next(
        m
        for m in quantised(tiny(), 6, 6).decoder.modules()
        if isinstance(m, QuantConv2d) and m.act_bits == 6
    )
    torch.nn.init.zeros_(layer.bias)
    x = torch.randn(1, layer.in_channels, 8, 8) * 100  # far outside the calibrated range
    torch.onnx.export(
        layer,
        (x,),
        tmp_path / "layer.onnx",
        dynamo=True,
        opset_version=20,
        verbose=False,
        custom_translation_table=TABLE,
        input_names=["x"],
        output_names=["y"],
    )
    file = onnx.load(tmp_path / "layer.onnx")
    before = nodes(file, "QuantizeLinear")[0].input[0]
    clamp = next(node for node in file.graph.node if before in node.output)
    assert clamp.op_type in ("Clip", "Min"), "nothing clamps to the narrow grid"
    codes = nodes(file, "QuantizeLinear")[0].output[0]
    file.graph.output.append(onnx.helper.make_tensor_value_info(codes, TensorProto.UINT8, None))
    onnx.save(file, tmp_path / "codes.onnx")
    y, seen = session(tmp_path / "codes.onnx", 1).run(None, {"x": x.numpy()})
    assert seen.dtype == np.uint8
    assert seen.min() == 0
    assert seen.max() == 63
    with torch.no_grad():
        np.testing.assert_allclose(y, layer(x).numpy(), rtol=1e-4, atol=1e-4)


@quick_export()
def test_narrow_limits_are_clipped_by_the_translation(tmp_path):
    class Narrow(torch.nn.Module):
        def forward(self, x):
            ops, scale, zero = torch.ops.quantized_decomposed, torch.tensor(0.1), torch.tensor(5)
            return ops.dequantize_per_tensor(
                ops.quantize_per_tensor(x, scale, zero, 0, 15, torch.uint8),
                scale,
                zero,
                0,
                15,
                torch.uint8,
            )

    x = torch.linspace(-5, 5, 64).view(1, 64)
    torch.onnx.export(
        Narrow().eval(),
        (x,),
        tmp_path / "n.onnx",
        dynamo=True,
        opset_version=20,
        verbose=False,
        custom_translation_table=TABLE,
        input_names=["x"],
    )
    y = session(tmp_path / "n.onnx", 1).run(None, {"x": x.numpy()})[0]
    np.testing.assert_allclose(y, Narrow()(x).numpy(), atol=1e-6)
    assert y.max() == pytest.approx(1.0)  # (15 - 5) * 0.1


@pytest.mark.parametrize("scale", [2, 3, 4])
@quick_export()
def test_bicubic_as_convolution(tmp_path, scale):
    class Up(torch.nn.Module):
        def forward(self, x):
            return F.interpolate(x, scale_factor=scale, mode="bicubic", align_corners=False)

    assert bicubic_taps(scale).sum(1) == pytest.approx(1.0)
    x = torch.rand(1, 3, 7, 5)
    torch.onnx.export(
        Up().eval(),
        (x,),
        tmp_path / "up.onnx",
        dynamo=True,
        opset_version=20,
        verbose=False,
        custom_translation_table=TABLE,
        input_names=["x"],
    )
    assert not nodes(onnx.load(tmp_path / "up.onnx"), "Resize")
    y = session(tmp_path / "up.onnx", 1).run(None, {"x": x.numpy()})[0]
    np.testing.assert_allclose(y, Up()(x).numpy(), atol=2e-6)


def test_dynamic_sizes_of_a_decoder(tmp_path):
    model = tiny()
    export_onnx(model, tmp_path, lr_size=(32, 48), dynamic=True, stems=("decoder",))
    loaded = session(tmp_path / "decoder.onnx", 1)
    for size in ((16, 16), (24, 40)):
        latent = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(0))
        image = loaded.run(None, {"clean_latent": latent.numpy()})[0]
        assert image.shape == (1, 3, 8 * size[0], 8 * size[1])
        with torch.no_grad():
            np.testing.assert_allclose(image, model.decoder(latent).numpy(), atol=1e-4)


@pytest.mark.parametrize("family", ["dfosd", "invsr"])
def test_dynamic_sizes_of_a_whole_model(family, tmp_path):
    """UNet, process, noise and colour; of an autoencoder, the decoder above."""
    model = tiny_family(family, autoencoder=False)
    model.tiling = replace(model.tiling, margin=0)  # a graph holds none
    export_onnx(model, tmp_path, lr_size=(32, 48), dynamic=True, per_component=False)
    loaded = session(tmp_path / "model.onnx", 1)
    for size in ((32, 32), (48, 80)):
        lr = probes(size)["textured"]
        sr = loaded.run(None, {"lr": lr.numpy()})[0]
        assert sr.shape == (1, 3, 4 * size[0], 4 * size[1])
        with torch.no_grad():
            np.testing.assert_allclose(sr, model(lr).numpy(), atol=1e-4)


def test_large_weights_go_beside_the_graph(float_files, tmp_path):
    folder = float_files[1]
    import onnx_ir as ir

    paths = graph.write(
        ir.load(folder / "encoder.onnx"), tmp_path / "encoder.onnx", {}, embed_limit=1000
    )
    assert [p.name for p in paths] == ["encoder.onnx", "encoder.onnx.data"]
    assert paths[0].stat().st_size < (folder / "encoder.onnx").stat().st_size / 2
    lr = probes((32, 32))["dark"].numpy()
    moved, original = (
        session(f / "encoder.onnx", 1).run(None, {"lr": lr})[0] for f in (tmp_path, folder)
    )
    np.testing.assert_array_equal(moved, original)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr_size": (32, 40)}, "multiples of 16"),
        ({"lr_size": (0, 32)}, "multiples of 16"),
        ({"opset": 17}, "opset 17 is not supported; choose 18 to 26"),
        ({"opset": 27}, "opset 27"),
        ({"lr_size": (16, 32), "dynamic": True}, "at least 32x32"),
        ({"end_to_end": False, "per_component": False}, "nothing to export"),
    ],
)
def test_refusals(tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        export_onnx(tiny(), tmp_path, **{"lr_size": (32, 32), **options})
    assert not list(tmp_path.iterdir())


def test_sixteen_bits_need_a_newer_opset(tmp_path):
    from compress.passes.quantize import Quantize

    model = tiny()
    with pytest.raises(UserError, match="choose 21 or later"):
        export_onnx(quantised(model, 8, 16), tmp_path, lr_size=(32, 32), opset=20)
    model = tiny()
    Quantize(method="minmax").convert(model)
    with pytest.raises(UserError, match="without ranges"):
        export_onnx(model, tmp_path, lr_size=(32, 32))


def test_a_folded_weight_is_noticed(float_files):
    import onnx_ir as ir

    with pytest.raises(RuntimeError, match="3 layers are quantised but 0 weights"):
        graph.check_quantised(ir.load(float_files[1] / "encoder.onnx"), 3, "encoder")


@pytest.mark.parametrize(
    ("opset", "sixteen_bit", "low_bits", "chosen"),
    [
        (None, False, "packed", 20),
        (None, True, "packed", 21),
        (None, False, "int4", 21),
        (None, False, "int2", 25),
        (18, False, "packed", 18),
        (26, True, "int2", 26),
    ],
)
def test_the_opset_of_an_export(opset, sixteen_bit, low_bits, chosen):
    assert resolve_opset(opset, sixteen_bit, low_bits) == chosen


@pytest.mark.parametrize(
    ("opset", "sixteen_bit", "low_bits", "words"),
    [
        (17, False, "packed", "opset 17 is not supported"),
        (20, True, "packed", "opset 20 cannot quantise to 16 bits"),
        (24, False, "int2", "opset 24 has no int2; choose 25 or later"),
    ],
)
def test_opsets_that_do_not_suffice(opset, sixteen_bit, low_bits, words):
    with pytest.raises(UserError, match=words):
        resolve_opset(opset, sixteen_bit, low_bits)
