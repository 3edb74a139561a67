"""The Swin UNet.

Parity with the authors' network, the published names, shapes and counts, masks, and ONNX.
"""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from compress.core.errors import UserError
from compress.cost.count import measure_module
from compress.networks.swin_layer import (
    SwinBlock,
    SwinUNetConfig,
    relative_position_index,
    shift_mask,
)
from compress.networks.swin_unet import SwinUNet, timestep_embedding
from export.graphs.quick_export import quick_export


@pytest.fixture(scope="module")
def golden(shared):
    facts = json.loads((shared / "golden" / "resshift_swin_unet.json").read_text())
    tensors = {}
    for name in facts["files"]:
        tensors |= load_file(shared / "golden" / name)
    return facts, tensors


@pytest.fixture(scope="module")
def network(golden) -> SwinUNet:
    facts, tensors = golden
    config = facts["config"]
    net = SwinUNet(
        SwinUNetConfig(
            channels=config["model_channels"],
            multipliers=tuple(config["channel_mult"]),
            blocks=config["num_res_blocks"][0],
            size=config["image_size"],
            attention=tuple(config["attention_resolutions"]),
            embed=config["swin_embed_dim"],
            head_channels=config["num_head_channels"],
            depth=config["swin_depth"],
            window=config["window_size"],
            mlp_ratio=config["mlp_ratio"],
        )
    ).eval()
    weights = {
        name.removeprefix("weights."): value
        for name, value in tensors.items()
        if name.startswith("weights.")
    }
    missing, unexpected = net.load_state_dict(weights, strict=False)
    # The golden leaves out what follows from shapes; ours must have just that beside the weights.
    assert unexpected == []
    assert set(missing) == set(facts["omitted_buffers"]["shapes"])
    return net


def tiny(**options) -> SwinUNet:
    config = {
        "channels": 32,
        "multipliers": (1, 2),
        "blocks": 1,
        "size": 16,
        "attention": (16,),
        "embed": 32,
        "head_channels": 16,
    }
    torch.manual_seed(0)
    net = SwinUNet(SwinUNetConfig(**config | options)).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net


@pytest.mark.parametrize("case", ["a", "b"])
def test_output_is_the_authors(golden, network, case):
    facts, tensors = golden
    with torch.no_grad():
        found = network(*(tensors[f"inputs.{case}.{name}"] for name in ("x", "timesteps", "lq")))
    expected = tensors[f"outputs.{case}"]
    assert (found - expected).abs().max() <= facts["tolerance"]["max_abs"]
    assert (found - expected).norm() / expected.norm() <= facts["tolerance"]["rel_l2"]


def test_every_block_has_the_authors_statistics(golden, network):
    facts, tensors = golden
    seen, modules = {}, dict(network.named_modules())
    expected = {
        name.split(" ")[0]: value for name, value in facts["block_statistics"]["blocks"].items()
    }
    hooks = [
        modules[name].register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
        for name in expected
    ]
    with torch.no_grad():
        network(*(tensors[f"inputs.a.{name}"] for name in ("x", "timesteps", "lq")))
    for hook in hooks:
        hook.remove()
    assert len(seen) == 27
    limit = facts["tolerance"]["max_abs"]
    for name, out in seen.items():
        assert list(out.shape) == expected[name]["shape"], name
        assert out.flatten()[:4].tolist() == pytest.approx(expected[name]["first4"], abs=limit), (
            name
        )
        for key, value in (
            ("mean", out.double().mean()),
            ("abs_max", out.abs().max()),
            ("std", out.double().std()),
        ):
            assert value.item() == pytest.approx(expected[name][key], abs=limit), (name, key)


def test_time_embedding_and_buffers_are_the_authors(golden, network):
    facts, tensors = golden
    with torch.no_grad():
        found = network.time_embed(
            timestep_embedding(tensors["inputs.a.timesteps"], network.config.channels)
        )
    torch.testing.assert_close(
        found, tensors["outputs.a.time_emb"], rtol=0, atol=facts["tolerance"]["max_abs"]
    )
    assert torch.equal(relative_position_index(8), tensors["outputs.relative_position_index"])
    assert torch.equal(shift_mask(16, 8, 4, "published"), tensors["outputs.attn_mask_16x16"])


@pytest.mark.parametrize("name", ["sinsr_unet", "resshift_v3_unet"])
def test_names_and_shapes_are_those_of_the_published_checkpoints(shared, name):
    manifest = json.loads((shared / "golden" / "manifests" / f"{name}.json").read_text())
    with torch.device("meta"):
        net = SwinUNet()
    state = net.state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == manifest["tensors"]
    assert len(state) == manifest["keys"] == 564
    integers = {key for key, value in state.items() if value.dtype != torch.float32}
    assert integers == {key for key in state if key.endswith("relative_position_index")}
    assert sum(p.numel() for p in net.parameters()) == manifest["parameters"] == 118_593_583


