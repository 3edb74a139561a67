"""A pipeline of diffusers as a source, and a compressed model in the manner of its pipelines."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from huggingface_hub import ModelCard
from PIL import Image
from support.hub import forget, fresh, serving
from support.sd_folder import TOKENS, save_pipeline
from transformers import CLIPTextModel, CLIPTokenizer

from compress import api
from compress.core.errors import UserError
from compress.diffusion import SRPipeline
from compress.families.diffusers_pipeline import DiffusersSource
from compress.model.passes import FitContext
from compress.passes.strip import Strip
from compress.process.resample import upsample
from compress.recipe.checkpoint import convert_all, parse_pass, read_header, save_model

TIMESTEP = 500
QUANTIZE = {
    "pass": "quantize",
    "method": "minmax",
    "weights": 8,
    "activations": 8,
    "calibration": {"images": 1, "size": 32},
}


@pytest.fixture(scope="module", params=["epsilon", "v_prediction", "sample"])
def prediction(request):
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory, prediction):
    return save_pipeline(tmp_path_factory.mktemp("pipeline") / "tiny", prediction, levels=4)


@pytest.fixture(scope="module")
def pipe(folder):
    """What DiffusionPipeline.from_pretrained gives, without the seconds that its import takes."""
    return SimpleNamespace(
        unet=UNet2DConditionModel.from_pretrained(folder, subfolder="unet"),
        vae=AutoencoderKL.from_pretrained(folder, subfolder="vae"),
        text_encoder=CLIPTextModel.from_pretrained(folder, subfolder="text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"),
        scheduler=DDPMScheduler.from_pretrained(folder, subfolder="scheduler"),
    )


def loaded(source):
    model = source.build()
    assert all(value.is_meta for value in model.state_dict().values())
    source.load(model)
    return model


@torch.no_grad()
def by_hand(pipe, prediction, lr):
    """One step of diffusers' own modules."""
    latent = pipe.vae.encode(upsample(lr) * 2 - 1).latent_dist.mean * 0.18215
    ids = pipe.tokenizer("", padding="max_length", max_length=TOKENS, return_tensors="pt").input_ids
    made = pipe.unet(latent, TIMESTEP, pipe.text_encoder(ids)[0]).sample
    alpha_bar = pipe.scheduler.alphas_cumprod[TIMESTEP]
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    clean = {
        "epsilon": (latent - noise * made) / signal,
        "v_prediction": signal * latent - noise * made,
        "sample": made,
    }[prediction]
    return pipe.vae.decode(clean / 0.18215).sample * 0.5 + 0.5


def test_folder_and_object_are_one_step_of_the_pipeline(folder, pipe, prediction):
    lr = torch.rand(1, 3, 16, 16)
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    of_folder = loaded(DiffusersSource(pipeline=str(folder), timestep=TIMESTEP))
    of_object = loaded(DiffusersSource.of(pipe, timestep=TIMESTEP))
    expected = by_hand(pipe, prediction, lr)
    for model in (of_folder, of_object):
        torch.testing.assert_close(model.network(lr), expected, rtol=1e-4, atol=1e-4)
    of_object.denoiser.unet.conv_in.weight.data.zero_()
    assert all(value.equal(before[name]) for name, value in pipe.unet.state_dict().items())


def test_a_saved_model_needs_no_folder(tmp_path):
    folder = save_pipeline(tmp_path / "pipeline", levels=4)
    source = DiffusersSource(pipeline=str(folder), timestep=TIMESTEP)
    model = loaded(source)
    step = parse_pass(QUANTIZE, "a test")
    step.convert(model)
    step.fit(model, FitContext(source=loaded(source)))
    save_model(model, tmp_path / "model.safetensors", source, [step])
    again, _ = read_header(tmp_path / "model.safetensors")
    assert again.pipeline is None
    lr = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(api.load(tmp_path / "model.safetensors")(lr), model(lr))


