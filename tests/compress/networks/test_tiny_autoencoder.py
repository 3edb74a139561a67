"""Tiny autoencoders: the arithmetic of diffusers, published files, and the passes about them."""

import copy

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from support.tiny_model import tiny

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.data.config import Calibration
from compress.families.osediff import OSEDiffSource
from compress.model.passes import FitContext
from compress.networks.tiny_autoencoder import TinyDecoder, TinyEncoder, read_tiny
from compress.passes.quantize import Quantize
from compress.recipe.checkpoint import convert_all, parse_pass

TAESD = {"pass": "decoder_light", "size": "taesd"}
ENCODER = {"pass": "encoder_light", "kind": "taesd"}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Random values under the authors' names in two files, under diffusers' in a folder."""
    folder = tmp_path_factory.mktemp("taesd")
    torch.manual_seed(0)
    theirs = AutoencoderTiny().eval()
    for half, shift in (("decoder", 1), ("encoder", 0)):
        tensors = {}
        for name, value in getattr(theirs, half).layers.state_dict().items():
            place, _, rest = name.partition(".")
            tensors[f"{int(place) + shift}.{rest}"] = value.to(torch.bfloat16)
            value.copy_(value.to(torch.bfloat16))
        save_file(tensors, folder / f"{half}.safetensors")
    theirs.save_pretrained(folder / "both")
    return folder, theirs


@torch.no_grad()
@pytest.mark.parametrize("half", ["decoder", "encoder"])
@pytest.mark.parametrize("form", ["authors'", "diffusers'"])
def test_it_computes_what_diffusers_does(published, half, form):
    folder, theirs = published
    ours = TinyDecoder() if half == "decoder" else TinyEncoder(8)
    read_tiny(ours, str(folder / (f"{half}.safetensors" if form == "authors'" else "both")), "x")
    x = torch.rand(1, 3, 32, 32)
    if half == "encoder":
        torch.testing.assert_close(ours(x), theirs.encode(x * 2 - 1).latents)
        return
    latent = 4 * torch.randn(1, 4, 4, 4)
    wanted = theirs.decode(latent).sample / 2 + 0.5
    torch.testing.assert_close(ours(latent), wanted)
    torch.testing.assert_close(ours.tail(ours.features(latent)), wanted)


def test_another_file_is_refused(published):
    folder, _ = published
    with pytest.raises(UserError, match="does not exist"):
        read_tiny(TinyDecoder(), "none.safetensors", "weights")
    with pytest.raises(UserError, match="a tiny autoencoder's decoder"):
        read_tiny(TinyDecoder(), str(folder / "encoder.safetensors"), "weights")


def test_the_swap_needs_no_training(published):
    folder, _ = published
    step = parse_pass({**TAESD, "weights": str(folder / "decoder.safetensors"), "steps": 0}, "test")
    model = tiny()
    before = copy.deepcopy(model)
    step.convert(model)
    assert step.fit(model, FitContext(before)) == {}
    wanted = TinyDecoder()
    read_tiny(wanted, str(folder / "decoder.safetensors"), "x")
    latent = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(model.decoder(latent), wanted(latent))
    assert step.data_key() != parse_pass({**TAESD, "steps": 0}, "test").data_key()


def test_it_is_tuned_on_the_models_latents(published, tmp_path):
    folder, _ = published
    options = {"steps": 2, "batch": 1, "crop": 64, "precision": "fp32"}
    file = str(folder / "decoder.safetensors")
    step = parse_pass({**TAESD, "weights": file, **options}, "test")
    model = tiny()
    before = copy.deepcopy(model)
    step.convert(model)
    context = FitContext(before, before=lambda _: copy.deepcopy(before), workdir=tmp_path)
    log = step.fit(model, context)["log"]
    assert {"feature", "l1"} <= log[-1].keys()
    untouched = TinyDecoder()
    read_tiny(untouched, file, "x")
    assert not torch.equal(untouched.layers[0].weight, model.decoder.layers[0].weight)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_encoder_as_well(published):
    folder, _ = published
    step = parse_pass({**ENCODER, "weights": str(folder / "both")}, "test")
    model = tiny()
    step.convert(model)
    step.fit(model, FitContext(model))
    assert model.encoder(torch.rand(1, 3, 16, 24)).shape == (1, 4, 8, 12)
    assert model(torch.rand(1, 3, 16, 16)).shape == (1, 3, 64, 64)


@torch.no_grad()
def test_it_is_quantised(published):
    folder, _ = published
    swap = parse_pass({**TAESD, "weights": str(folder / "decoder.safetensors"), "steps": 0}, "test")
    model = tiny()
    swap.convert(model)
    swap.fit(model, FitContext(model))
    before = copy.deepcopy(model)
    calibration = Calibration(images=2, size=16)
    step = Quantize(
        method="minmax", placement="full", components=("decoder",), calibration=calibration
    )
    step.convert(model)
    figures = step.fit(model, FitContext(before))
    assert figures["float_operators"] == {"decoder": {}}
    latent = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    wanted = before.decoder(latent)
    error = (model.decoder(latent) - wanted).square().mean() / wanted.square().mean()
    assert 0 < error < 0.01


def test_its_size():
    steps = [parse_pass({**TAESD, "steps": 0}, "test"), parse_pass(ENCODER, "test")]
    cost = measure(convert_all(OSEDiffSource(size="sd21"), steps), (32, 32))
    assert cost.component("decoder").params == 1_222_531
    assert cost.component("encoder").params == 1_222_532


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "taesd", "widths": [64, 32], "blocks": [1, 1]}, "one width on all levels"),
        ({"size": "nano", "weights": "x"}, "set kind: taesd"),
    ],
)
def test_what_does_not_fit_together(options, said):
    with pytest.raises(UserError, match=said):
        parse_pass({"pass": "decoder_light", "steps": 0, **options}, "test")
    with pytest.raises(UserError, match="set kind: taesd"):
        parse_pass({"pass": "encoder_light", "weights": "x"}, "test")


@torch.no_grad()
def test_the_real_one_loads_strictly(shared):
    decoder, encoder = TinyDecoder(), TinyEncoder(8)
    read_tiny(decoder, str(shared / "weights" / "taesd" / "taesd_decoder.safetensors"), "x")
    read_tiny(encoder, str(shared / "weights" / "taesd" / "taesd_encoder.safetensors"), "x")
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    assert (decoder(encoder(ramp)) - ramp).abs().mean() < 0.03


@torch.no_grad()
def test_the_real_one_makes_the_images_of_diffusers(shared):
    folder = shared / "weights" / "taesd"
    theirs = AutoencoderTiny().eval()
    for half, shift in (("decoder", 1), ("encoder", 0)):
        tensors = {}
        for name, value in load_file(folder / f"taesd_{half}.safetensors").items():
            place, _, rest = name.partition(".")
            tensors[f"{int(place) - shift}.{rest}"] = value.float()
        getattr(theirs, half).layers.load_state_dict(tensors)
    decoder, encoder = TinyDecoder(), TinyEncoder(8)
    read_tiny(decoder, str(folder / "taesd_decoder.safetensors"), "x")
    read_tiny(encoder, str(folder / "taesd_encoder.safetensors"), "x")
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64)
    wanted = theirs.decode(theirs.encode(image * 2 - 1).latents).sample / 2 + 0.5
    torch.testing.assert_close(decoder(encoder(image)), wanted)
