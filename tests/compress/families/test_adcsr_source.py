"""AdcSR's published files.

Every tensor finds its place, both spellings agree, a file that does not fit is named.
"""

import json

import pytest
import torch
from bench.random_weights import randomise
from diffusers.models.attention_processor import Attention
from torch import nn

from compress.core.errors import UserError
from compress.core.tensors import State
from compress.cost.count import measure
from compress.families.adcsr import AdcSRSource
from compress.model.sr_model import SRModel
from compress.networks.adcsr_checkpoint import (
    decoder_tensors,
    diffusers_name,
    execution_order,
    half_decoder,
    load_adcsr,
    network_tensors,
    state_of,
)
from compress.passes import PASSES
from compress.recipe.checkpoint import convert_all, load_model, parse_source, save_model
from compress.recipe.recipe import load_recipe

LDM = (
    {
        "conv_norm_out": "norm_out",
        "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
        "mid_block.attentions.0.to_q": "mid.attn_1.q",
        "mid_block.attentions.0.to_k": "mid.attn_1.k",
        "mid_block.attentions.0.to_v": "mid.attn_1.v",
        "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
        "mid_block.resnets.0": "mid.block_1",
        "mid_block.resnets.1": "mid.block_2",
    }
    | {f"up_blocks.{i}.resnets": f"up.{3 - i}.block" for i in range(4)}
    | {f"up_blocks.{i}.upsamplers.0": f"up.{3 - i}.upsample" for i in range(4)}
)


@pytest.fixture
def nano() -> SRModel:
    """A small model of AdcSR's structure with random values."""
    return randomise(AdcSRSource(size="nano").build()).eval()


def net_file(model: SRModel) -> State:
    """What AdcSR's training saves of `model`.

    Every tensor of the UNet but conv_in's has two names.
    """
    unet = model.denoiser.unet.state_dict()
    numbers = {part: i for i, part in enumerate(execution_order(model.denoiser.unet))}
    state = {f"module.body.1.{name}": tensor for name, tensor in unet.items()}
    for name, tensor in unet.items():
        part = next((p for p in numbers if name.startswith(f"{p}.")), None)
        if part:
            state[f"module.body.1.body.{numbers[part]}{name.removeprefix(part)}"] = tensor
    return state | {
        f"module.body.2.{name}": tensor
        for name, tensor in model.decoder.decoder.mid_block.state_dict().items()
    }


def decoder_file(model: SRModel) -> State:
    """A half decoder with the tail of `model`, beside tensors of an encoder and a loss.

    Its middle block and conv_in are others.
    """
    state = {
        f"decoder.{name}": tensor + ("mid_block" in name)
        for name, tensor in model.decoder.decoder.state_dict().items()
    }
    width = model.decoder.decoder.mid_block.resnets[0].in_channels
    return state | {
        "decoder.conv_in.weight": torch.randn(width, 4, 3, 3),
        "decoder.conv_in.bias": torch.randn(width),
        "encoder.conv_in.weight": torch.ones(1),
        "loss.logvar": torch.ones(()),
    }


def in_ldm_names(state: State) -> State:
    result = {}
    for name, tensor in state.items():
        for now, then in LDM.items():
            name = name.replace(f"decoder.{now}.", f"decoder.{then}.")
        if any(f"attn_1.{x}.weight" in name for x in ("q", "k", "v", "proj_out")):
            tensor = tensor[:, :, None, None]
        result[name.replace("conv_shortcut", "nin_shortcut")] = tensor
    return result


def assert_same(found: SRModel, expected: SRModel) -> None:
    found, expected = found.state_dict(), expected.state_dict()
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]


@pytest.fixture(scope="module")
def published(shared) -> tuple[State, State]:
    """Tensors of the published names and shapes, all in the memory of one number."""
    manifests = [
        json.loads((shared / f"golden/manifests/{name}.json").read_text())["tensors"]
        for name in ("adcsr_net_params", "adcsr_half_decoder")
    ]
    zero = torch.zeros(())
    return tuple(
        {name: zero.expand(shape) for name, shape in tensors.items()} for tensors in manifests
    )


@pytest.fixture(scope="module")
def sd21() -> SRModel:
    return AdcSRSource(size="sd21").build()


def test_published_files_fill_the_whole_structure(published, sd21):
    net, decoder = published
    assert (len(net), len(decoder)) == (1076, 138)
    network = network_tensors(sd21, net)
    assert len(network) == 552
    assert sum(t.numel() for t in network.values()) == 446_321_744
    tail = decoder_tensors(sd21, decoder)
    assert {n: t.shape for n, t in (network | tail).items()} == {
        n: t.shape for n, t in sd21.state_dict().items()
    }
    assert not network.keys() & tail.keys()
    assert sum(t.numel() for t in half_decoder(decoder, 4).values()) == 12_387_459


