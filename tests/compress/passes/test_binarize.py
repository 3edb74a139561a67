"""The binarize and pack passes: structure, values, training, storage, ONNX and the two accounts."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from support.tiny_model import TinySource, tiny
from torch import nn

from compress.binary.config import METHODS, BinaryConfig
from compress.binary.layers import BinaryLayer, binarise
from compress.binary.packed import pack, unpack
from compress.core.errors import UserError
from compress.cost.count import measure, measure_module
from compress.families import FAMILIES
from compress.families.osediff import OSEDiffSource
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.networks.swin_unet import SwinUNet
from compress.passes import PASSES
from compress.passes.binarize import Binarize
from compress.passes.distill import Distill
from compress.passes.pack import Pack
from compress.process.direct import Direct
from compress.recipe.checkpoint import convert_all, load_model, save_model
from export.graphs.export_onnx import packed_bytes
from export.graphs.graph import check_packed, tidy, write
from export.graphs.packed import INTEGERS, NARROW_LEAST, add_functions, as_integers, lookup
from export.graphs.quick_export import quick_export
from export.graphs.translate import TABLE

FIRST_LAST = {"unet.conv_in", "unet.conv_out"}


def nano() -> SRModel:
    source = OSEDiffSource()
    model = source.build()
    source.load(model)
    return model


def binary_layers(model) -> dict[str, BinaryLayer]:
    return {name: m for name, m in model.named_modules() if isinstance(m, BinaryLayer)}


# One bit with all branches and with none, two bits, and codes for the inputs.
SHORT = ("bimacosr", "react", "ternary", "w1a4")


@pytest.mark.parametrize(
    "method",
    [*SHORT, *(pytest.param(m, marks=pytest.mark.exhaustive) for m in METHODS if m not in SHORT)],
)
def test_same_structure_on_meta_and_real(method, tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, "tiny", TinySource)
    source, passes = TinySource(), [Binarize(method=method), Pack()]
    model = tiny()
    for step in passes:
        step.convert(model)
        meta = convert_all(source, passes[: passes.index(step) + 1])
        assert {k: (v.shape, v.dtype) for k, v in meta.state_dict().items()} == {
            k: (v.shape, v.dtype) for k, v in model.state_dict().items()
        }
        assert measure(meta, (32, 32)) == measure(model, (32, 32))
    assert binary_layers(model.denoiser)
    save_model(model, tmp_path / "model.safetensors", source, passes)
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path)(image), model(image))
    cost = measure(model, (32, 32))
    # The safetensors header is names and shapes: about 100 bytes a tensor.
    file = (tmp_path / "model.safetensors").stat().st_size
    assert cost.container_bytes <= file <= cost.container_bytes + 250 * len(model.state_dict())


@pytest.mark.parametrize("method", METHODS)
def test_every_layer_of_the_nano_but_the_first_and_the_last_is_binary(method):
    layers = binary_layers(convert_all(OSEDiffSource(), [Binarize(method=method)]).denoiser)
    assert len(layers) == 144
    assert not FIRST_LAST & layers.keys()


def test_three_branches_start_closer_than_one():
    model = nano()
    for name, layer in model.denoiser.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and name not in FIRST_LAST:
            alone, whole = (
                binarise(layer, BinaryConfig(low_rank=False, sparse=False)),
                binarise(layer),
            )
            with torch.no_grad():
                found = whole.binary_weight().view(*layer.weight.shape[:2], -1)
                for branch in whole.branches:
                    found[..., found.shape[2] // 2] += branch.dense()
                error = (found.view_as(layer.weight) - layer.weight).norm()
                assert error < (alone.binary_weight() - layer.weight).norm(), name


def test_keep_and_mistakes():
    model = OSEDiffSource().build()
    Binarize(keep=("denoiser.unet.down_blocks.0.*", "denoiser.unet.conv_*")).convert(model)
    names = binary_layers(model.denoiser)
    kept = ("unet.down_blocks.0.", "unet.conv_in", "unet.conv_out")
    assert names
    assert not any(name.startswith(kept) for name in names)
    assert {"binarize", "pack"} <= PASSES.keys()
    for options, words in (
        ({"keep": ("denoiser.unet.convin",)}, "did you mean 'denoiser.unet.conv_in'"),
        ({"binary": False, "low_rank": False, "sparse": False}, "no branch is left"),
        ({"components": ("encoder",)}, "encoder.*add it to keep"),
    ):
        with pytest.raises(UserError, match=words):
            Binarize(**options).convert(OSEDiffSource().build())
    Binarize(keep=("denoiser.unet.conv_in",)).convert(whole := OSEDiffSource().build())
    Binarize(keep=("denoiser.unet.conv_in",)).convert(
        whole
    )  # what is left is kept: nothing happens
    with pytest.raises(UserError, match="no binary layer"):
        Pack().convert(OSEDiffSource().build())


def test_branches_switch_off():
    model = OSEDiffSource().build()
    Binarize(sparse=False, rank=3).convert(model)
    layer = model.denoiser.unet.mid_block.resnets[0].conv1
    assert layer.sparse is None
    assert layer.low_rank.down.out_channels == 3
    assert layer.weight_bits == layer.act_bits == 1


@pytest.mark.parametrize("method", METHODS)
def test_gradients_reach_every_parameter(method):
    torch.manual_seed(0)
    net = nn.Sequential(
        binarise(nn.Conv2d(6, 9, 3, padding=1), BinaryConfig(method=method)),
        nn.Flatten(2),
        binarise(nn.Linear(20, 7), BinaryConfig(method=method)),
    )
    net(torch.randn(2, 6, 4, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_packing_changes_nothing(method, kind):
    torch.manual_seed(0)
    layer = nn.Conv2d(7, 9, 3, 2, 1) if kind == "conv" else nn.Linear(7, 9)
    binary = binarise(layer, BinaryConfig(method=method)).eval().requires_grad_(False)
    with torch.no_grad():
        binary.weight.view(-1)[:3] = 0.0  # sign(0) is +1 before and after
    x = torch.randn((2, 7, 6, 5) if kind == "conv" else (2, 3, 7))
    before, weight = binary(x), binary.binary_weight()
    binary.pack()
    assert torch.equal(binary.binary_weight(), weight)
    torch.testing.assert_close(binary(x), before, rtol=1e-6, atol=1e-6)
    bits = 2 if method == "ternary" else 1
    assert binary.weight_packed.numel() == -(-layer.weight.numel() * bits // 8)
    assert binary.weight is None
    assert not {"weight"} & {name for name, _ in binary.named_parameters(recurse=False)}


def test_codes_are_what_the_lookup_says():
    codes = torch.tensor([1, 0, 0, 1, 1, 1, 0, 1, 1, 0])
    packed = pack(codes, 1)
    assert packed.tolist() == [0b10111001, 0b01]
    assert np.array_equal(lookup(1)[packed.numpy()].ravel()[:10], (codes * 2 - 1).numpy())
    trits = torch.tensor([2, 0, 1, 1, 2])
    assert np.array_equal(lookup(2)[pack(trits, 2).numpy()].ravel()[:5], (trits - 1).numpy())
    assert unpack(pack(trits, 2), torch.tensor([[2.0]]), [1, 5], 2).tolist() == [
        [2.0, -2.0, 0.0, 0.0, 2.0]
    ]


def test_distillation_of_a_binary_model(tmp_path):
    source = nano()
    model = nano()
    Binarize().convert(model)
    step = Distill(
        stage="student",
        losses={"latent": 1.0},
        train=("denoiser.*",),
        steps=12,
        batch=2,
        crop=64,
        lr=2e-3,
        ema=0.5,
        precision="fp32",
        samples_every=1000,
    )
    before = {k: v.clone() for k, v in model.denoiser.state_dict().items()}
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        goal, start = (
            source.clean_latent(source.encoder(image)),
            model.clean_latent(model.encoder(image)),
        )
    step.fit(model, FitContext(source, workdir=tmp_path))
    with torch.no_grad():
        found = model.clean_latent(model.encoder(image))
    assert (found - goal).abs().mean() < (start - goal).abs().mean()
    layer = "unet.mid_block.resnets.0.conv1"
    for name in ("weight", "sparse.entries", "low_rank.down.weight", "rprelu.prelu.weight"):
        assert not torch.equal(
            model.denoiser.state_dict()[f"{layer}.{name}"], before[f"{layer}.{name}"]
        )


@pytest.mark.parametrize(
    ("method", "low_bits"),
    [
        ("bimacosr", "packed"),
        ("ternary", "packed"),
        ("w1a4", "packed"),
        ("bimacosr", "int2"),
        pytest.param(
            "ternary", "int2", marks=pytest.mark.exhaustive
        ),  # of bimacosr, and int4 of it
        ("ternary", "int4"),
    ],
)
@quick_export()
def test_exported_weights_hold_bits(method, low_bits, tmp_path):
    torch.manual_seed(0)
    config = BinaryConfig(method=method)
    net = nn.Sequential(
        nn.Conv2d(3, 96, 3, padding=1),
        binarise(nn.Conv2d(96, 128, 3, padding=1), config),
        binarise(nn.Conv2d(128, 128, 3, 2, 1), config),
        nn.Flatten(2),
        nn.LayerNorm(64),
        binarise(nn.Linear(64, 256), config),
    ).eval()
    holder = SRModel({"denoiser": net}, Direct())
    Pack().convert(holder)
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        program = torch.onnx.export(
            net,
            (x,),
            dynamo=True,
            opset_version=INTEGERS.get(low_bits, ("", 20))[1],
            input_names=["x"],
            verbose=False,
            custom_translation_table=TABLE,
        )
        expected = net(x).numpy()
    tidy(program.model)
    check_packed(program.model, packed_bytes(net), "net")
    if low_bits != "packed":
        as_integers(program.model, low_bits)
    add_functions(program.model)
    (file,) = write(program.model, tmp_path / "net.onnx", {})
    found = ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(
        None, {"x": x.numpy()}
    )[0]
    assert 10 * np.log10((expected**2).max() / np.mean((found - expected) ** 2)) >= 50
    stored = sum(tensor.nbytes for tensor in net.state_dict().values())
    assert stored == measure_module(net, x, name="net").bytes
    wide = (
        onnx.TensorProto.INT32,
        onnx.TensorProto.INT64,
    )  # of which positions in a layer need half or less
    assert not [
        i
        for i in onnx.load(file).graph.initializer
        if i.data_type in wide and np.prod(i.dims) >= NARROW_LEAST
    ]
    proto, own = onnx.load(file), {"Widen", *(["Expand"] if method == "bimacosr" else [])}
    if low_bits == "packed":
        assert file.stat().st_size <= 1.15 * stored + 2304 * 8  # the table is there once
        own.add("UnpackTrits" if method == "ternary" else "UnpackBits")
    else:
        codes = [
            i
            for i in proto.graph.initializer
            if i.data_type == getattr(onnx.TensorProto, low_bits.upper())
        ]
        assert len(codes) == 3
        assert all(len(i.raw_data) * 8 <= int(low_bits[3]) * np.prod(i.dims) + 7 for i in codes)
        assert sum(n.op_type == "DequantizeLinear" for n in proto.graph.node) == 3
    assert {f.name for f in proto.functions} == own


def test_published_account_at_full_size():
    with torch.device("meta"):
        model = SRModel({"denoiser": SwinUNet()}, Direct())
    latent = torch.empty(1, 3, 64, 64)
    Binarize().as_published().convert(model)
    cost = measure_module(
        model.denoiser, latent, torch.zeros(1, dtype=torch.int64), latent, name="denoiser"
    )
    assert (cost.paper_params, cost.paper_ops) == (4_989_699, 1_837_084_608)


def test_two_accounts_at_full_size():
    with torch.device("meta"):
        model = SRModel({"denoiser": SwinUNet()}, Direct())
    latent = torch.empty(1, 3, 64, 64)
    inputs = latent, torch.zeros(1, dtype=torch.int64), latent
    whole = measure_module(model.denoiser, *inputs, name="denoiser")
    Binarize().convert(model)
    cost = measure_module(model.denoiser, *inputs, name="denoiser")
    assert (whole.paper_params, whole.paper_ops) == (
        118_513_539,
        50_148_814_592,
    )  # 118.51 M, 50.15 G
    # The branches of the three stride-2 convolutions are in ours and not in the published 4.990 M
    # and 1.837 G.
    assert (cost.paper_params, cost.paper_ops) == (5_002_499, 1_841_344_448)
    assert (cost.param_equivalents, cost.all_in_ops) == (
        5_458_031,
        2_472_233_920,
    )  # 5.53 M with unused ones
    assert (
        cost.macs_full > whole.macs_full
    )  # in reality a binary layer does its own products and the branches'
    Pack().convert(model)
    packed = measure_module(model.denoiser, *inputs, name="denoiser")
    assert (packed.paper_ops, packed.paper_params) == (cost.paper_ops, cost.paper_params)
    assert packed.params == cost.params
    assert packed.bytes < 0.05 * whole.bytes
    assert packed.bytes == packed.container_bytes
    assert json.loads(json.dumps(packed.as_dict()))["paper_params"] == packed.paper_params
