"""InvSR's networks together: a training step of the authors, its latents, losses, gradients."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from support.golden import Golden

from compress.networks.latent_diffusion import SampledEncoder, UNetDenoiser
from compress.networks.latent_judge import LARGEST, LatentJudge
from compress.networks.noise_predictor import NoisePredictor, PredictorConfig
from compress.training.adversarial import HINGE, discriminator_loss, generator_loss
from compress.training.inversion import clean_of, noised_start

STEPS = 199


@pytest.fixture(scope="module")
def golden(shared) -> Golden:
    return Golden(shared / "golden", "invsr_losses")


@pytest.fixture(scope="module")
def networks(shared) -> dict[str, Any]:
    pipeline = Golden(shared / "golden", "invsr_pipeline")
    config = pipeline.facts["config"]
    sizes = config["predictor"]
    predictor = NoisePredictor(
        PredictorConfig(
            channels=tuple(sizes["block_out_channels"]),
            layers=sizes["layers_per_block"][0],
            head_channels=sizes["attention_head_dim"],
            time_channels=sizes["temb_channels"],
            groups=sizes["norm_num_groups"],
        )
    )
    predictor.load_state_dict(pipeline.weights("predictor."))
    unet = UNet2DConditionModel(**config["unet"])
    unet.load_state_dict(pipeline.weights("unet."))
    vae = AutoencoderKL(**config["vae"])
    vae.load_state_dict(pipeline.weights("vae."))
    judged = Golden(shared / "golden", "invsr_discriminator")
    shape = judged.facts["config"]
    kept = [key for key in shape if key != "projection_class_embeddings_input_dim"]
    judge = LatentJudge({key: shape[key] for key in kept if not key.startswith("mid_block")})
    judge.load_state_dict(judged.weights())
    denoiser, encoder = UNetDenoiser(unet, STEPS), SampledEncoder(vae)
    for frozen in (denoiser, encoder):
        frozen.eval().requires_grad_(False)
    return {"predictor": predictor, "denoiser": denoiser, "encoder": encoder, "judge": judge}


@pytest.fixture(scope="module")
def clean(golden, networks) -> dict[str, torch.Tensor]:
    """The latent at the step, and the clean one that the UNet makes of it."""
    lq, context, t = (golden[f"inputs.{k}"] for k in ("lq", "prompt_embeds", "timesteps"))
    start = networks["encoder"](lq, golden["inputs.noise_vae"])
    noise = golden["inputs.noise_predictor"]
    state = noised_start(networks["predictor"], lq, start, noise, t)
    return {"z_t": state, "z0_pred": clean_of(networks["denoiser"], state, t, context)}


def judged(golden: Golden, networks: dict[str, Any], latent: torch.Tensor) -> tuple:
    return networks["judge"](latent, golden["inputs.prompt_embeds"], golden["inputs.timesteps"])


def mean_of_maps(maps: list[torch.Tensor]) -> torch.Tensor:
    """One value for each sample."""
    return torch.stack([map_.mean(dim=(1, 2, 3)) for map_ in maps]).mean(dim=0)


def test_latents_losses_and_gradients_of_the_predictor(golden, networks, clean):
    for name, latent in clean.items():
        golden.check(latent.detach(), name)
    target, found = golden["inputs.gt_latent"], clean["z0_pred"]
    squared = (found - target).square().mean(dim=(1, 2, 3))
    pooled = (F.avg_pool2d(found, 2) - F.avg_pool2d(target, 2)).abs().mean(dim=(1, 2, 3))
    logits = judged(golden, networks, found.clamp(-LARGEST, LARGEST))
    adversarial = -mean_of_maps(list(logits))
    torch.testing.assert_close(generator_loss(HINGE, logits, logits), adversarial.mean())
    weights = golden.facts["config"]["loss_coef"]
    terms = {
        "ldif": weights["ldif"] * squared,
        "llpips": weights["llpips"] * pooled,  # stands in for the latent LPIPS
        "ldis": weights["ldis"] * adversarial,
    }
    for name, term in terms.items():
        golden.check(term.detach(), name)
    loss = sum(terms.values())
    golden.check(loss.detach(), "loss")
    parameters = dict(networks["predictor"].named_parameters())
    names = list(golden.under("outputs.grad."))
    gradients = torch.autograd.grad(
        loss.mean(), [parameters[name] for name in names], retain_graph=True
    )
    for name, gradient in zip(names, gradients, strict=True):
        golden.check(gradient, f"grad.{name}")


def test_loss_and_gradients_of_the_discriminator(golden, networks, clean):
    fake = clean["z0_pred"].detach().clamp(-LARGEST, LARGEST)
    of_fake = [F.relu(1 + map_) for map_ in judged(golden, networks, fake)]
    of_real = [F.relu(1 - map_) for map_ in judged(golden, networks, golden["inputs.gt_latent"])]
    loss = 0.5 * (mean_of_maps(of_fake) + mean_of_maps(of_real))
    golden.check(loss.detach(), "d_loss")
    of_both = (judged(golden, networks, x) for x in (golden["inputs.gt_latent"], fake))
    torch.testing.assert_close(discriminator_loss(HINGE, *of_both), loss.mean())
    parameters = dict(networks["judge"].named_parameters())
    names = list(golden.under("outputs.d_grad."))
    gradients = torch.autograd.grad(loss.mean(), [parameters[name] for name in names])
    for name, gradient in zip(names, gradients, strict=True):
        golden.check(gradient, f"d_grad.{name}")
