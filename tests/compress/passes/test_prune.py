"""Removing channels: aligned wherever a tensor is used, exact where what goes was dead."""

import copy

import pytest
import torch
from torch import nn

from compress.core.errors import UserError
from compress.data.calibration import calibration_images
from compress.families.osediff import OSEDiffSource
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.passes import PASSES
from compress.pruning.choose import adcsr_groups, aligned_groups, choose
from compress.pruning.cut import cut
from compress.pruning.graph import ChannelGraph, Space
from compress.pruning.networks import channel_graph
from compress.pruning.observe import Moments
from compress.pruning.score import l1_scores

LATENT = OSEDiffSource().latent_channels


def test_choice_by_hand():
    scores = torch.tensor([1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0])
    assert choose(Space(8), 0.5, scores).tolist() == [1, 3, 5, 7]
    assert choose(Space(8), 0.5, None).tolist() == [0, 1, 2, 3]
    assert choose(Space(8, heads=2), 0.5, scores).tolist() == [1, 3, 5, 7]
    assert choose(Space(8, heads=2), 0.5, None).tolist() == [0, 1, 4, 5]
    assert choose(Space(8, fixed=True), 0.5, scores).tolist() == list(range(8))
    # Whole groups of two where that comes out even: sums 10, 10, 10, 10 -> the first of equals.
    assert choose(Space(8, groups=4), 0.5, scores).tolist() == [0, 1, 2, 3]
    assert choose(Space(8, groups=4), 0.5, scores.flip(0) ** 2).tolist() == [4, 5, 6, 7]
    # Groups of three, half of nine is four: neither whole groups nor equal shares, so the best 4.
    assert choose(Space(9, groups=3), 0.5, torch.arange(9.0)).tolist() == [5, 6, 7, 8]
    # Three of four channels in each of two groups.
    assert choose(Space(8, groups=2), 0.75, scores).tolist() == [1, 2, 3, 5, 6, 7]
    assert Space(320, heads=5).kept(0.75) == 240
    assert Space(342).kept(0.75) == 256


def test_group_counts():
    assert [adcsr_groups(n) for n in (240, 480, 960, 720, 84, 35)] == [24, 32, 32, 24, 12, 1]
    space, other = Space(8), Space(8)
    kept = {space: torch.tensor([0, 1, 2, 3]), other: torch.tensor([0, 1, 2, 3])}
    assert aligned_groups([space], kept, 4) == 2  # two of four groups of two are left whole
    assert aligned_groups([space, other], kept, 4) == 2  # groups of four: one of each half is left
    assert (
        aligned_groups([space], {space: torch.tensor([0, 2, 4, 6])}, 2) == 2
    )  # every group lost half


def kill_half_of_the_decoder(model: SRModel) -> None:
    """Let the first half of the channels of every space of the decoder do nothing."""
    graph = channel_graph(model.decoder, "decoder")
    with torch.no_grad():
        for layer, axes in graph.layers.items():
            offset = 0
            for space in axes.outputs:
                dead = 0 if space.fixed else space.size // 2
                layer.weight[offset : offset + dead] = 0
                if layer.bias is not None:
                    layer.bias[offset : offset + dead] = 0
                offset += space.size


