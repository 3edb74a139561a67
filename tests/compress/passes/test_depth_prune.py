"""Dropping blocks: skips stay consistent, stand-ins are the best, blocks fade out."""

import copy

import pytest
import torch
from bench.random_weights import randomise
from pydantic import ValidationError

from compress import rank_blocks
from compress.core.errors import UserError
from compress.cost.count import measure
from compress.data.calibration import calibration_images
from compress.families.adcsr import ASSET, AdcSRSource
from compress.families.osediff import OSEDiffSource
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.passes import PASSES
from compress.passes.depth_prune import Annealed
from compress.pruning.depth import (
    DeepLevels,
    MiddleShortcut,
    Shortcut,
    candidates,
    fold_levels,
)
from compress.pruning.importance import importances
from compress.pruning.shortcut_fit import BlockMoments
from compress.recipe.checkpoint import parse_pass
from compress.training import distillation as fit

CALIBRATION = {"images": 2, "size": 32}


def depth_prune(**options):
    return parse_pass({"pass": "depth_prune", "calibration": CALIBRATION, **options}, "test")


def shapes(model: SRModel) -> dict:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def loaded(source):
    model = source.build()
    source.load(model)
    return model


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 3])
def test_folding_levels_changes_nothing(random_nano, count):
    latent = torch.randn(2, 12, 16, 24)
    before = random_nano.denoiser(latent)
    fold_levels(random_nano.denoiser.unet, count)
    assert isinstance(random_nano.denoiser.unet.mid_block, DeepLevels)
    assert len(random_nano.denoiser.unet.up_blocks) == 4 - count
    torch.testing.assert_close(random_nano.denoiser(latent), before, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_dropping_blocks_that_do_nothing_changes_nothing(random_nano):
    """With its last convolution or projection 0, what is left of a block is the shortcut."""
    names = [
        "down_blocks.1.resnets.0",
        "down_blocks.1.attentions.0",
        "mid_block.resnets.1",
        "up_blocks.2.resnets.1",
        "up_blocks.2.attentions.0",
    ]
    for name in names:
        block = random_nano.denoiser.unet.get_submodule(name)
        last = block.proj_out if "attentions" in name else block.conv2
        last.weight.zero_()
        last.bias.zero_()
    lr = torch.rand(1, 3, 32, 48)
    before, cost = random_nano.network(lr), measure(random_nano, (32, 32))
    depth_prune(blocks=names).convert(random_nano)
    torch.testing.assert_close(random_nano.network(lr), before, rtol=1e-4, atol=1e-5)
    assert measure(random_nano, (32, 32)).macs_full < cost.macs_full


BLOCKS = ["down_blocks.2.*", "up_blocks.1.resnets.1", "mid_block.attentions.0"]


@pytest.mark.parametrize(
    ("source", "options"),
    [
        pytest.param(AdcSRSource(), {"blocks": BLOCKS}, id="adcsr-blocks"),
        pytest.param(OSEDiffSource(), {"blocks": ["mid_block"]}, id="osediff-middle"),
        pytest.param(OSEDiffSource(), {"levels": 1}, id="osediff-level"),
        pytest.param(
            AdcSRSource(), {"levels": 2, "blocks": ["up_blocks.1.resnets.0"]}, id="adcsr-both"
        ),
    ],
)
def test_one_structure_on_meta_and_real(source, options):
    step = depth_prune(**options)
    meta, real = source.build(), randomise(source.build())
    before = copy.deepcopy(real)
    step.convert(meta)
    step.convert(real)
    figures = step.fit(real, FitContext(source=before))
    assert shapes(meta) == shapes(real)
    assert all(p.is_meta for p in meta.parameters())
    assert measure(meta, (32, 32)).totals() == measure(real, (32, 32)).totals()
    assert sum(p.numel() for p in meta.parameters()) < sum(p.numel() for p in before.parameters())
    assert set(figures["shortcut_error"]) == set(figures["dropped"])
    assert figures["images"] == 2
    with torch.no_grad():
        assert real(torch.rand(1, 3, 24, 40)).shape == (1, 3, 96, 160)


def test_a_level_of_the_full_size_goes_with_its_exact_parameters():
    model = OSEDiffSource(size="sd21").build()
    unet = model.denoiser.unet
    gone = [
        unet.down_blocks[3],
        unet.mid_block,
        unet.up_blocks[0],
        unet.down_blocks[2].downsamplers,
    ]
    expected = measure(model).component("denoiser").params - sum(
        p.numel() for m in gone for p in m.parameters()
    )
    depth_prune(levels=1).convert(model)
    assert (
        measure(model).component("denoiser").params == expected
    )  # 1280 channels on both sides: no convolution
    assert isinstance(unet.mid_block, MiddleShortcut)
    assert unet.mid_block.resnets[0].conv_shortcut is None
    depth_prune(levels=1).convert(model)  # the next level, as a second pass
    assert len(unet.down_blocks) == 2
    assert unet.mid_block.resnets[0].conv_shortcut.weight.shape == (
        1280,
        640,
        1,
        1,
    )
    assert measure(model).component("denoiser").params < expected


def test_least_squares_by_hand():
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mix = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 3.0]])
    y = torch.einsum("oc,bchw->bohw", mix, x) + torch.tensor([0.5, -2.0])[:, None, None]
    moments = BlockMoments()
    moments.add(x[:1], y[:1])
    moments.add(x[1:], y[1:])
    weight = moments.least_squares()
    torch.testing.assert_close(
        weight.float(), torch.cat([mix.T, torch.tensor([[0.5, -2.0]])]), rtol=1e-3, atol=1e-3
    )
    assert moments.error(weight) < 1e-6
    constant = torch.zeros(4, 2, dtype=torch.float64)
    constant[3] = y.double().mean((0, 2, 3))
    assert moments.error(constant) == pytest.approx(1.0)


