"""Pruning SD 3's transformer: whole heads in both streams, hidden channels, never a token's."""

import copy

import pytest
import torch
from support.tiny_families import tiny_family

from compress.cost.count import measure
from compress.families.tsdsr import TSDSRSource
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.passes.depth_prune import DepthPrune
from compress.passes.prune import Prune
from compress.passes.strip import Strip

LR = torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(0))
CALIBRATION = {"images": 2, "size": 32}


def pruning(channels: str = "activation", ratio: float = 0.5) -> Prune:
    return Prune(ratio=ratio, channels=channels, calibration=CALIBRATION)


def blocks(model: SRModel) -> list:
    return model.denoiser.transformer.joint_blocks()


@torch.no_grad()
@pytest.mark.parametrize("channels", ["first", "dependency", "l1", "activation"])
@pytest.mark.parametrize("before", [[], [Strip()], [Strip(text="remove")]], ids=len)
def test_half_of_heads_and_hidden_channels(channels, before):
    model = tiny_family("tsdsr")
    for step in before:
        step.convert(model)
    meta, source = copy.deepcopy(model).to("meta"), copy.deepcopy(model)
    width = blocks(model)[0].attn.to_q.in_features
    step = pruning(channels)
    step.convert(meta)
    step.convert(model)
    step.fit(model, FitContext(source=source, before=lambda _: copy.deepcopy(source)))
    assert {n: t.shape for n, t in meta.state_dict().items()} == {
        n: t.shape for n, t in model.state_dict().items()
    }
    for block in blocks(model):
        assert (block.attn.heads, block.attn.to_out[0].in_features) == (1, 8)
        assert block.attn.to_out[0].out_features == width
        assert block.ff.net[2].in_features == 2 * width
    assert model.network(LR).isfinite().all()


@torch.no_grad()
def test_a_head_that_nothing_reads_goes_and_nothing_changes():
    """The other head stays as it is, with its scores, in both streams."""
    model = tiny_family("tsdsr", autoencoder=False)
    Strip().convert(model)
    for block in blocks(model):
        for layer in (block.attn.to_out[0], block.attn.to_add_out):
            if layer is not None:
                layer.weight[:, :8] = 0
        for feed_forward in (block.ff, block.ff_context):
            if feed_forward is not None:
                feed_forward.net[2].weight[:, ::2] = 0
    before, source = model.network(LR), copy.deepcopy(model)
    step = pruning()
    step.convert(model)
    step.fit(model, FitContext(source=source, before=lambda _: copy.deepcopy(source)))
    torch.testing.assert_close(model.network(LR), before, rtol=1e-4, atol=1e-5)
    assert measure(model, (32, 32)).macs_full < measure(source, (32, 32)).macs_full


@torch.no_grad()
def test_sd35s_second_attention_is_cut_too():
    model = TSDSRSource(size="full", model="sd35").build()
    pruning("dependency").convert(model)
    first, last = blocks(model)[0], blocks(model)[-1]
    assert (first.attn.heads, first.attn2.heads, last.attn.heads) == (12, 12, 12)
    measure(model, (32, 32))


def test_after_depth_prune():
    model = tiny_family("tsdsr")
    DepthPrune(blocks=("transformer_blocks.1",)).convert(model)
    pruning("dependency").convert(model)
    assert [block.attn.heads for block in blocks(model)] == [1, 1]