@torch.no_grad()
def test_cutting_dead_channels_changes_nothing(random_nano):
    model, latents = random_nano, [torch.randn(1, LATENT, 16, 24), torch.randn(2, LATENT, 8, 8)]
    kill_half_of_the_decoder(model)
    before = [model.decoder(z) for z in latents]
    PASSES["prune"](ratio=0.5, channels="l1", components=("decoder",)).convert(model)
    assert model.decoder.decoder.conv_in.out_channels == 32
    for expected, latent in zip(before, latents, strict=True):
        torch.testing.assert_close(model.decoder(latent), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_heads_and_gates_stay_aligned(random_nano):
    """Only the inside of attentions and feed-forwards is cut, half of it dead: nothing changes."""
    PASSES["strip"]().convert(random_nano)
    unet, latent = random_nano.denoiser.unet, torch.randn(1, LATENT, 16, 16)
    graph = channel_graph(random_nano.denoiser, "denoiser")
    inner = {s for s in graph.spaces() if s.heads > 1} | {
        axes.outputs[0]
        for axes in graph.layers.values()
        if axes.outputs and axes.outputs.count(axes.outputs[0]) == 2
    }
    assert len(inner) > 8
    for layer, axes in graph.layers.items():
        offset = 0
        for space in axes.outputs:
            if space in inner:
                values = layer.value if hasattr(layer, "value") else layer.weight
                head = space.size // space.heads
                dead = (
                    torch.arange(space.size).view(space.heads, head)[:, head // 2 :].flatten()
                    + offset
                )
                values.index_fill_(values.ndim - 1 if hasattr(layer, "value") else 0, dead, 0)
                if getattr(layer, "bias", None) is not None:
                    layer.bias[dead] = 0
            offset += space.size
    for space in graph.spaces():
        space.fixed |= space not in inner
    before = random_nano.denoiser(latent)
    cut(random_nano.denoiser, graph, 0.5, l1_scores(graph).get)
    block = unet.up_blocks[1].attentions[0].transformer_blocks[0]
    assert block.attn1.to_q.out_features == block.attn1.to_q.in_features // 2
    torch.testing.assert_close(random_nano.denoiser(latent), before, rtol=1e-4, atol=1e-5)


def structure(model: SRModel) -> dict:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} | {
        name: m.num_groups for name, m in model.named_modules() if isinstance(m, nn.GroupNorm)
    }


@pytest.mark.slow
# By position, and by what flows. Those by weights differ from the first in their scores alone.
@pytest.mark.parametrize(
    "channels",
    [
        "first",
        "activation",
        pytest.param("dependency", marks=pytest.mark.exhaustive),
        pytest.param("l1", marks=pytest.mark.exhaustive),
    ],
)
def test_one_structure_on_meta_and_real(random_nano, channels):
    options = {"channels": channels, "calibration": {"images": 1, "size": 32}}
    passes = [
        PASSES["strip"](),
        PASSES["decoder_halve"](**options),
        PASSES["prune"](**options),
        PASSES["prune"](**options, components=("encoder",), ratio=0.6),
    ]
    meta = OSEDiffSource().build()
    for step in passes:
        step.convert(meta)
        source = copy.deepcopy(random_nano)
        step.convert(random_nano)
        step.fit(random_nano, FitContext(source=source))
    assert structure(meta) == structure(random_nano)
    assert all(p.is_meta for p in meta.parameters())
    with torch.no_grad():
        assert random_nano(torch.rand(1, 3, 24, 32)).shape == (1, 3, 96, 128)


@torch.no_grad()
def test_compensation_by_hand():
    """Channel 1 is twice channel 0 plus one: without it, a layer can do the same."""
    first = torch.randn(1, 1, 32, 32)
    x = torch.cat([first, 2 * first + 1], dim=1)
    layer = nn.Conv2d(2, 3, 1)
    graph, space = ChannelGraph(), Space(2)
    graph.layer(layer, [space], [Space(3, fixed=True)])
    expected, moments = layer(x), Moments()
    with moments.watching(graph):
        layer(x)
    assert moments.variance(layer).tolist() == pytest.approx(
        [first.var(correction=0).item(), 4 * first.var(correction=0).item()], rel=1e-4
    )
    moments.compensate(layer, torch.tensor([0]))
    narrow = nn.functional.conv2d(first, layer.weight[:, :1], layer.bias)
    torch.testing.assert_close(narrow, expected, rtol=1e-3, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["denoiser", "decoder"])
def test_alignment_beats_first_and_data_beats_both(part):
    """On the nano model, before any training, against the source's output."""
    source = OSEDiffSource()
    model = source.build()
    source.load(model)
    PASSES["strip"]().convert(model)
    images = calibration_images("embedded", 2, 64, seed=99)
    error = {}
    with torch.no_grad():
        expected = [model.network(x) for x in images]
    for channels in ("first", "dependency", "activation"):
        step = PASSES["prune"](channels=channels, components=(part,), calibration={"images": 5})
        pruned = copy.deepcopy(model)
        step.convert(pruned)
        step.fit(pruned, FitContext(source=model, before=lambda name: copy.deepcopy(model)))
        with torch.no_grad():
            error[channels] = sum(
                (pruned.network(x) - y).square().mean().item()
                for x, y in zip(images, expected, strict=True)
            )
    factor = (
        0.5 if part == "decoder" else 1.0
    )  # the nano's UNet adds so little that any choice comes close
    assert error["activation"] < factor * error["dependency"] < factor * error["first"]


def test_mistakes(random_nano):
    PASSES["quantize"](method="minmax").convert(random_nano)
    with pytest.raises(UserError, match="list the passes that prune before"):
        PASSES["prune"]().convert(random_nano)
    model = OSEDiffSource().build()
    PASSES["encoder_swap"]().convert(model)
    with pytest.raises(UserError, match="component 'encoder' is a PixelUnshuffleEncoder"):
        PASSES["prune"](components=("encoder",)).convert(model)
    PASSES["decoder_join"]().convert(model)
    with pytest.raises(UserError, match="conv_in is a Identity"):
        PASSES["decoder_join"]().convert(model)
