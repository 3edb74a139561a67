"""Counting.

Exact integers of the published structures, thop, quantised layers, and no trace left on the model.
"""

import json
from dataclasses import replace

import pytest
import thop
import torch
import torch.nn.functional as F
from support.tiny_families import tiny_family
from torch import nn

from compress.core.errors import UserError
from compress.cost.count import measure, measure_module, meta_copy
from compress.cost.table import component_table, table
from compress.families.osediff import OSEDiffSource
from compress.model.sr_model import SRModel
from compress.networks.dape import Tagger
from compress.process.one_step import OneStep
from compress.recipe.plan_text import as_json, as_text
from compress.recipe.recipe import load_recipe

# Counter test vectors at 128 -> 512, 77 tokens: params, conv, linear, attention.
SD21 = {
    "text_encoder": (340_387_840, 0, 22_284_337_152, 279_279_616),
    "encoder": (34_163_664, 536_854_396_928, 4_294_967_296, 17_179_869_184),
    "denoiser": (865_910_724, 209_180_426_240, 129_922_170_880, 63_026_135_040),
    "decoder": (49_490_199, 1_235_784_630_272, 4_294_967_296, 17_179_869_184),
}


def test_sd21_has_the_exact_counts_of_the_original():
    model = OSEDiffSource(size="sd21").build()
    cost = measure(model)
    found = {
        name: tuple(
            part.totals()[key] for key in ("params", "macs_conv", "macs_linear", "macs_attention")
        )
        for name, part in cost.components().items()
    }
    assert found == SD21
    assert (cost.macs_paper, cost.macs_full) == (2_142_615_896_064, 2_240_281_049_088)
    assert cost.params == cost.param_equivalents == 1_289_952_427
    # What a file of it holds: the parameters, and a few integer buffers such as the token ids.
    assert cost.bytes == cost.container_bytes == sum(t.nbytes for t in model.state_dict().values())


def test_tagger_and_the_published_system_have_the_exact_counts_of_the_original():
    source = OSEDiffSource(size="sd21")
    part = source.replaced()
    tagger = measure_module(part.module, part.example, name=part.name)
    totals = tagger.totals()
    assert [
        totals[key] for key in ("params", "macs_conv", "macs_linear", "macs_attention", "macs_full")
    ] == [212_117_045, 84_934_656, 156_118_530_816, 5_991_803_904, 162_195_269_376]
    assert tagger.lr_size == (384, 384)
    assert list(tagger.components()) == ["tagger"]
    cost = measure(source.build())
    assert cost.macs_paper + tagger.macs_paper == 2_298_819_361_536
    assert cost.macs_full + tagger.macs_full == 2_402_476_318_464
    assert OSEDiffSource().replaced() is None


def test_tagger_gives_a_logit_per_tag():
    with torch.device("meta"):
        assert Tagger()(torch.empty(2, 3, 384, 384)).shape == (2, 4585)


def test_any_module_is_measured_like_a_component():
    layer = nn.Conv2d(3, 5, 3, padding=1)
    cost = measure_module(layer, torch.rand(1, 3, 8, 16), name="part")
    assert cost.lr_size == (8, 16)
    assert [row.name for row in cost.layers] == ["part"]
    assert cost.macs_paper == cost.macs_full == 8 * 16 * 5 * 27
    assert cost.params == 5 * 27 + 5
    assert not layer._forward_hooks
    assert layer.weight.device.type == "cpu"


@pytest.mark.slow
def test_plan_states_what_the_source_replaces():
    recipe = load_recipe("recipes/passionsr_w8a8.yaml", ["source.size=sd21"])
    cost = measure(recipe.source.build())
    assert as_text(recipe, [("source", cost)], cost).splitlines()[-2:] == [
        "source tagger (DAPE), replaced by one constant prompt: "
        "212,117,045 parameters, 162,195,269,376 full MACs",
        "OSEDiff as published (with DAPE): "
        "2,298,819,361,536 paper MACs / 2,402,476,318,464 full MACs",
    ]
    assert (
        json.loads(as_json(recipe, [("source", cost)], cost))["tagger"]["macs_full"]
        == 162_195_269_376
    )


