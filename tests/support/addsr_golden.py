"""AddSR's networks, of any sizes, and those of its golden."""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from support.golden import Golden
from transformers import SwinConfig

from compress.networks.control import control_parts
from compress.networks.image_prompt import (
    PromptedControl,
    PromptedDenoiser,
    add_image_attention,
    prompted_names,
)
from compress.networks.ldm_checkpoint import Part, load_parts
from compress.networks.visual_tokens import VisualTokens, token_tensors

T = 999
SWIN = ("patch_size", "embed_dim", "depths", "num_heads", "window_size")


def unet_of(config: dict, width: int = 512) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(**config)
    add_image_attention(unet, width)
    return unet


def control_of(config: dict, channels: tuple[int, ...], width: int = 512) -> PromptedControl:
    parts = control_parts(config, 4, conditioning_embedding_out_channels=channels)
    control = PromptedControl(parts, T)
    add_image_attention(control, width)
    return control


def addsr_networks(golden: Golden) -> dict[str, Any]:
    """Denoiser, control network and tokens of the golden `addsr_pipeline`, frozen."""
    config = golden.facts["config"]
    unet = unet_of(config["unet"])
    control = control_of(config["unet"], tuple(config["cond_embedding"]))
    for name, network in (("unet", unet), ("controlnet", control)):
        weights = golden.weights(f"{name}.")
        load_parts([Part("", network, prompted_names(network))], weights, name, "AddSR")
    swin = config["dape"]
    with torch.device("meta"):
        sizes = {key: swin[key] for key in SWIN}
        tokens = VisualTokens(SwinConfig(image_size=swin["img_size"], **sizes))
    weights = golden.weights("dape.")
    lora = {name: tensor for name, tensor in weights.items() if ".lora_" in name}
    base = {name: tensor for name, tensor in weights.items() if name not in lora}
    tokens.load_state_dict(token_tensors(tokens, base, lora, "golden"), assign=True)
    found = {"denoiser": PromptedDenoiser(unet, T), "control": control, "tokens": tokens}
    for network in found.values():
        network.eval().requires_grad_(False)
    return found
