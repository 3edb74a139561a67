"""The recorded data flow, and the ends of components found in it."""

from threading import Thread

import pytest
import torch
from torch import nn

from compress.families.adcsr import AdcSRSource
from compress.families.osediff import OSEDiffSource
from compress.families.resshift import ResShiftSource
from compress.passes.strip import Strip
from compress.quant.boundary_layers import find_boundary_layers
from compress.quant.calls import operator_of, paused
from compress.quant.flow import record
from compress.recipe.checkpoint import convert_all

PASSIONSR = {
    "denoiser": ["unet.time_embedding.linear_1", "unet.conv_out"],
    "encoder": ["encoder.conv_out", "quant_conv"],
    "decoder": ["post_quant_conv", "decoder.conv_out"],
}
ENTRANCES = {"denoiser": "unet.conv_in", "encoder": "encoder.conv_in", "decoder": "decoder.conv_in"}


@pytest.mark.parametrize("size", ["nano", "sd21"])
def test_pins_are_those_that_passionsr_names(size):
    flows = record(
        convert_all(OSEDiffSource(size=size), [Strip(text="embedding", timestep="keep")])
    )
    for part, flow in flows.items():
        found = find_boundary_layers(flow)
        assert sorted(found.sensitive) == sorted(PASSIONSR[part])
        assert sorted(found.boundary) == sorted({*PASSIONSR[part], ENTRANCES[part]})


def test_ends_of_another_family():
    flows = record(ResShiftSource().build())
    found = {part: find_boundary_layers(flow) for part, flow in flows.items()}
    assert found["decoder"].sensitive == ["post_quant_conv", "decoder.conv_out"]
    assert "decoder.conv_in" in found["decoder"].boundary
    # The encoder's result goes through a concatenation with the low-resolution image.
    assert found["encoder"].sensitive == ["encoder.conv_out", "quant_conv"]
    assert "unet.input_blocks.0.0" in found["denoiser"].boundary
    assert "unet.time_embed.0" in found["denoiser"].sensitive


def test_joined_components_have_no_ends_between_them():
    flows = record(AdcSRSource().build())
    assert find_boundary_layers(flows["decoder"]).sensitive == ["decoder.conv_out"]


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.GroupNorm(2, 8),
            nn.Conv2d(8, 3, 1),
        )

    def forward(self, x):
        y = self.first(x * 2 - 1)
        return self.second(nn.functional.silu(self.norm(y)) + y / 1.0) * 0.5


def test_who_reads_whom():
    from compress.model.sr_model import SRModel
    from compress.process.direct import Direct

    class Same(nn.Module):
        def forward(self, x, context):
            return x

    parts = {"encoder": Toy(), "denoiser": Same(), "decoder": nn.Identity()}
    flow = record(SRModel(parts, Direct()), ("encoder",))["encoder"]
    nodes = {node.name: node for node in flow.nodes if not node.inside}
    assert list(nodes) == [
        "mul",
        "sub",
        "first",
        "norm.group_norm",
        "silu",
        "add",
        "second",
        "mul_2",
    ]
    assert nodes["mul"].scalar
    assert nodes["sub"].inputs == [nodes["mul"]]
    assert nodes["mul"].inputs == [flow.source]
    assert {n.name for n in nodes["first"].consumers if not n.inside} == {
        "norm.group_norm",
        "add",
    }  # y / 1 is a move
    assert nodes["mul_2"].is_output
    assert not nodes["second"].is_output


def test_paused_functions_are_no_operators():
    x = torch.zeros(2, 3)
    assert operator_of(torch.add, (x, x), {}) == "add"
    with paused():
        with paused():
            assert operator_of(torch.add, (x, x), {}) is None
        assert operator_of(torch.add, (x, x), {}) is None
    assert operator_of(torch.add, (x, x), {}) == "add"
    assert operator_of(torch.add, (torch.zeros(3), 1.0), {}) is None  # a vector is no map


def test_a_pause_is_not_seen_by_another_thread():
    x = torch.zeros(2, 3)
    seen = []
    with paused():
        thread = Thread(target=lambda: seen.append(operator_of(torch.add, (x, x), {})))
        thread.start()
        thread.join()
    assert seen == ["add"]
