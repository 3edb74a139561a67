"""Models of other parts than encoder, denoiser and decoder: calls, tiles, counts, ranges."""

from copy import deepcopy

import pytest
import torch
from support.parted_model import PROCESS, REFERENCE, WIRING, C, parted, save_parted
from torch import nn

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.data.config import Calibration
from compress.families import FAMILIES
from compress.model.calls import Call, Wiring, map_ratios
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.passes.encoder_swap import EncoderSwap
from compress.passes.prune import Prune
from compress.passes.quantize import Quantize
from compress.process.linear_steps import LinearSteps, Row
from compress.process.one_step import OneStep
from compress.recipe.checkpoint import load_model, save_model

NAMES = (
    "preprocessor",
    "reference_encoder",
    "encoder",
    "noise_predictor",
    "control",
    "denoiser",
    "decoder",
)


@pytest.fixture(scope="module")
def model() -> SRModel:
    return parted()


def images(height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    lr = torch.rand(1, 3, height, width, generator=generator)
    return lr, {"reference": torch.rand(1, 3, *REFERENCE, generator=generator)}


def by_hand(model: SRModel, lr: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The whole model written out."""
    clear = model.preprocessor(lr)
    features = model.reference_encoder(reference)
    latent = model.encoder(clear)
    state = latent + 0.5 * model.noise_predictor(clear)
    first: torch.Tensor | float = 0.0  # the prediction of the first step
    for t, (a, b, c, d) in ((399, (0.6, 0.3, -0.2, 0.0)), (199, (0.9, 0.0, -0.3, 0.1))):
        timestep = torch.tensor([t])
        high, low = model.control(state, timestep, clear)
        prediction = model.denoiser(state, timestep, high, low, features)
        state = a * state + b * latent + c * prediction + d * first
        first = prediction
    return model.decoder(state)


def test_the_calls_are_the_model(model):
    lr, others = images(16, 24)
    expected = by_hand(model, lr, others["reference"])
    assert torch.allclose(model.network(lr, others), expected, atol=1e-6)
    assert [name for name, _ in model.components()] == list(NAMES)


def test_an_image_in_tiles_is_the_whole_image(model):
    lr, others = images(90, 75)
    tiled = model(lr, images=others)
    whole = deepcopy(model)
    whole.tiling = type(model.tiling)(tile=96, margin=8)
    # Convolutions see 3 pixels at most beyond a tile's border, where its weight is nearly 0.
    assert (tiled - whole(lr, images=others)).abs().max() < 1e-3
    assert tiled.shape == (1, 3, 360, 300)


def test_further_images_are_checked(model):
    lr, others = images(16, 16)
    with pytest.raises(UserError, match="also takes the image 'reference'; give it"):
        model(lr)
    with pytest.raises(UserError, match="has 8x8 pixels and this model takes 32x24"):
        model(lr, images={"reference": torch.rand(1, 3, 8, 8)})
    with pytest.raises(UserError, match="takes no image 'mask'"):
        model(lr, images={**others, "mask": lr})


def test_counts_follow_the_calls(model):
    cost = measure(model, (16, 24))
    assert list(cost.components()) == list(NAMES)
    latent, pixels = 8 * 12, 16 * 24
    once = latent * 9 * C * C + C  # a Timed
    assert cost.component("control").macs_paper == 2 * (
        latent * 27 * C + once + latent // 4 * 9 * C * C
    )
    assert cost.component("denoiser").macs_paper == 2 * (once + C * C + latent * 9 * C * C)
    assert cost.component("preprocessor").macs_paper == pixels * 81
    assert cost.component("reference_encoder").macs_paper == 24 * 32 * 27 * C
    assert cost.params == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"method": "minmax"}, 30),
        ({"method": "minmax", "placement": "full"}, 25),
        ({"method": "passionsr", "epochs": 1}, 30),
        ({"method": "passionsr", "epochs": 1, "order": "backward", "polish": 1}, 30),
    ],
)
def test_every_component_is_quantised(model, options, limit):
    found = deepcopy(model)
    step = Quantize(components=NAMES, calibration=Calibration(images=3, size=32), **options)
    step.convert(found)
    figures = step.fit(found, FitContext(source=model))
    assert set(NAMES) <= set(figures)
    assert figures["control"]["layers"] == 4
    lr, others = images(32, 32)
    with torch.no_grad():
        error = (found(lr, images=others) - model(lr, images=others)).square().mean()
    assert -10 * error.log10() > limit


def test_a_file_loads_alone(model, tmp_path, monkeypatch):
    source = save_parted(model, tmp_path / "source.safetensors")
    monkeypatch.setitem(FAMILIES, "parted", type(source))
    step = Quantize(method="minmax", components=NAMES, calibration=Calibration(images=2, size=32))
    found = deepcopy(model)
    step.convert(found)
    step.fit(found, FitContext(source=model))
    save_model(found, tmp_path / "model.safetensors", source, [step])
    lr, others = images(20, 20)
    again = load_model(tmp_path / "model.safetensors")
    assert torch.equal(again(lr, images=others), found(lr, images=others))
    assert "control.hint.weight_q" in again.state_dict()


def test_passes_say_which_components_there_are(model):
    with pytest.raises(UserError, match=r"no encodr \(did you mean 'encoder'\?\); its components"):
        Quantize(components=["encodr"]).convert(deepcopy(model))
    with pytest.raises(UserError, match=r"'encoder_swap': needs a UNet.*the denoiser a Denoiser"):
        EncoderSwap().convert(deepcopy(model))
    with pytest.raises(UserError, match="pass 'prune': components: this model has no unet"):
        Prune(components=["unet"]).convert(deepcopy(model))


STEP = Call("denoiser", ("state",), ("prediction",), each_step=True)
LAST = Call("decoder", ("clean_latent",), ("image",))


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ((STEP, LAST, Call("late", ("clean",), ("x",))), "late reads clean, which nothing made"),
        ((Call("early", ("clean_latent",), ("x",)), STEP), "or none after it the image"),
        ((Call("encoder", ("state",), ("x",)), STEP, LAST), "encoder reads state"),
        ((Call("encoder", ("lr",), ("lr",)), STEP, LAST), "makes lr a second time"),
        (
            (Call("denoiser", ("state",), ("x",), each_step=True), LAST),
            "no call of a step makes the prediction",
        ),
    ],
)
def test_calls_that_cannot_be(calls, said):
    with pytest.raises(ValueError, match=said):
        Wiring(calls, map_ratios(0.5))


def test_a_component_must_be_called():
    with pytest.raises(ValueError, match="component encodr is never called"):
        SRModel({"encodr": nn.Identity()}, OneStep())


def test_what_there_is_before_a_component():
    assert WIRING.names_before("noise_predictor") == {
        "lr",
        "reference",
        "clear_lr",
        "features",
        "latent",
    }
    assert WIRING.names_before("control") == WIRING.names_before("denoiser")
    assert "clean_latent" in WIRING.names_before("decoder")
    assert WIRING.read_by_steps() == ("clear_lr", "features")


def test_linear_steps_of_one_step_are_one_sum():
    process = LinearSteps(
        {"latent": 2.0, "noise": 3.0},
        (Row(9, {"state": 0.5, "prediction": 7.0}),),
        ("latent", "noise"),
    )
    latent, noise = torch.rand(2, 1, 4, 3, 3)
    found = process.restore(latent, lambda state: state.square(), noise)
    factors = process.factors
    prediction = (2 * latent + 3 * noise).square()
    assert factors == {"prediction": 7.0, "latent": 1.0, "noise": 1.5}
    assert torch.allclose(found, 7 * prediction + latent + 1.5 * noise)
    assert PROCESS.factors is None