@pytest.mark.slow
def test_plan_says_one_call_and_the_chain():
    """Two steps with refinement run the decoder and the hint twice as well."""
    chain, once = (
        measure(tiny_family("addsr", steps, autoencoder=False), (16, 16)) for steps in (2, 1)
    )
    assert {name: chain.calls[name] for name in ("encoder", "hint", "denoiser", "decoder")} == {
        "encoder": 1,
        "hint": 2,
        "denoiser": 2,
        "decoder": 2,
    }
    assert set(once.calls.values()) == {1}
    one = once.component("denoiser")
    assert chain.component("denoiser").macs_full == 2 * one.macs_full
    recipe = load_recipe("minmax_w8a8")
    text = as_text(recipe, [("source", chain)], chain)
    assert (
        f"source denoiser, one of 2 calls: {one.macs_paper:,} paper MACs, "
        f"{one.macs_full:,} full MACs"
    ) in text
    whole = chain.component("denoiser")
    assert (
        f"source denoiser: {whole.params:,} parameters, {whole.macs_paper:,} paper MACs, "
        f"{whole.macs_full:,} full MACs"
    ) in text
    assert "one of" not in as_text(recipe, [("source", once)], once)


@pytest.mark.slow
def test_plan_of_a_source_that_replaces_nothing(random_nano):
    recipe, cost = load_recipe("recipes/passionsr_w8a8.yaml"), measure(random_nano)
    text = as_text(recipe, [("source", cost)], cost)
    assert "source decoder:" in text
    assert "replaced by" not in text
    assert "as published (with" not in text
    assert "tagger" not in json.loads(as_json(recipe, [("source", cost)], cost))


def test_nano_equals_thop(random_nano, monkeypatch):
    # thop charges normalisation, which is no MAC of a convolution or linear layer, and ignores the
    # parameters of a module type without a rule; a rule of zero operations puts both right. It sees
    # no parameter outside a leaf module, hence the text context is added.
    def free(module, inputs, output):
        """No operation."""

    # What is counted is the network on its input alone.
    monkeypatch.setattr(random_nano, "tiling", replace(random_nano.tiling, margin=0))
    macs, params = thop.profile(
        random_nano,
        (torch.rand(1, 3, 64, 64),),
        verbose=False,
        custom_ops={nn.GroupNorm: free, nn.LayerNorm: free},
    )
    cost = measure(random_nano, (64, 64))
    assert cost.macs_paper == int(macs)
    assert cost.params == int(params) + random_nano.denoiser.context.numel()
    assert cost.params == sum(p.numel() for p in random_nano.parameters())


def test_counting_leaves_the_model_alone_and_needs_no_values(random_nano):
    before = {k: v.clone() for k, v in random_nano.state_dict().items()}
    random_nano.train()
    real = measure(random_nano)
    assert random_nano.training
    assert all(torch.equal(v, before[k]) for k, v in random_nano.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in random_nano.modules())
    assert real == measure(OSEDiffSource().build())


def test_layers_components_and_dict_agree(random_nano):
    cost = measure(random_nano, (32, 48))
    data = json.loads(json.dumps(cost.as_dict(layers=True)))
    for key in ("params", "bytes", "macs_paper", "macs_full", "macs_equivalent"):
        assert data[key] == sum(part[key] for part in data["components"])
    assert [part["name"] for part in data["components"]] == ["encoder", "denoiser", "decoder"]
    assert data["peak_activation_bytes"] == max(
        part["peak_activation_bytes"] for part in data["components"]
    )
    layer = next(row for row in data["layers"] if row["name"] == "denoiser.unet.conv_in")
    assert layer["macs_conv"] == 16 * 24 * 144 * 12 * 9
    assert layer["params"] == 144 * 12 * 9 + 144
    assert layer["activation_bytes"] == 4 * 16 * 24 * (12 + 144)


