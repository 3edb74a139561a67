"""Depth by gates: masks keep their number, the best blocks are found, structure needs no values."""

import copy

import pytest
import torch
from diffusers import SD3Transformer2DModel
from pydantic import ValidationError
from support.tiny_families import MMDIT, tiny_family

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.families.osediff import OSEDiffSource
from compress.families.tsdsr import TSDSRSource
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.networks.mmdit import MMDiT
from compress.passes.depth_gates import DepthGates
from compress.passes.strip import Strip
from compress.pruning.gates import Gates, gating

CALIBRATION = {"images": 2, "size": 32}


def model_of(blocks: int = 8) -> SRModel:
    """Without text stream, folded."""
    model = tiny_family("tsdsr", autoencoder=False)
    network = MMDiT(SD3Transformer2DModel(**MMDIT | {"num_layers": blocks}))
    network.pos_embed.reset_parameters()
    model.denoiser.transformer = network.requires_grad_(False)
    Strip(text="remove").convert(model)
    return model


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("keep", [1, 2, 3])
def test_every_draw_keeps_as_many_blocks(keep, pairs):
    torch.manual_seed(0)
    gates = Gates(8, 4, keep, pairs)
    drawn = [gates() for _ in range(60)]
    assert all(set(mask.tolist()) <= {0.0, 1.0} for mask in drawn)
    assert {int(mask.sum()) for mask in drawn} == {2 * keep}
    first = {int(mask[:4].sum()) for mask in drawn}
    assert first == ({keep - 1, keep, keep + 1} if pairs else {keep})
    drawn[0][0].backward()
    assert gates.logits.grad.abs().sum() > 0


def test_a_pair_moves_depth_between_its_groups():
    gates = Gates(8, 4, 2, True)
    with torch.no_grad():
        gates.logits[0, 0] = 5.0  # blocks 0 and 1
        gates.logits[0, 1] = 4.0  # blocks 0 and 2
        gates.logits[1, 5] = 5.0  # blocks 6 and 7
        gates.logits[1, 3] = 4.0  # blocks 5 and 6
    expected = {0: [0, 5, 6, 7], 1: [0, 1, 6, 7], 2: [0, 1, 2, 6]}
    for move, blocks in expected.items():
        with torch.no_grad():
            gates.pairs.zero_()[0, move] = 1.0
        assert gates.best() == blocks


@torch.no_grad()
def test_a_block_that_is_off_passes_its_tokens_on():
    model = model_of(4)
    network = model.denoiser.transformer
    latent = torch.randn(1, 4, 8, 8)
    with gating(list(network.transformer_blocks), lambda: torch.tensor([1.0, 0.0, 1.0, 0.0])):
        found = model.denoiser(latent)
    network.transformer_blocks = network.transformer_blocks[::2]
    torch.testing.assert_close(found, model.denoiser(latent))


@pytest.mark.slow
def test_gates_find_the_blocks_that_do_something():
    model = model_of()
    blocks = model.denoiser.transformer.transformer_blocks
    busy = (1, 3, 4, 6)
    for number, block in enumerate(blocks):
        for layer in (block.attn.to_out[0], block.ff.net[2]):
            layer.weight.mul_(3.0 if number in busy else 0.0)
            layer.bias.mul_(0.0)
    source = copy.deepcopy(model)
    step = DepthGates(steps=150, lr=0.2, pairs=False, calibration=CALIBRATION)
    meta = copy.deepcopy(model).to("meta")
    step.convert(meta)
    step.convert(model)
    figures = step.fit(model, FitContext(source=source))
    assert figures["blocks"] == list(busy)
    assert figures["error"] < 1e-9 < figures["first_error"]
    assert figures["last_error"] < figures["first_error"]
    assert {n: t.shape for n, t in meta.state_dict().items()} == {
        n: t.shape for n, t in model.state_dict().items()
    }


def test_half_of_the_full_size():
    model = TSDSRSource(size="full").build()
    Strip(text="remove").convert(model)
    DepthGates().convert(model)
    found = measure(model).component("denoiser")
    assert found.params == 340_102_720
    assert 386e9 < found.macs_full < 388e9


def test_what_it_does_not_take():
    with pytest.raises(ValidationError, match="keep 4 of 4 drops nothing"):
        DepthGates(keep=4)
    with pytest.raises(UserError, match=r"the blocks .* differ, .* list strip with text: remove"):
        DepthGates().convert(TSDSRSource().build())
    model = TSDSRSource().build()
    Strip(text="remove").convert(model)
    with pytest.raises(UserError, match="8 blocks do not divide into groups of 3"):
        DepthGates(group=3).convert(model)
    with pytest.raises(UserError, match="a UNetDenoiser, for which depth_prune is there"):
        DepthGates().convert(OSEDiffSource().build())
