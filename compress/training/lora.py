"""Copies of a source's UNet that train by LoRA (arXiv 2106.09685).

The layers that have LoRA are those of OSEDiff (arXiv 2406.08177).
"""

import copy

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from compress.core.errors import UserError
from compress.networks.image_prompt import image_modules
from compress.networks.latent_diffusion import UNetDenoiser
from compress.networks.osediff_file import LORA_ALPHA

ADAPTER = "default"


def lora_modules(unet: nn.Module) -> list[str]:
    """Names of the layers of `unet` that learn by LoRA: 258 in SD 2.1.

    They are all plain convolutions and linear layers but those of the time embedding.
    """
    return [
        name
        for name, module in unet.named_modules()
        if type(module) in (nn.Conv2d, nn.Linear) and "time_emb" not in name
    ]


def add_lora(unet: nn.Module, rank: int, alpha: float = LORA_ALPHA) -> None:
    """Put LoRA on every layer of `lora_modules`, in place.

    It starts as the identity (B = 0).

    Args:
        unet: The network.
        rank: Of the pairs.
        alpha: They count alpha / rank.

    Raises:
        UserError: No such layer is left.
    """
    names = lora_modules(unet)
    if not names:
        raise UserError(
            "LoRA needs a plain convolution or linear layer and the UNet has none left; build it "
            "from the source model, before the passes that replace layers"
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft says it is an int, and divides it
        target_modules=names,
        init_lora_weights="gaussian",
    )
    inject_adapter_in_model(config, unet, ADAPTER)


def _cross_attentions(unet: nn.Module) -> list[Attention]:
    """Those that still project a text: not removed, and not folded to constants."""
    elsewhere = image_modules(unet)
    return [
        m
        for m in unet.modules()
        if isinstance(m, Attention)
        and m not in elsewhere
        and m.is_cross_attention
        and isinstance(m.to_k, nn.Linear)
    ]


def takes_prompt(unet: nn.Module) -> bool:
    """Whether the output of `unet` depends on `encoder_hidden_states`."""
    return bool(_cross_attentions(unet))


def check_prompt(unet: nn.Module, context: torch.Tensor | None, user: str) -> None:
    """Check that a text context fits the cross-attention that `unet` has.

    Args:
        unet: May have none, and then takes any context.
        context: [1, tokens, dim].
        user: Who needs it, for the message.

    Raises:
        UserError: It is missing, or of another size.
    """
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
    """Base of what judges or scores with a UNet: a frozen deep copy of a source's, and LoRA on it.

    A subclass alters the copy, calls `add_lora`, names further parts that train in full in
    `trained`, and ends its constructor with `requires_grad_(True)`.
    """

    trained: tuple[str, ...] = ()  # prefixes of parameter names, besides LoRA

    def __init__(self, denoiser: nn.Module, context: torch.Tensor | None, any_timestep: bool):
        """Copy a source's UNet.

        Args:
            denoiser: The source's.
            context: Replaces the denoiser's own text context, [1, tokens, dim], if given.
            any_timestep: Whether the UNet is called at other timesteps than the source's.

        Raises:
            UserError: The denoiser is no UNet, lacks its prompt, or has one timestep folded in
                where others are needed.
        """
        super().__init__()
        user = type(self).__name__
        if not isinstance(denoiser, UNetDenoiser):
            raise UserError(
                f"{user}: the denoiser is a {type(denoiser).__name__}, only a UNet at a fixed "
                "timestep can be adapted; build it from the source model"
            )
        if any_timestep and not isinstance(denoiser.unet.time_embedding, TimestepEmbedding):
            raise UserError(
                f"{user}: the UNet's timestep is folded into its biases, but others are needed; "
                "build it from the source model, before the strip pass"
            )
        context = denoiser.context if context is None else context
        check_prompt(denoiser.unet, context, user)
        self.denoiser = copy.deepcopy(denoiser)
        self.denoiser.context = None
        if context is not None:
            self.denoiser.context = nn.Parameter(context.detach().clone())
        super().requires_grad_(False)

    @property
    def unet(self) -> UNet2DConditionModel:
        """Diffusers' network inside the copy."""
        return self.denoiser.unet

    def predict(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None
    ) -> torch.Tensor:
        """The UNet's output [B, C, h, w], in its number format.

        Args:
            noisy: Noised latents [B, C, h, w].
            timesteps: One for each, int64 [B].
            context: The text context [1, tokens, dim], None where the UNet takes none.
        """
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
        """Switch the parameters that learn, and no others.

        So a training loop may switch all of them off and on, and the copy stays frozen.
        """
        for parameter in self.trainable_parameters():
            parameter.requires_grad_(requires_grad)
        return self
