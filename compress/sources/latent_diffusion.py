"""The three networks of an SD-like model as the components of an SRModel, around diffusers' own modules."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from compress.model import upsample


class VAEEncoder(nn.Module):
    """Bicubic x4, then the posterior mean of a KL autoencoder: [B, 3, h, w] in [0, 1] -> [B, 4, h/2, w/2].

    OSEDiff's script samples the posterior; the mean makes the result deterministic.
    """

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv
        self.scaling_factor = vae.config.scaling_factor

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Scaled latent mean [B, 4, H/8, W/8] of an image [B, 3, H, W] in [-1, 1]."""
        return self.moments(image)[0] * self.scaling_factor

    def moments(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance, each [B, 4, H/8, W/8], unscaled."""
        mean, logvar = self.quant_conv(self.encoder(image)).chunk(2, dim=1)
        return mean, logvar

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return self.encode(upsample(lr) * 2 - 1)


class VAEDecoder(nn.Module):
    """A KL autoencoder's decoder: scaled latent [B, 4, h, w] -> image [B, 3, 8h, 8w] in about [0, 1]."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.post_quant_conv = vae.post_quant_conv
        self.decoder = vae.decoder
        self.scaling_factor = vae.config.scaling_factor

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.post_quant_conv(latent / self.scaling_factor)) * 0.5 + 0.5


class UNetDenoiser(nn.Module):
    """A conditional UNet at one fixed timestep: latent [B, 4, h, w] -> prediction [B, 4, h, w].

    `context` [1, tokens, dim] is the constant text embedding, or None while a text encoder provides it and
    after the `strip` pass has folded it into keys and values.
    """

    def __init__(self, unet: UNet2DConditionModel, timestep: int, context: nn.Parameter | None = None):
        super().__init__()
        self.unet = unet
        self.timestep = timestep
        self.register_parameter("context", context)

    def forward(self, latent: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        context = self.context if context is None else context
        if context is not None:
            context = context.expand(latent.shape[0], -1, -1)
        return self.unet(latent, self.timestep, encoder_hidden_states=context, return_dict=False)[0]


class PromptEncoder(nn.Module):
    """A text encoder on one fixed prompt: () -> context [1, tokens, dim]."""

    def __init__(self, text_model: nn.Module, token_ids: torch.Tensor):
        super().__init__()
        self.text_model = text_model
        self.register_buffer("token_ids", token_ids)
        for module in text_model.modules():  # position ids: a model built on meta has them from its file
            module._non_persistent_buffers_set.clear()

    def forward(self) -> torch.Tensor:
        return self.text_model(self.token_ids)[0]