@torch.no_grad()
def test_fit_is_nearer_than_the_start():
    source = OSEDiffSource()
    model, names = loaded(source), ["up_blocks.2.resnets.0", "down_blocks.1.resnets.0"]
    before, step = copy.deepcopy(model), depth_prune(blocks=names)
    image = calibration_images("embedded", 1, 32, 0)[0]
    want = before.network(image)
    step.convert(model)
    start = (model.network(image) - want).square().mean()
    figures = step.fit(model, FitContext(source=before))
    assert (model.network(image) - want).square().mean() < start
    assert all(0 < e < 1 for e in figures["shortcut_error"].values())


@torch.no_grad()
def test_mixing_by_hand():
    light, heavy = Shortcut(2, 2, None), Shortcut(2, 2, torch.nn.Conv2d(2, 2, 1))
    annealed, x = Annealed([(light, heavy)]), torch.randn(1, 2, 4, 4)
    annealed.at(0, 8)
    with annealed.mixing():
        torch.testing.assert_close(light(x), heavy(x))
        annealed.at(6, 8)
        torch.testing.assert_close(light(x), 0.25 * heavy(x) + 0.75 * x)
        annealed.at(8, 8)
        assert torch.equal(light(x), x)
    annealed.at(0, 8)
    assert torch.equal(light(x), x)


def test_annealing_starts_from_the_whole_model_and_ends_without_the_blocks(tmp_path, monkeypatch):
    source = OSEDiffSource()
    teacher, seen = loaded(source), []
    model, before = copy.deepcopy(teacher), copy.deepcopy(teacher)
    training = {
        "stage": "student",
        "losses": {"l1": 1.0},
        "steps": 4,
        "batch": 1,
        "crop": 64,
        "precision": "fp32",
        "train": ["denoiser.*"],
        "accumulate": 2,
        "lr": 1e-4,
    }
    step = depth_prune(blocks=["up_blocks.2.*"], levels=1, anneal=2, training=training)
    step.convert(model)
    real = fit.Distillation.forward

    def forward(self, hr, index):
        found = real(self, hr, index)
        seen.append(found[0]["l1"].item())
        return found

    monkeypatch.setattr(fit.Distillation, "forward", forward)
    figures = step.fit(
        model,
        FitContext(source=teacher, before=lambda name: copy.deepcopy(before), workdir=tmp_path),
    )
    assert len(seen) == 8
    assert seen[0] < 1e-5
    assert seen[1] < 1e-5
    assert seen[2] > 1e-3
    assert figures["anneal"] == 2
    assert figures["steps"] == 4
    assert len(figures["dropped"]) == 3
    assert shapes(model).keys() == model.state_dict().keys()
    assert not any("heavy" in n for n in model.state_dict())
    assert not any(m._forward_hooks for m in model.modules())


