"""The bidirectional pass: the function stays, whatever the noise, and what is new can learn."""

import copy

import pytest
import torch
from bench.random_weights import randomise

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.families.osediff import OSEDiffSource
from compress.model.passes import FitContext
from compress.passes import PASSES
from compress.process.bidirectional import Bidirectional
from compress.recipe.checkpoint import convert_all, load_model, parse_pass, save_model

SOURCE = OSEDiffSource()


def bidirectional(**options):
    return parse_pass({"pass": "bidirectional", **options}, "test")


@pytest.fixture
def model():
    built = SOURCE.build()
    SOURCE.load(built)
    return built


@torch.no_grad()
@pytest.mark.parametrize(
    "options", [{}, {"mean": False}, {"variance": False}, {"sigma": 0.9, "sigma_min": 0.2}]
)
def test_the_function_is_preserved(model, options):
    lr = torch.rand(2, 3, 32, 48)
    before = model.network(lr)
    bidirectional(**options).convert(model)
    torch.testing.assert_close(model.network(lr), before, rtol=1e-4, atol=2e-5)
    model.process.noise = torch.randn_like(model.process.noise) * 3
    torch.testing.assert_close(model.network(lr), before, rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_an_encoder_at_full_scale_needs_the_gain(random_nano):
    """OSEDiff's own encoder emits the latent itself and not the signal inside z_t."""
    random_nano.encoder.signal, lr = 1.0, torch.rand(1, 3, 32, 32)
    before = random_nano.clean_latent(random_nano.encoder(lr))
    bidirectional().convert(random_nano)
    assert random_nano.denoiser.gain == pytest.approx(14.65, abs=0.01)
    torch.testing.assert_close(
        random_nano.clean_latent(random_nano.encoder(lr)), before, rtol=1e-4, atol=1e-3
    )


@torch.no_grad()
def test_what_the_parts_emit(model):
    lr, clean = (
        torch.rand(1, 3, 32, 32),
        model.encoder.clean(torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0))),
    )
    emitted = model.encoder(lr) / model.encoder.signal
    bidirectional(sigma=0.5).convert(model)
    mean, sigma = model.process.moments(model.encoder(lr))
    torch.testing.assert_close(mean, emitted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sigma, torch.full_like(sigma, 0.5))
    torch.testing.assert_close(
        model.encoder.clean(torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0))),
        clean,
        rtol=1e-4,
        atol=1e-5,
    )
    conv = model.denoiser.unet.conv_in
    assert conv.in_channels == 24
    assert not conv.weight[:, :12].any()
    assert conv.weight[:, 12:].any()
    assert isinstance(model.process, Bidirectional)
    assert model.process.noise.std() > 0.5


@pytest.mark.slow
def test_the_new_input_and_the_variance_learn(model, tmp_path):
    before = copy.deepcopy(model)
    bidirectional().convert(model)
    conv, logvar = model.denoiser.unet.conv_in, model.encoder.quant_conv
    step = parse_pass(
        {
            "pass": "distill",
            "stage": "student",
            "losses": {"l1": 1.0},
            "target": "hr",
            "steps": 2,
            "batch": 1,
            "crop": 64,
            "precision": "fp32",
            "train": ["denoiser.*", "encoder.*"],
            "lr": 1e-3,
            "ema": 0.0,
        },
        "test",
    )
    start = logvar.weight[4:].detach().clone()
    step.fit(model, FitContext(source=before, workdir=tmp_path))
    assert conv.weight[:, :4].abs().sum() > 0
    # sigma_L gets a gradient once z_T is used, from the second step on.
    assert not torch.equal(logvar.weight[4:], start)


@pytest.mark.slow
def test_meta_and_saved_models_have_the_same_structure(tmp_path):
    steps = [bidirectional(sigma=0.2), PASSES["strip"]()]
    real = randomise(SOURCE.build())
    for step in steps:
        step.convert(real)
    meta = convert_all(SOURCE, steps)
    assert {k: tuple(v.shape) for k, v in meta.state_dict().items()} == {
        k: tuple(v.shape) for k, v in real.state_dict().items()
    }
    assert measure(meta, (64, 64)).totals() == measure(real, (64, 64)).totals()
    save_model(real, tmp_path / "model.safetensors", SOURCE, steps)
    lr = torch.rand(1, 3, 24, 40)
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path / "model.safetensors")(lr), real(lr))


def test_full_size_plans():
    model = OSEDiffSource(size="sd21").build()
    before = sum(p.numel() for p in model.parameters())
    bidirectional().convert(model)
    assert sum(p.numel() for p in model.parameters()) == before + 4 * 9 * 320
    assert model.denoiser.gain == pytest.approx(14.65, abs=0.01)


def test_mistakes(model):
    for first, said in (
        ("encoder_swap", "needs a VAE encoder"),
        ("bidirectional", "list it first"),
        ("quantize", "conv_in is a QuantConv2d"),
    ):
        other = SOURCE.build()
        PASSES[first]().convert(other)
        with pytest.raises(UserError, match=said):
            bidirectional().convert(other)
    with pytest.raises(UserError, match="sigma"):
        bidirectional(sigma=0)
    bidirectional().convert(model := SOURCE.build())
    for later in ("encoder_swap", "decoder_join"):
        with pytest.raises(UserError, match="leave the pass out"):
            PASSES[later]().convert(model)
