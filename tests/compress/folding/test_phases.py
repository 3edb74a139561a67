"""Enlargement by phases.

The same images for fewer products, and clear sentences where it cannot be.
"""

import copy

import pytest
import torch
from diffusers.models.upsampling import Upsample2D
from torch import nn

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.families.osediff import OSEDiffSource
from compress.families.resshift import ResShiftSource
from compress.folding.phases import PhaseUpsample
from compress.networks.vq_autoencoder import Upsample
from compress.passes.prune import Prune
from compress.passes.quantize import Quantize
from compress.passes.strip import Strip


@pytest.mark.parametrize("sides", [(1, 1), (5, 8)])
@pytest.mark.parametrize(
    "make", [lambda: Upsample2D(6, use_conv=True, out_channels=10), lambda: Upsample(6)]
)
def test_a_layer_gives_the_same_map_borders_included(make, sides):
    torch.manual_seed(0)
    before = make().double()
    x = torch.randn(2, 6, *sides, dtype=torch.float64)
    after = PhaseUpsample(before.conv)
    torch.testing.assert_close(after(x), before(x), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="doubles"):
        after(x, (7, 9))


@pytest.mark.slow
@pytest.mark.parametrize("source", [OSEDiffSource(), ResShiftSource(model="sinsr")])
def test_a_model_gives_the_same_image_for_fewer_products(source):
    before = source.build()
    source.load(before)
    after = copy.deepcopy(before)
    Strip(text="keep", timestep="keep", upsample="phases").convert(after)
    lr = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(after.network(lr), before.network(lr), rtol=0, atol=2e-5)
    cost, cheaper = measure(before), measure(after)
    was = {layer.name: layer for layer in cost.layers}
    changed = [
        (was[layer.name], layer)
        for layer in cheaper.layers
        if layer.macs_conv != was[layer.name].macs_conv
    ]
    assert changed
    assert cost.macs_paper - cheaper.macs_paper == sum(
        a.macs_conv - b.macs_conv for a, b in changed
    )
    for old, new in changed:
        assert (
            4 / 9 < new.macs_conv / old.macs_conv < 0.6
        )  # a frame of the small map comes on top of 4/9


def test_full_size_in_numbers():
    """SD 2.1's three enlargements of the decoder at 128 -> 512, and the three of the UNet."""
    model = OSEDiffSource(size="sd21").build()
    before = measure(model).macs_paper
    Strip(text="keep", timestep="keep", upsample="phases").convert(model)
    widths = {
        (512, 64),
        (512, 128),
        (256, 256),
        (1280, 8),
        (1280, 16),
        (640, 32),
    }  # channels, small side
    assert before - measure(model).macs_paper == sum(
        channels**2 * (36 * side**2 - 16 * (side + 1) ** 2) for channels, side in widths
    )


def test_order_of_passes():
    model = OSEDiffSource().build()
    Strip(upsample="phases").convert(model)
    Strip(upsample="phases").convert(model)  # nothing left to do
    assert sum(isinstance(m, PhaseUpsample) for m in model.modules()) == 6
    with pytest.raises(UserError, match=r"phases.*list prune before"):
        Prune(ratio=0.5, components=("decoder",)).convert(model)
    model = OSEDiffSource().build()
    Quantize(weights=8, activations=8).convert(model)
    with pytest.raises(UserError, match=r"QuantConv2d.*list strip before"):
        Strip(text="keep", timestep="keep", upsample="phases").convert(model)


def test_nothing_to_enlarge():
    model = OSEDiffSource().build()
    for module in list(model.modules()):
        if isinstance(module, Upsample2D):
            module.__class__ = nn.Identity
    with pytest.raises(UserError, match=r"no enlargement.*upsample: keep"):
        Strip(text="keep", timestep="keep", upsample="phases").convert(model)