class Quantised(nn.Module):
    """What a quantised 1x1 convolution of `channels` looks like to the counter."""

    def __init__(self, channels: int, weight_bits: int, act_bits: int | None):
        super().__init__()
        self.weight_bits, self.act_bits = weight_bits, act_bits
        self.register_buffer("weight_q", torch.ones(channels, channels, 1, 1, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.quantiser = nn.Identity()

    def forward(self, x):
        x = self.quantiser(x)
        return F.conv2d(x, self.weight_q.to(x.dtype) * self.scale[:, None, None, None], self.bias)


class Whole(nn.Module):
    """A component of one layer that takes the context of a denoiser too."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x, context=None):
        return self.layer(x)


def model_of(*layers: nn.Module) -> SRModel:
    parts = zip(("encoder", "denoiser", "decoder"), map(Whole, layers), strict=True)
    return SRModel(dict(parts), OneStep(), multiple=1, latent_ratio=1.0)


@pytest.mark.parametrize(
    ("weights", "activations", "ratio"),
    [(8, 8, 8 / 32), (6, 6, 6 / 32), (4, 8, 8 / 32), (8, None, 1)],
)
def test_bits_of_quantised_layers(weights, activations, ratio):
    cost = measure(
        model_of(Quantised(3, weights, activations), nn.Identity(), nn.Identity()), (8, 8)
    )
    assert cost.macs_paper == 8 * 8 * 3 * 3
    assert cost.macs_equivalent == cost.macs_paper * ratio
    assert [row.activation_bytes for row in cost.layers if row.component == "encoder"] == [
        4 * 2 * 3 * 64
    ]
    assert cost.params == 9 + 3
    assert cost.param_equivalents == 9 * weights / 32 + 3
    assert cost.bytes == -(-9 * weights // 8) + 3 * 4 + 3 * 4
    assert cost.container_bytes == 9 + 3 * 4 + 3 * 4


def test_shared_tensors_count_once_and_half_precision_counts_half():
    shared = nn.Conv2d(3, 3, 1)
    cost = measure(model_of(shared, nn.Conv2d(3, 3, 1).half(), shared), (8, 8))
    assert cost.params == 24
    assert cost.bytes == 12 * 4 + 12 * 2
    assert cost.macs_paper == 3 * 8 * 8 * 9
    assert cost.param_equivalents == 12 + 6
    assert cost.macs_equivalent == 2.5 * 8 * 8 * 9
    twin = meta_copy(model_of(shared, nn.Identity(), shared))
    assert twin.encoder.layer is twin.decoder.layer
    assert twin.encoder.layer.weight.is_meta


def test_attention_modules_and_memory_layout():
    class Attend(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(3, 1, batch_first=True, bias=False)

        def forward(self, x):
            tokens = x.flatten(2).transpose(1, 2)
            return self.attention(tokens, tokens, tokens)[0].transpose(1, 2).view_as(x)

    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3, bias=False)

        def forward(self, x):  # a layout with which F.linear reaches bmm
            return self.linear(x.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)

    cost = measure(model_of(Attend(), Swapped(), nn.ConvTranspose2d(3, 3, 1)), (4, 4))
    # Only the sum: inside nn.MultiheadAttention linear layers cannot be told from attention on
    # every input.
    assert cost.component("encoder").macs_full == 4 * 16 * 3 * 3 + 2 * 16 * 16 * 3
    assert cost.component("denoiser").macs_paper == cost.component("denoiser").macs_full == 16 * 9
    assert cost.component("decoder").totals()["macs_conv"] == 16 * 9


def test_tables(random_nano):
    cost = measure(random_nano)
    lines = table([("source", cost), ("w8a8", cost)]).splitlines()
    assert lines[0].startswith("after")
    assert lines[2].startswith("source")
    assert lines[3].startswith("w8a8")
    assert f"{cost.macs_paper / 1e9:,.3f}" in lines[2]
    assert len(set(map(len, lines))) == 1
    assert [line.split()[0] for line in component_table(cost).splitlines()[2:]] == [
        "encoder",
        "denoiser",
        "decoder",
        "sum",
    ]


def test_illegal_size_is_a_user_error(random_nano):
    with pytest.raises(UserError, match="multiples of 16"):
        measure(random_nano, (100, 128))
