"""Dropping blocks of SD 3's transformer: both streams pass, the new last block ends the text."""

import copy

import pytest
import torch
from support.tiny_families import tiny_family

from compress import rank_blocks
from compress.core.errors import UserError
from compress.cost.count import measure
from compress.families.tsdsr import TSDSRSource
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.passes.depth_prune import Annealed, DepthPrune
from compress.passes.strip import Strip
from compress.pruning.depth import JointShortcut

LR = torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(0))
CALIBRATION = {"images": 2, "size": 32}


def dropping(*blocks: str, **options: object) -> DepthPrune:
    return DepthPrune(blocks=blocks, calibration=CALIBRATION, **options)


def silent(model: SRModel, number: int) -> None:
    """Let a block add nothing to either stream."""
    block = model.denoiser.transformer.transformer_blocks[number]
    layers = [block.attn.to_out[0], block.ff.net[2]]
    if block.ff_context is not None:
        layers += [block.attn.to_add_out, block.ff_context.net[2]]
    for layer in layers:
        layer.weight.zero_()
        layer.bias.zero_()


@torch.no_grad()
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("numbers", [(0,), (1,), (2,), (1, 2)])
def test_dropping_blocks_that_do_nothing_changes_nothing(folded, numbers):
    model = tiny_family("tsdsr", autoencoder=False)
    for number in numbers:
        silent(model, number)
    if folded:
        Strip().convert(model)
    before, cost = model.network(LR), measure(model, (32, 32))
    dropping(*(f"transformer_blocks.{number}" for number in numbers)).convert(model)
    torch.testing.assert_close(model.network(LR), before, rtol=1e-4, atol=1e-5)
    assert measure(model, (32, 32)).macs_full < cost.macs_full
    last = model.denoiser.transformer.joint_blocks()[-1]
    assert last.attn.to_add_out is None
    assert last.ff_context is None


@torch.no_grad()
@pytest.mark.parametrize("order", ["fold first", "drop first"])
def test_folding_and_dropping_commute(order):
    model = tiny_family("tsdsr", autoencoder=False).double()
    steps = [Strip(), dropping("transformer_blocks.0", "transformer_blocks.2")]
    for step in steps if order == "fold first" else steps[::-1]:
        step.convert(model)
    other = tiny_family("tsdsr", autoencoder=False).double()
    dropping("transformer_blocks.0", "transformer_blocks.2").convert(other)
    expected = other.network(LR.double())
    assert (model.network(LR.double()) - expected).abs().max() < 1e-12


def test_one_structure_on_meta_and_real_and_its_figures():
    real = tiny_family("tsdsr")
    meta = copy.deepcopy(real).to("meta")
    before = copy.deepcopy(real)
    step = dropping("transformer_blocks.1", "transformer_blocks.2")
    step.convert(meta)
    step.convert(real)
    assert {n: t.shape for n, t in meta.state_dict().items()} == {
        n: t.shape for n, t in real.state_dict().items()
    }
    figures = step.fit(real, FitContext(source=before))
    assert set(figures["shortcut_error"]) == {"transformer_blocks.1", "transformer_blocks.2"}
    assert all(error > 0 for error in figures["shortcut_error"].values())


@torch.no_grad()
def test_dropped_blocks_fade_out():
    model = tiny_family("tsdsr", autoencoder=False)
    whole = copy.deepcopy(model)
    name = "transformer_blocks.1"
    dropping(name).convert(model)
    light = model.denoiser.transformer.get_submodule(name)
    assert isinstance(light, JointShortcut)
    annealed = Annealed([(light, whole.denoiser.transformer.get_submodule(name))])
    with annealed.mixing():
        torch.testing.assert_close(model.network(LR), whole.network(LR))
        annealed.at(1, 2)
        half = model.network(LR)
    without = model.network(LR)
    assert not torch.allclose(half, without)
    assert not torch.allclose(half, whole.network(LR))


@torch.no_grad()
def test_blocks_are_ranked():
    model = tiny_family("tsdsr")
    silent(model, 1)
    rows = rank_blocks.rank(model, [LR])
    assert {name for name, _ in rows} == {f"transformer_blocks.{i}" for i in range(3)}
    assert rows[0][0] == "transformer_blocks.1"
    table = rank_blocks.table(rows, measure(model))
    assert not [line for line in table.splitlines()[1:] if " 0.0" in line]


def test_levels_are_a_unets():
    with pytest.raises(UserError, match="has blocks of one size and no levels"):
        DepthPrune(levels=1).convert(TSDSRSource().build())


@pytest.mark.parametrize("text", ["remove", "constant"])
def test_half_of_the_full_sizes_blocks(text):
    model = TSDSRSource(size="full").build()
    Strip(text=text).convert(model)
    dropping(*(f"transformer_blocks.{i}" for i in range(0, 24, 2))).convert(model)
    found = measure(model).component("denoiser")
    if text == "remove":
        assert found.params == 340_102_720
        assert 386e9 < found.macs_full < 388e9
    assert len(model.denoiser.transformer.joint_blocks()) == 12
