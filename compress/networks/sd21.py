"""The architecture of Stable Diffusion 2.1-base, and models made of it."""

from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from compress.model.sr_model import SRModel, Tiling
from compress.networks.latent_diffusion import PromptEncoder, UNetDenoiser, VAEDecoder, VAEEncoder
from compress.networks.sd21_checkpoint import load_sd21
from compress.process.one_step import OneStep

TOKENS = 77
TIMESTEP = 999  # of the one step, the noisiest there is
SD21_UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ),
    "up_block_types": (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    ),
    # diffusers calls the number of heads `attention_head_dim` here.
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
SD21_VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 768,
    "scaling_factor": 0.18215,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
SD21_TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "max_position_embeddings": TOKENS,
    "hidden_act": "gelu",
    "projection_dim": 512,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 1,
}


class SD21Parts(NamedTuple):
    """The networks of SD 2.1-base."""

    text_encoder: PromptEncoder
    unet: UNet2DConditionModel
    vae: AutoencoderKL


def sd21_parts(prompts: int = 1) -> SD21Parts:
    """The networks of SD 2.1-base on the meta device; no weight is read.

    Args:
        prompts: How many constant texts the text encoder has.
    """
    # Takes a second; nano sizes need none.
    from transformers.models.clip import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        return SD21Parts(
            PromptEncoder(
                CLIPTextModel(CLIPTextConfig(**SD21_TEXT)),
                torch.empty(prompts, TOKENS, dtype=torch.int64),
            ),
            UNet2DConditionModel(**SD21_UNET),
            AutoencoderKL(**SD21_VAE),
        )


def build_sd21(colour_fix: str = "adain") -> SRModel:
    """SD 2.1-base as a one-step model in evaluation mode, on the meta device; no weight is read.

    Args:
        colour_fix: The model's colour correction, a key of `compress.process.colour.FIXES`.
    """
    parts = sd21_parts()
    process = OneStep(timestep=TIMESTEP)
    model = SRModel(
        {
            "text_encoder": parts.text_encoder,
            "encoder": VAEEncoder(parts.vae),
            "denoiser": UNetDenoiser(parts.unet, process.timestep),
            "decoder": VAEDecoder(parts.vae),
        },
        process,
        colour_fix=colour_fix,
        tiling=Tiling(),
    )
    return model.eval()


def load_prior(base: str, prompt: str) -> tuple[UNetDenoiser, torch.Tensor]:
    """SD 2.1-base as a prior of training: its frozen UNet, and the context of a prompt.

    Args:
        base: A folder in diffusers' layout, or a hub id.
        prompt: The text.

    Returns:
        The UNet, good at every timestep, and the text context [1, 77, 1024].

    Raises:
        UserError: `base` cannot be read, or `prompt` is too long.
    """
    model = build_sd21()
    load_sd21(model, base, None, prompt)
    model.eval().requires_grad_(False)
    context = model.context()
    denoiser = model.denoiser
    if context is None or not isinstance(denoiser, UNetDenoiser):
        raise TypeError("SD 2.1-base has a text encoder and a UNet")
    return denoiser, context