# Published: 50.66 and 202.61 G with attention; the convolutions and linear layers alone are 50.12
# and 200.46.
@pytest.mark.parametrize(
    ("side", "conv", "linear", "attention"),
    [
        (64, 46_884_847_616, 3_238_883_328, 537_919_488),
        (128, 187_539_390_464, 12_921_434_112, 2_151_677_952),
    ],
)
def test_counts_at_full_size(side, conv, linear, attention):
    with torch.device("meta"):
        net = SwinUNet()
    image = torch.empty(1, 3, side, side)
    totals = measure_module(
        net, image, torch.zeros(1, dtype=torch.int64), image, name="denoiser"
    ).totals()
    assert [totals[k] for k in ("params", "macs_conv", "macs_linear", "macs_attention")] == [
        118_593_583,
        conv,
        linear,
        attention,
    ]
    assert round(totals["macs_full"] / 1e9, 2) == {64: 50.66, 128: 202.61}[side]
    # What a fixed timestep lets one fold away.
    assert (
        sum(
            p.numel()
            for name, p in net.named_parameters()
            if "emb_layers" in name or "time_embed" in name
        )
        == 11_384_640
    )


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (3, 2), (1, 4)])
def test_swin_mask_parts_what_was_not_adjacent(rows, columns):
    block = tiny(mask="swin").input_blocks[1][1].blocks[1]
    found = block.mask(rows, columns)
    # Where a position of the shifted map comes from. The first half window comes from the opposite
    # edge: in the last window of a side it meets the others, which lie a window and more away, or,
    # in a map of one window, beyond it.
    y, x = torch.meshgrid(torch.arange(8 * rows), torch.arange(8 * columns), indexing="ij")
    parted = torch.zeros(rows * columns, 64, 64, dtype=torch.bool)
    for axis, last in ((y, 8 * rows - 8), (x, 8 * columns - 8)):
        origin = axis.roll((-4, -4), (0, 1))
        origin = torch.stack(
            [
                origin[8 * i : 8 * i + 8, 8 * j : 8 * j + 8].flatten()
                for i in range(rows)
                for j in range(columns)
            ]
        )
        wrapped, whole = origin < 4, (origin >= max(last, 4)).any(1) & (origin < 4).any(1)
        parted |= (wrapped[:, :, None] != wrapped[:, None, :]) & whole[:, None, None]
    assert torch.equal(found == -100, parted)
    assert parted.any()
    assert not parted.all()
    assert set(found.unique().tolist()) == {-100.0, 0.0}


def test_mask_of_another_size_is_the_one_that_size_is_built_with(network):
    block = network.input_blocks[1][1].blocks[1]
    for windows in (2, 5, 8):
        assert torch.equal(block.mask(windows, windows), shift_mask(8 * windows, 8, 4, "published"))
    assert all(b.shift == 0 and b.attn_mask is None for b in network.middle_block[1].blocks)
    assert [b.shift for b in network.input_blocks[7][1].blocks] == [0, 4]


def test_compact_stores_less_and_computes_the_same():
    net, x = tiny(size=32, attention=(32,)), torch.randn(1, 3, 32, 32)
    steps, lq = torch.tensor([3]), torch.randn(1, 3, 32, 32)
    blocks = [m for m in net.modules() if isinstance(m, SwinBlock)]
    shifted = next(b for b in blocks if b.shift)
    assert len(shifted.attn_mask) == 16
    with torch.no_grad():
        expected = net(x, steps, lq)
        for block in blocks:
            block.compact()
        assert torch.equal(net(x, steps, lq), expected)
    assert len(shifted.attn_mask) == 4
    assert shifted.attn.relative_position_index.dtype == torch.int32


def test_switches_change_structure_and_result():
    x, t, lr = torch.randn(1, 3, 16, 32), torch.tensor([3]), torch.randn(1, 3, 16, 32)
    with torch.no_grad():
        base = tiny()(x, t, lr)
        assert base.shape == x.shape
        assert not torch.equal(base, tiny()(x, t + 1, lr))
        assert not torch.equal(base, tiny()(x, t, -lr))
        assert not torch.equal(base, tiny(mask="swin")(x, t, lr))
        added = tiny(film=False)
        assert added(x, t, lr).shape == x.shape
        assert added.input_blocks[1][0].emb_layers[1].out_features == 32
        alone = tiny(lr_channels=0, in_channels=4, out_channels=5)
        assert alone(torch.cat([x, lr[:, :1]], 1), t).shape == (1, 5, 16, 32)
    # One timestep for the whole batch is the same as one for each.
    with torch.no_grad():
        x, lr = x.expand(2, -1, -1, -1), lr.expand(2, -1, -1, -1)
        torch.testing.assert_close(tiny()(x, t, lr), tiny()(x, t.expand(2), lr))


def test_what_it_refuses():
    net, x, t = tiny(), torch.zeros(1, 3, 16, 24), torch.tensor([0])
    with pytest.raises(UserError, match="multiples of 16"):
        net(x, t, x)
    with pytest.raises(UserError, match="one size"):
        net(x[..., :16], t, x)
    for options, words in (
        ({"channels": 48}, "48 channels"),
        ({"head_channels": 24}, "head_channels"),
        ({"size": 24}, "multiple of 16"),
        ({"mask": "none"}, "published or swin"),
    ):
        with pytest.raises(UserError, match=words):
            SwinUNetConfig(
                **{
                    "channels": 32,
                    "embed": 32,
                    "head_channels": 16,
                    "multipliers": (1, 2),
                    "size": 16,
                }
                | options
            )


@pytest.mark.slow
@quick_export()
def test_onnxruntime_computes_the_same(tmp_path):
    net = tiny()  # at a size that its masks were not built for
    inputs = {
        "x_t": torch.randn(1, 3, 16, 32),
        "timesteps": torch.tensor([14]),
        "lr": torch.randn(1, 3, 16, 32),
    }
    with torch.no_grad():
        torch.onnx.export(
            net,
            tuple(inputs.values()),
            tmp_path / "unet.onnx",
            dynamo=True,
            opset_version=20,
            input_names=list(inputs),
            verbose=False,
            external_data=False,
        )
        expected = net(*inputs.values())
    session = onnxruntime.InferenceSession(
        tmp_path / "unet.onnx", providers=["CPUExecutionProvider"]
    )
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
    assert expected.abs().max() > 0.1
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
