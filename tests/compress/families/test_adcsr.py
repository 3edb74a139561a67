"""AdcSR's passes: the authors' network, the published counts, the full-size structure."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from support.tiny_model import TinySource, tiny
from torch import nn

from compress.cost.count import measure
from compress.families import FAMILIES
from compress.families.osediff import OSEDiffSource
from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import UNetDenoiser, VAEDecoder, VAEEncoder
from compress.passes import PASSES
from compress.passes.encoder_swap import repeat_inputs
from compress.process.one_step import OneStep
from compress.recipe.checkpoint import load_model, parse_pass, save_model
from export.graphs.export_onnx import export_onnx
from export.parity.rows import failures
from export.parity.verify import verify

ADCSR = [
    ("strip", {"text": "remove", "timestep": "remove"}),
    ("encoder_swap", {}),
    ("prune", {}),
    ("decoder_join", {}),
]


def convert(model: SRModel, channels: str, halve: bool) -> SRModel:
    for name, options in ADCSR[:2] + [("decoder_halve", {})] * halve + ADCSR[2:]:
        if name in ("prune", "decoder_halve"):
            options = {"channels": channels}
        PASSES[name](**options).convert(model)
    return model


@pytest.fixture(scope="module")
def golden(shared):
    facts = json.loads((shared / "golden" / "adcsr_net.json").read_text())
    return facts, load_file(shared / "golden" / "adcsr_net.safetensors")


def from_golden(facts: dict, tensors: dict) -> SRModel:
    unet = UNet2DConditionModel(**facts["config"]["unet"])
    half = facts["config"]["half_decoder"]
    vae = AutoencoderKL(
        **{
            k: half[k]
            for k in (
                "in_channels",
                "out_channels",
                "up_block_types",
                "block_out_channels",
                "layers_per_block",
                "norm_num_groups",
                "act_fn",
            )
        }
        | {"in_channels": 3},
        down_block_types=("DownEncoderBlock2D",) * 4,
        scaling_factor=0.5,
    )
    unet.load_state_dict(
        {k.removeprefix("weights.unet."): v for k, v in tensors.items() if "weights.unet." in k}
    )
    vae.decoder.load_state_dict(
        {
            k.removeprefix("weights.decoder."): v
            for k, v in tensors.items()
            if "weights.decoder." in k
        }
    )
    context = nn.Parameter(torch.randn(1, 5, 16))
    parts = {
        "encoder": VAEEncoder(vae),
        "denoiser": UNetDenoiser(unet, 999, context),
        "decoder": VAEDecoder(vae),
    }
    return SRModel(parts, OneStep()).eval()


def test_every_pruned_tensor_is_the_authors(golden):
    facts, tensors = golden
    state = convert(from_golden(facts, tensors), "first", halve=False).state_dict()
    checked = 0
    for name, expected in facts["pruned_state_dict"].items():
        place = (
            name.replace("body.1.", "denoiser.unet.")
            if name.startswith("body.1.")
            else name.replace("body.2.", "decoder.decoder.mid_block.")
        )
        found = state[place]
        assert list(found.shape) == expected["shape"], name
        for key, value in (
            ("mean", found.mean()),
            ("abs_mean", found.abs().mean()),
            ("first", found.flatten()[0]),
            ("last", found.flatten()[-1]),
        ):
            assert value.item() == pytest.approx(expected[key], rel=1e-5, abs=1e-6), (name, key)
        checked += 1
    assert checked == 552
    outside = {
        name for name in state if not name.startswith(("denoiser.unet.", "decoder.decoder."))
    }
    assert outside == set()


@pytest.mark.parametrize("case", ["a", "b"])
def test_the_pruned_network_computes_what_the_authors_does(golden, case):
    facts, tensors = golden
    model = convert(from_golden(facts, tensors), "first", halve=False)
    with torch.no_grad():
        lr = tensors[f"inputs.{case}.lr"] * 0.5 + 0.5
        features = model.denoiser(model.encoder(lr))
        middle = model.decoder.decoder.mid_block(features)
        image = model.network(lr) * 2 - 1
    for name, found in (("unet_out", features), ("feature", middle), ("sr", image)):
        expected = tensors[f"outputs.{case}.{name}"]
        assert (found - expected).abs().max() <= facts["tolerance"]["max_abs"], name
        assert (found - expected).norm() / expected.norm() <= facts["tolerance"]["rel_l2"], name


@pytest.mark.parametrize("channels", ["first", "dependency", "activation"])
def test_published_counts(channels):
    model = convert(OSEDiffSource(size="sd21").build(), channels, halve=True)
    cost = measure(model)
    assert (cost.params, cost.macs_paper, cost.macs_full) == (
        456_073_683,
        494_972_174_336,
        549_497_602_048,
    )
    denoiser, decoder = cost.component("denoiser"), cost.component("decoder")
    assert (denoiser.params, denoiser.macs_paper, denoiser.macs_full) == (
        443_695_696,
        184_744_673_280,
        230_680_166_400,
    )
    middle, tail = cost.halves("decoder").values()
    assert (middle.params, middle.macs_paper, middle.macs_full) == (
        2_626_048,
        10_737_418_240,
        19_327_352_832,
    )
    assert (tail.params, tail.macs_paper, tail.macs_full) == (
        9_751_939,
        299_490_082_816,
        299_490_082_816,
    )
    assert decoder.params == middle.params + tail.params


@pytest.mark.parametrize(
    ("side", "paper", "full"),
    [
        (192, 1_113_687_392_256, 1_389_722_370_048),
        (256, 1_979_888_697_344, 2_852_295_540_736),
        (512, 7_919_554_789_376, 21_878_064_283_648),
    ],
)
def test_published_counts_at_other_sizes(side, paper, full):
    cost = measure(convert(OSEDiffSource(size="sd21").build(), "first", halve=True), (side, side))
    assert (cost.macs_paper, cost.macs_full) == (paper, full)


@pytest.mark.parametrize(
    "names",
    [
        ["encoder_swap"],
        ["decoder_halve"],
        ["decoder_join"],
        ["prune"],
        ["strip", "encoder_swap", "decoder_halve", "prune", "decoder_join"],
    ],
    ids=lambda names: "+".join(names),
)
def test_each_pass_alone_and_all_run_save_and_load(tmp_path, monkeypatch, names):
    passes = [
        parse_pass(
            {"pass": name}
            | ({"channels": "l1"} if name in ("decoder_halve", "prune") else {})
            | ({"text": "remove"} if name == "strip" else {}),
            "test",
        )
        for name in names
    ]
    monkeypatch.setitem(FAMILIES, "tiny", TinySource)
    source, model = TinySource(), tiny()
    for step in passes:
        step.convert(model)
    save_model(model, tmp_path / "model.safetensors", source, passes)
    loaded = load_model(tmp_path / "model.safetensors")
    lr = torch.rand(1, 3, 40, 24)  # not a multiple of 16: padded and cropped
    with torch.no_grad():
        image = model(lr)
        torch.testing.assert_close(loaded(lr), image, rtol=1e-4, atol=1e-5)
    assert image.shape == (1, 3, 160, 96)
    assert torch.isfinite(image).all()
    assert measure(loaded).totals() == measure(model).totals() != measure(source.build()).totals()


def test_swapped_encoder_is_the_image_rearranged(random_nano):
    """Four neighbours of the LR image, in [-1, 1], and the first convolution's weights in turn."""
    weight = random_nano.denoiser.unet.conv_in.weight.clone()
    PASSES["encoder_swap"]().convert(random_nano)
    lr = torch.rand(1, 3, 16, 32)
    latent = random_nano.encoder(lr)
    assert latent.shape == (1, 12, 8, 16)
    for channel, piece in (
        (0, lr[0, 0, ::2, ::2]),
        (1, lr[0, 0, ::2, 1::2]),
        (7, lr[0, 1, 1::2, 1::2]),
    ):
        assert torch.equal(latent[0, channel], piece * 2 - 1)
    widened = random_nano.denoiser.unet.conv_in
    assert widened.in_channels == 12
    assert torch.equal(widened.weight, weight)


def test_inputs_are_repeated_for_as_many_as_there_are():
    conv = nn.Conv2d(4, 8, 3)
    weight = conv.weight.clone()
    repeat_inputs(conv, 12)
    assert conv.in_channels == 12
    assert torch.equal(conv.weight, weight.repeat(1, 3, 1, 1))


def test_joined_model_exports_whole_and_in_parts(tmp_path):
    model = convert(tiny(), "dependency", halve=True)
    files = export_onnx(model, tmp_path, lr_size=(32, 48))
    assert {file.stem for file in files} == {"model", "encoder", "denoiser", "decoder"}
    rows = verify(model, tmp_path)
    assert not failures(rows)
    assert len(rows) == 16