def test_importance_ranks_a_dead_block_last(random_nano, capsys):
    model = random_nano
    unet = model.denoiser.unet
    with torch.no_grad():
        unet.up_blocks[3].resnets[1].conv2.weight.zero_()
        unet.up_blocks[3].resnets[1].conv2.bias.zero_()
    image = calibration_images("embedded", 1, 32, 0)
    found = importances(unet, lambda: [model.network(x) for x in image])
    assert found.keys() == candidates(unet).keys()
    assert "mid_block" in found
    assert (
        found["up_blocks.3.resnets.1"]
        < 1e-9
        < min(v for k, v in found.items() if k != "up_blocks.3.resnets.1")
    )
    assert not any(m._forward_hooks for m in unet.modules())
    with pytest.raises(SystemExit) as ended:
        rank_blocks.main([str(ASSET), "--images", "1", "--size", "32"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    assert "blocks: [" in printed
    assert "up_blocks.3.resnets.1" in printed


def test_drop_takes_the_first_of_the_list():
    unet = OSEDiffSource().build().denoiser.unet
    order = ["up_blocks.3.resnets.1", "mid_block.attentions.0", "down_blocks.0.resnets.0"]
    assert depth_prune(blocks=order, drop=2).chosen(unet) == order[:2]
    assert depth_prune(blocks=[*order, "mid_block"]).chosen(unet) == [
        order[0],
        order[2],
        "mid_block",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "nothing to drop"),
        ({"drop": 2}, "rank_blocks"),
        ({"levels": 1, "anneal": 5}, "anneal 5 must be below"),
        ({"block": ["mid_block"]}, "unknown key.*did you mean 'blocks'"),
    ],
)
def test_mistakes_in_the_config(options, said):
    with pytest.raises((UserError, ValidationError), match=said):
        depth_prune(**options)


def test_mistakes_against_the_model():
    model = OSEDiffSource().build()
    for options, said in (
        ({"blocks": ["up_blocks.7.*"]}, "matches no block"),
        ({"levels": 4}, "choose 0 to 3"),
        ({"blocks": ["mid_block"], "drop": 2}, "drop 2 of the 1 blocks"),
        ({"blocks": ["mid_block"], "levels": 1}, "matches no block that levels leaves"),
    ):
        with pytest.raises(UserError, match=said):
            depth_prune(**options).convert(copy.deepcopy(model))
    PASSES["quantize"](weights=8, activations=8).convert(model)
    with pytest.raises(UserError, match="not a plain convolution"):
        depth_prune(blocks=["up_blocks.2.resnets.0"]).convert(model)


def test_prune_comes_first():
    model = OSEDiffSource().build()
    for step in (PASSES["strip"](), depth_prune(blocks=["up_blocks.1.resnets.0"])):
        step.convert(model)
    with pytest.raises(UserError, match="list prune before depth_prune"):
        PASSES["prune"](ratio=0.5, components=("denoiser",)).convert(model)


def test_quantize_and_distill_follow():
    model = OSEDiffSource().build()
    for step in (
        PASSES["strip"](),
        depth_prune(levels=1, blocks=["up_blocks.1.resnets.0"]),
        PASSES["quantize"](weights=8, activations=8),
    ):
        step.convert(model)
    assert measure(model, (64, 64)).param_equivalents > 0