def test_identity_is_that_of_the_weights(folder, pipe):
    one, other = DiffusersSource.of(pipe), DiffusersSource.of(pipe)
    assert one.data_key() == other.data_key()
    assert len(one.data_key()) == 3 * 64
    files = DiffusersSource(pipeline=str(folder)).data_key()
    assert "diffusion_pytorch_model.safetensors" in files


def test_passes_act_on_it(folder):
    source = DiffusersSource(pipeline=str(folder))
    model = convert_all(source, [Strip(text="constant", timestep="fold")])
    assert model.denoiser.context is None


@pytest.mark.parametrize(
    ("timestep", "signal", "noise"), [(273, 0.79733, 0.60354), (200, 0.86815, 0.49629)]
)
def test_other_one_step_models_are_settings(tmp_path, timestep, signal, noise):
    """OMGSR-S runs its UNet at 273 and HYPIR at 200: z0 = (z - noise * eps) / signal."""
    folder = save_pipeline(tmp_path / "pipeline", levels=4)
    file = folder / "scheduler" / "scheduler_config.json"
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    file.write_text(json.dumps(json.loads(file.read_text()) | betas))
    process = DiffusersSource(pipeline=str(folder), timestep=timestep).build().process
    assert process.factors["latent"] == pytest.approx(1 / signal, rel=1e-5)
    assert process.factors["prediction"] == pytest.approx(-noise / signal, rel=1e-5)


@torch.no_grad()
def test_a_prediction_that_no_scheduler_says(tmp_path):
    """PiSA-SR's UNet predicts what the latent has more than the clean one."""
    folder = save_pipeline(tmp_path / "pipeline", levels=4)
    source = DiffusersSource(pipeline=str(folder), timestep=1, prediction="residual")
    model = loaded(source)
    latent = torch.randn(1, 4, 8, 8)
    clean = model.process.restore(latent, lambda state: 0.25 * state)
    torch.testing.assert_close(clean, 0.75 * latent)
    assert source.saved().prediction == "residual"
    assert DiffusersSource(pipeline=str(folder)).saved().prediction == "epsilon"


@pytest.mark.parametrize(
    ("part", "key", "value", "why"),
    [
        ("unet", "_class_name", "UNet2DModel", "its unet is a UNet2DModel"),
        ("vae", "_class_name", "VQModel", "its vae is a VQModel"),
        ("unet", "in_channels", 7, "reads 7 channels and its latent has 4"),
    ],
)
def test_pipelines_of_another_kind(tmp_path, part, key, value, why):
    folder = save_pipeline(tmp_path / "other")
    file = folder / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(UserError, match=why):
        DiffusersSource(pipeline=str(folder)).build()


def test_no_pipeline(tmp_path):
    with pytest.raises(UserError, match="names no pipeline"):
        DiffusersSource().build()
    with pytest.raises(UserError, match="neither a folder nor a hub id"):
        DiffusersSource(pipeline=str(tmp_path / "nothing")).build()


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """A pipeline of ours."""
    place = save_pipeline(tmp_path_factory.mktemp("ours") / "tiny", levels=4)
    source = DiffusersSource(pipeline=str(place), timestep=TIMESTEP)
    return SRPipeline(loaded(source), source)


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8))


def test_a_call_gives_what_upscale_gives(ours, image):
    [made] = ours(image).images
    assert made.size == (80, 64)
    np.testing.assert_array_equal(np.asarray(made), api.upscale(ours.model, image))
    assert ours(image, return_dict=False)[0][0].size == (80, 64)


def test_kinds_of_output(ours, image):
    pixels = np.asarray(ours(image).images[0])
    batch = ours([image, image], output_type="np").images
    assert batch.shape == (2, 64, 80, 3)
    np.testing.assert_array_equal(np.rint(batch[1] * 255), pixels)
    tensor = ours(torch.rand(2, 3, 16, 16), output_type="pt").images
    assert tensor.shape == (2, 3, 64, 64)
    with pytest.raises(UserError, match="choose one of pil, np, pt"):
        ours(image, output_type="latent")
    with pytest.raises(UserError, match="several sizes"):
        ours([image, image.resize((16, 16))], output_type="np")


