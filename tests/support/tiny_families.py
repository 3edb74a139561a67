"""The wirings of Stable Diffusion's families around the smallest networks of their types.

A graph costs by its nodes, so each network has as few blocks as its class allows.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from support.tiny_model import small_context, small_unet, small_vae
from torch import nn
from transformers import SwinConfig

from compress.families.addsr import Networks, addsr_model
from compress.families.invsr import invsr_model
from compress.families.tsdsr import tsdsr_model
from compress.model.sr_model import SRModel
from compress.networks.control import (
    AddedControl,
    ControlledDenoiser,
    JoinedControl,
    control_parts,
    split_hint,
)
from compress.networks.controlled import controlled_model
from compress.networks.image_prompt import PromptedControl, add_image_attention
from compress.networks.latent_diffusion import (
    ClampedEncoder,
    ImageEncoder,
    UNetDenoiser,
    VAEDecoder,
    VAEEncoder,
)
from compress.networks.mmdit import ConstantPrompt, MMDiT, MMDiTDenoiser
from compress.networks.noise_maps import NoiseMaps
from compress.networks.noise_predictor import NoisePredictor, PredictorConfig
from compress.networks.rrdbnet import RRDBConfig, RRDBNet
from compress.networks.visual_tokens import VisualTokens
from compress.process.epsilon_chains import ADDSR_TIMESTEPS
from compress.process.linear_steps import LinearSteps
from compress.process.noise import draws
from compress.process.one_step import OneStep
from compress.process.self_refined import self_refined
from compress.process.shift_solver import START, shift_solver
from compress.process.truncated_chains import leading_chain

VAE = (8, 8, 8, 8)  # widths of autoencoders
TOKEN = 8  # width of an image token
PREDICTOR = PredictorConfig(
    channels=(8, 16),
    layers=1,
    attention=(True, False),
    head_channels=8,
    time_channels=16,
    groups=4,
)
MMDIT: dict[str, Any] = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 10,
    "pos_embed_max_size": 64,
}
SWIN: dict[str, Any] = {
    "image_size": 24,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1],
    "num_heads": [2],
    "window_size": 6,
}


class OneConvolution(nn.Sequential):
    """In the place of an autoencoder's half: from images to latents, or back.

    Args:
        down: Pixels of the image by those of the latent; 0 for the way back.
    """

    def __init__(self, down: int):
        if down:
            super().__init__(nn.Conv2d(3, 4, down, stride=down))
        else:
            super().__init__(nn.Conv2d(4, 192, 3, padding=1), nn.PixelShuffle(8))


def tiny_family(name: str, steps: int = 1, autoencoder: bool = True) -> SRModel:
    """A model with random weights.

    Args:
        name: A key of `MODELS`.
        steps: Calls of the networks of a step.
        autoencoder: Whether it has one. Else a convolution takes the place of each half.
    """
    torch.manual_seed(0)
    model = MODELS[name](steps)
    if not autoencoder:
        for call in model.wiring.calls:
            part = getattr(model, call.component)
            if isinstance(part, VAEEncoder):
                down = 8 if isinstance(part, ImageEncoder) else 2
                setattr(model, call.component, OneConvolution(down))
        model.decoder = OneConvolution(0)
    for module in model.modules():
        if isinstance(module, NoiseMaps):
            module.reset_parameters()
        # ControlNet's last convolutions begin as zeros, under which a chain would not see it.
        if isinstance(module, nn.Conv2d) and not module.weight.any():
            module.reset_parameters()
    return model.eval().requires_grad_(False)


def _dfosd(_steps: int) -> SRModel:
    process = OneStep(399)
    parts = {
        "encoder": VAEEncoder(small_vae(*VAE)),
        "denoiser": UNetDenoiser(small_unet(), process.timestep, small_context()),
        "decoder": VAEDecoder(small_vae(*VAE)),
    }
    return SRModel(parts, process)


def _invsr(steps: int) -> SRModel:
    listed = (200, 100)[:steps]
    first = listed[0] - 1
    return invsr_model(
        {
            "noise_predictor": NoisePredictor(PREDICTOR, float(first)),
            "encoder": VAEEncoder(small_vae(*VAE)),
            "denoiser": UNetDenoiser(small_unet(), first, small_context()),
            "decoder": VAEDecoder(small_vae(*VAE)),
        },
        listed,
    )


def _ccsr(steps: int) -> SRModel:
    process = leading_chain(1) if steps == 1 else leading_chain(6, 0.6667, 0.5)
    unet = small_unet()
    context = small_context()
    control = AddedControl(_control_parts(unet, 4), process.timesteps[0], context)
    return controlled_model(_controlled(unet, control, context, process), process)


def _dossr(steps: int) -> SRModel:
    process = shift_solver(steps, 3)
    unet = small_unet()
    context = small_context()
    control = JoinedControl(_control_parts(unet, 8), START, context)
    parts = _controlled(unet, control, context, process)
    before = {
        "preprocessor": RRDBNet(RRDBConfig(channels=8, blocks=1, growth=4)),
        "condition_encoder": ImageEncoder(small_vae(*VAE)),
    }
    parts["encoder"] = ImageEncoder(small_vae(*VAE))
    return controlled_model({**before, **parts}, process, colour_fix="wavelet")


def _addsr(steps: int) -> SRModel:
    unet = small_unet()
    context = small_context()
    parts = _control_parts(unet, 4, conditioning_embedding_out_channels=(4, 4, 4, 4))
    control = PromptedControl(parts, ADDSR_TIMESTEPS[0], context)
    for network in (unet, control):
        add_image_attention(network, TOKEN)
    tokens = VisualTokens(SwinConfig(**SWIN), TOKEN)
    process = self_refined(ADDSR_TIMESTEPS[:steps])
    networks = Networks(unet, small_vae(*VAE), control, tokens)
    return addsr_model({"noise": NoiseMaps(steps)}, networks, process)


def _tsdsr(_steps: int) -> SRModel:
    network = MMDiT(SD3Transformer2DModel(**MMDIT))
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.bias, std=0.1)
    network.pos_embed.reset_parameters()
    prompt = ConstantPrompt(5, MMDIT["joint_attention_dim"], MMDIT["pooled_projection_dim"])
    prompt.reset_parameters()
    parts = {
        "text_encoder": prompt,
        "encoder": ClampedEncoder(small_vae(*VAE)),
        "denoiser": MMDiTDenoiser(network, 1000.0),
        "decoder": VAEDecoder(small_vae(*VAE)),
    }
    return tsdsr_model(parts)


MODELS: dict[str, Callable[[int], SRModel]] = {
    "dfosd": _dfosd,
    "invsr": _invsr,
    "ccsr": _ccsr,
    "addsr": _addsr,
    "dossr": _dossr,
    "tsdsr": _tsdsr,
}


def _control_parts(unet: UNet2DConditionModel, channels: int, **options: Any) -> Any:
    return control_parts(unet.config, channels, **options)


def _controlled(
    unet: UNet2DConditionModel, control: Any, context: nn.Parameter, process: LinearSteps
) -> dict[str, nn.Module | None]:
    hint, hinted = split_hint(control)
    return {
        "noise": NoiseMaps(len(draws(process.inputs))),
        "encoder": VAEEncoder(small_vae(*VAE)),
        "hint": hint,
        "control": hinted,
        "denoiser": ControlledDenoiser(unet, control.timestep, context),
        "decoder": VAEDecoder(small_vae(*VAE)),
    }