def test_counts_are_the_published_ones(sd21):
    cost = measure(sd21)
    assert (cost.params, cost.macs_paper, cost.macs_full) == (
        456_073_683,
        494_972_174_336,
        549_497_602_048,
    )


def test_nano_has_the_structure_that_the_recipe_trains():
    recipe = load_recipe("recipes/adcsr.yaml")
    trained, own = convert_all(recipe.source, recipe.passes), AdcSRSource(size="nano").build()
    assert {n: t.shape for n, t in trained.state_dict().items()} == {
        n: t.shape for n, t in own.state_dict().items()
    }
    for kind, attribute in (
        (nn.GroupNorm, "num_groups"),
        (Attention, "heads"),
        (Attention, "scale"),
    ):
        found, expected = (
            {
                name: getattr(m, attribute)
                for name, m in model.named_modules()
                if isinstance(m, kind)
            }
            for model in (trained, own)
        )
        assert found
        assert found == expected


@pytest.mark.parametrize("spelling", ["both", "first", "second", "no prefix"])
def test_round_trip(nano, tmp_path, spelling):
    net = net_file(nano)
    repeated = {name for name in net if ".body.1.body." in name}
    keep = {
        "both": net.keys(),
        "first": net.keys() - repeated,
        "no prefix": net.keys(),
        "second": repeated | {n for n in net if ".body.1.conv_in." in n or ".body.2." in n},
    }[spelling]
    net = {
        name.removeprefix("module." if spelling == "no prefix" else ""): net[name] for name in keep
    }
    torch.save(net, tmp_path / "net.pkl")
    torch.save({"state_dict": decoder_file(nano), "epoch": 3}, tmp_path / "half.ckpt")
    model = AdcSRSource(size="nano").build()
    load_adcsr(model, str(tmp_path / "net.pkl"), str(tmp_path / "half.ckpt"))
    assert_same(model, nano)


def test_ldm_names_equal_diffusers_names(nano):
    state = decoder_file(nano)
    ldm = in_ldm_names(state)
    assert "decoder.up.3.block.0.norm1.weight" in ldm
    assert "decoder.mid.attn_1.proj_out.bias" in ldm
    assert not [name for name in ldm if "blocks" in name or "mid_block" in name]
    found, expected = half_decoder(ldm, 4), half_decoder(state, 4)
    assert (
        found.keys()
        == expected.keys()
        == {n.removeprefix("decoder.") for n in state if n.startswith("decoder.")}
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(torch.equal(t, nano.state_dict()[n]) for n, t in decoder_tensors(nano, ldm).items())
    assert (
        diffusers_name("up.0.block.2.nin_shortcut.weight", 4)
        == "up_blocks.3.resnets.2.conv_shortcut.weight"
    )
    assert diffusers_name("up.3.upsample.conv.bias", 4) == "up_blocks.0.upsamplers.0.conv.bias"


def test_state_dict_level_and_half_precision(nano, tmp_path):
    assert state_of({"state_dict": {"a": torch.ones(1), "step": 3}}, "", "").keys() == {"a"}
    assert state_of({"a": torch.ones(1)}, "", "").keys() == {"a"}
    half = {name: tensor.half() for name, tensor in net_file(nano).items()}
    assert all(t.dtype == torch.float32 for t in network_tensors(nano, half).values())


class Callback:
    """Of a class that a reader of the checkpoint does not have."""

    def __init__(self, best: float):
        self.best = best

    def __reduce__(self):
        return Callback, (self.best,), {"patience": 3}


def test_foreign_objects_of_a_training_checkpoint_are_not_run(nano, tmp_path, monkeypatch):
    torch.save(
        {"state_dict": decoder_file(nano), "callbacks": {Callback: [Callback(0.5)]}},
        tmp_path / "half.ckpt",
    )
    torch.save(net_file(nano), tmp_path / "net.pkl")
    monkeypatch.setattr(Callback, "__init__", lambda *_: pytest.fail("code of the file ran"))
    model = AdcSRSource(size="nano").build()
    load_adcsr(model, str(tmp_path / "net.pkl"), str(tmp_path / "half.ckpt"))
    assert_same(model, nano)


def test_aliases_that_differ_are_named(nano):
    net = net_file(nano)
    name = "module.body.1.body.4.resnets.0.conv1.bias"
    net[name] = net[name] + 1
    with pytest.raises(
        UserError,
        match=r"1 pairs .*module.body.1.mid_block.resnets.0.conv1.bias and "
        r"module.body.1.body.4.resnets.0.conv1.bias.*fetch it again",
    ):
        network_tensors(nano, net)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("module.body.1.conv_in.bias"), r"1 missing: body.1.conv_in.bias\)"),
        (
            lambda s: s.update({"module.body.3.weight": torch.ones(1)}),
            r"1 unexpected: body.3.weight\)",
        ),
        (
            lambda s: s.update({"module.body.1.body.99.weight": torch.ones(1)}),
            "1 unexpected: body.1.body.99.weight",
        ),
        (
            lambda s: s.update({"module.body.2.resnets.0.conv1.bias": torch.ones(3)}),
            r"1 of another shape: body.2.resnets.0.conv1.bias \(3,\) instead of",
        ),
    ],
)
def test_network_that_does_not_fit(nano, change, said):
    net = net_file(nano)
    change(net)
    with pytest.raises(
        UserError,
        match=f"net: x.pkl: another architecture than .*{said}.*; give AdcSR's net_params",
    ):
        network_tensors(nano, net, "net: x.pkl")