def test_round_trip(ours, image, tmp_path):
    ours.save_pretrained(tmp_path / "saved")
    again = SRPipeline.from_pretrained(tmp_path / "saved").to("cpu")
    pair = [np.asarray(pipe(image).images[0], dtype=int) for pipe in (ours, again)]
    assert np.abs(pair[0] - pair[1]).max() <= 1  # what sums in another order make of a byte
    again.save_pretrained(tmp_path / "twice")
    first, second = (tmp_path / name / "model.safetensors" for name in ("saved", "twice"))
    assert first.read_bytes() == second.read_bytes()
    assert (again.device.type, again.dtype) == ("cpu", torch.float32)
    assert list(again.components) == ["encoder", "denoiser", "decoder"]


def test_what_is_not_ours_is_not_overwritten(ours, tmp_path):
    ours.save_pretrained(tmp_path / "saved")
    ours.save_pretrained(tmp_path / "saved")
    mine = tmp_path / "mine" / "model.safetensors"
    mine.parent.mkdir()
    mine.write_text("precious")
    with pytest.raises(UserError, match="was not written by this toolkit"):
        ours.save_pretrained(mine.parent)
    assert mine.read_text() == "precious"
    with pytest.raises(UserError, match="is a file; give a folder"):
        ours.save_pretrained(mine)
    (tmp_path / "saved" / "ledger.json").write_text("{}")
    with pytest.raises(UserError, match="is a run directory"):
        ours.save_pretrained(tmp_path / "saved")


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ("nonsense", "is no device"),
        ("cuda:99", "no usable GPU|no such number"),
        (torch.float16, "compute in float32"),
    ],
)
def test_devices_that_are_not_there(ours, device, why):
    with pytest.raises(UserError, match=why):
        ours.to(device)


@pytest.mark.parametrize(
    ("images", "why"), [(None, "is a NoneType"), ([3], "is a int"), ([], "list of images is empty")]
)
def test_what_is_no_photograph(ours, images, why):
    with pytest.raises(UserError, match=why):
        ours(images)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving() as server:
        fresh(monkeypatch, server.address, tmp_path / "hub")
        yield server
    forget()


def test_pushed_and_loaded_by_its_name(hub, ours, image, tmp_path):
    address = ours.push_to_hub("org/tiny", license="mit", datasets=["org/photos"])
    commit, files = hub.files("models", "org/tiny", "main")
    assert address == f"{hub.address}/org/tiny/commit/{commit}"
    assert sorted(files) == ["README.md", "model.safetensors"]
    again = SRPipeline.from_pretrained("org/tiny", revision=commit)
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == files["model.safetensors"]
    ours.push_to_hub("org/tiny", license="mit")
    assert len(hub.repos["models", "org/tiny"]) > 1


def test_the_card_of_a_pipeline(ours):
    card = ModelCard(str(ours.generate_model_card("org/tiny", "mit", "org/large", ["org/photos"])))
    assert (card.data.license, card.data.base_model) == ("mit", "org/large")
    assert (card.data.pipeline_tag, card.data.datasets) == ("image-to-image", ["org/photos"])
    assert 'SRPipeline.from_pretrained("org/tiny")' in card.text
    assert "family: diffusers_pipeline" in card.text


def test_a_push_that_cannot_be(hub, ours, tmp_path):
    with pytest.raises(UserError, match="terms of its source's weights are not recorded here"):
        ours.push_to_hub("org/tiny")
    with pytest.raises(UserError, match="names no repository"):
        ours.push_to_hub("tiny", license="mit")
    assert hub.asked == []
    hub.broken = 503
    with pytest.raises(UserError, match="the hub took nothing"):
        ours.push_to_hub("org/tiny", license="mit")
    with pytest.raises(UserError, match="is a path or has a revision of its own"):
        SRPipeline.from_pretrained(tmp_path, revision="main")
