"""Copies of a source's UNet that train by LoRA (arXiv 2106.09685), placed as OSEDiff does (arXiv 2406.08177)."""

import copy

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from compress.core.errors import UserError
from compress.networks.latent_diffusion import UNetDenoiser
from compress.networks.osediff_file import LORA_ALPHA

ADAPTER = "default"


def lora_modules(unet: nn.Module) -> list[str]:
    """Names of all plain convolutions and linear layers but those of the time embedding: 258 in SD 2.1."""
    return [
        name
        for name, module in unet.named_modules()
        if type(module) in (nn.Conv2d, nn.Linear) and "time_emb" not in name
    ]


def add_lora(unet: nn.Module, rank: int) -> None:
    """Put LoRA of `rank` on every layer of `lora_modules`, in place. It starts as the identity (B = 0)."""
    names = lora_modules(unet)
    if not names:
        raise UserError(
            "LoRA needs a plain convolution or linear layer and the UNet has none left; build it from "
            "the source model, before the passes that replace layers"
        )
    config = LoraConfig(
        r=rank, lora_alpha=LORA_ALPHA, target_modules=names, init_lora_weights="gaussian"
    )
    inject_adapter_in_model(config, unet, ADAPTER)


def _cross_attentions(unet: nn.Module) -> list[Attention]:
    """Those that still project a prompt: not removed, and not folded to constants."""
    return [
        m
        for m in unet.modules()
        if isinstance(m, Attention) and m.is_cross_attention and isinstance(m.to_k, nn.Linear)
    ]


def takes_prompt(unet: nn.Module) -> bool:
    """Whether the output depends on `encoder_hidden_states`."""
    return bool(_cross_attentions(unet))


def check_prompt(unet: nn.Module, context: torch.Tensor | None, user: str) -> None:
    """Raise UserError unless `context` [1, tokens, dim] fits the cross-attention that `unet` has."""
    for attention in _cross_attentions(unet):
        if context is None:
            raise UserError(
                f"{user}: the UNet takes a text context and none is given; pass the source's, "
                "model.context()"
            )
        if context.shape[-1] != attention.to_k.in_features:
            raise UserError(
                f"{user}: the text context has {context.shape[-1]} features, the UNet takes "
                f"{attention.to_k.in_features}; encode it with the source's own text encoder"
            )


class AdaptedUNet(nn.Module):
    """Base of what judges or scores with a UNet: `denoiser` is a frozen deep copy of a source's.

    A subclass alters the copy, calls `add_lora`, names further parts that train in full in `trained`, and ends its
    constructor with `requires_grad_(True)`. `context` [1, tokens, dim] replaces the denoiser's own if given.
    Raises UserError for a denoiser that is no UNet, that lacks its prompt, or, with `any_timestep`, that has one
    timestep folded in.
    """

    trained: tuple[str, ...] = ()  # prefixes of parameter names, besides LoRA

    def __init__(self, denoiser: UNetDenoiser, context: torch.Tensor | None, any_timestep: bool):
        super().__init__()
        user = type(self).__name__
        if not isinstance(denoiser, UNetDenoiser):
            raise UserError(
                f"{user}: the denoiser is a {type(denoiser).__name__}, only a UNet at a fixed timestep "
                "can be adapted; build it from the source model"
            )
        if any_timestep and not isinstance(denoiser.unet.time_embedding, TimestepEmbedding):
            raise UserError(
                f"{user}: the UNet's timestep is folded into its biases, but others are needed; build it "
                "from the source model, before the strip pass"
            )
        context = denoiser.context if context is None else context
        check_prompt(denoiser.unet, context, user)
        self.denoiser = copy.deepcopy(denoiser)
        self.denoiser.context = None if context is None else nn.Parameter(context.detach().clone())
        super().requires_grad_(False)

    @property
    def unet(self) -> UNet2DConditionModel:
        return self.denoiser.unet

    def predict(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None
    ) -> torch.Tensor:
        """The UNet's output for `noisy` [B, C, h, w] at `timesteps` [B] and `context` [1, tokens, dim], in its type."""
        if context is not None:
            context = context.expand(noisy.shape[0], -1, -1)
        noisy = noisy.to(self.unet.dtype)
        return self.unet(noisy, timesteps, encoder_hidden_states=context, return_dict=False)[0]

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What an optimiser gets, whether or not it is switched off at the moment."""
        return [
            p
            for name, p in self.named_parameters()
            if ".lora_" in name or name.startswith(self.trained)
        ]

    def requires_grad_(self, requires_grad: bool = True) -> "AdaptedUNet":
        """Switch the trained parameters alone: a training loop may switch off and on, the copy stays frozen."""
        for parameter in self.trainable_parameters():
            parameter.requires_grad_(requires_grad)
        return self