def test_files_that_do_not_fit(nano, tmp_path):
    def refused(said: str, **files: object) -> None:
        for name, content in (
            {"net": net_file(nano), "decoder": decoder_file(nano)} | files
        ).items():
            torch.save(content, tmp_path / name)
        with pytest.raises(UserError, match=said):
            load_adcsr(
                AdcSRSource(size="nano").build(), str(tmp_path / "net"), str(tmp_path / "decoder")
            )

    refused("net: .*missing: body.1.conv_in.bias.*unexpected: decoder", net=decoder_file(nano))
    refused("decoder: .*missing: decoder.conv_norm_out.bias", decoder=net_file(nano))
    refused("net: .*holds a list instead of named tensors", net=[1])
    refused("decoder: .*holds a number instead of named tensors", decoder={"state_dict": 3})
    wider = {
        name: torch.ones(2) if name == "decoder.conv_out.bias" else t
        for name, t in decoder_file(nano).items()
    }
    refused(
        r"decoder: .*of another shape: decoder.conv_out.bias \(2,\) instead of \(3,\)",
        decoder=wider,
    )
    (tmp_path / "text").write_text("no pickle")
    with pytest.raises(UserError, match=r"net: .*text cannot be read"):
        load_adcsr(nano, str(tmp_path / "text"), str(tmp_path / "decoder"))


def test_source_configs(nano, tmp_path, monkeypatch):
    monkeypatch.setattr("compress.families.adcsr.ASSET", tmp_path / "adcsr_nano.safetensors")
    with pytest.raises(UserError, match=r"source.weights: .*adcsr_nano.safetensors does not exist"):
        AdcSRSource().load(nano)
    with pytest.raises(
        UserError, match=r"source.net: size 'sd21' needs AdcSR's net_params_200.pkl"
    ):
        AdcSRSource(size="sd21").load(nano)
    with pytest.raises(UserError, match=r"source.decoder: .*halfDecoder.ckpt"):
        AdcSRSource(size="sd21", net="x").load(nano)
    with pytest.raises(UserError, match="net: x is no file"):
        AdcSRSource(size="sd21", net="x", decoder="y").load(nano)
    with pytest.raises(UserError, match=r"colour_fix: .*'mean_std', 'ycbcr' or 'none'"):
        parse_source({"family": "adcsr", "colour_fix": "x"})


def test_a_nano_file_of_its_own_is_read_and_compressed_further(nano, tmp_path):
    save_model(nano, tmp_path / "nano.safetensors", AdcSRSource(), [])
    source = parse_source({"family": "adcsr", "weights": str(tmp_path / "nano.safetensors")})
    model = source.build()
    source.load(model)
    assert_same(model, nano)
    assert model.colour_fix == "mean_std"
    assert json.loads(source.data_key())[0][0] == "nano.safetensors"
    lr = torch.rand(1, 3, 40, 24)
    with torch.no_grad():
        image = model(lr)
        assert image.shape == (1, 3, 160, 96)
        assert image.isfinite().all()
        assert torch.equal(load_model(tmp_path / "nano.safetensors")(lr), image)
    quantised = convert_all(source, [PASSES["quantize"](method="minmax")])
    assert measure(quantised).bytes < measure(model).bytes / 3
