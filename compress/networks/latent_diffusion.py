"""The three networks of an SD-like model, around diffusers' own modules."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from compress.model.calls import one_or_all
from compress.process.resample import upsample


def _beside(layer: nn.Module | None) -> nn.Module:
    """The 1x1 convolution beside the latent; without one, as in SD 3, what passes it on."""
    return nn.Identity() if layer is None else layer


LEAST_LOGVAR, MOST_LOGVAR = -30.0, 20.0  # of a posterior that is sampled


class VAEEncoder(nn.Module):
    """Bicubic x4, then the posterior mean of a KL autoencoder.

    The authors' scripts sample the posterior; the mean makes the result deterministic. A sample is
    made of noise that is given.

    Args:
        vae: Its encoder is taken over.
        signal: How large the emitted latent is beside the decoder's: 1, or sqrt(abar_t) for an
            encoder that emits the signal inside z_t.
    """

    def __init__(self, vae: AutoencoderKL, signal: float = 1.0):
        super().__init__()
        self.encoder: Any = vae.encoder
        # Diffusers' modules, or what passes put in their place.
        self.quant_conv: Any = _beside(vae.quant_conv)
        self.scaling_factor: float = vae.config["scaling_factor"]
        self.signal = signal

    @property
    def latent_channels(self) -> int:
        """C of the latent."""
        last = (
            self.encoder.conv_out if isinstance(self.quant_conv, nn.Identity) else self.quant_conv
        )
        channels: int = last.out_channels
        return channels // 2

    def encode(self, image: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Scaled latent [B, C, H/8, W/8] of an image [B, 3, H, W] in [-1, 1].

        Args:
            image: The image.
            noise: Standard normal, of the shape of the result, for a sample of the posterior;
                without it the result is the mean.
        """
        mean, logvar = self.moments(image)
        if noise is not None:
            mean = mean + (logvar.clamp(LEAST_LOGVAR, MOST_LOGVAR) / 2).exp() * noise
        return mean * self.scaling_factor

    def moments(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance, each [B, C, H/8, W/8], unscaled."""
        mean, logvar = self.quant_conv(self.encoder(image)).chunk(2, dim=1)
        return mean, logvar

    def clean(self, image: torch.Tensor) -> torch.Tensor:
        """The latent [B, C, H/8, W/8] that the decoder turns back into an image.

        `image` is [B, 3, H, W] in [0, 1].
        """
        return self.encode(image * 2 - 1) / self.signal

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        """[B, 3, h, w] in [0, 1] -> [B, C, h/2, w/2]."""
        return self.encode(upsample(lr) * 2 - 1)


class SampledEncoder(VAEEncoder):
    """The same, for noise that makes a sample of the posterior."""

    def forward(self, lr: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """[B, 3, h, w] in [0, 1] and noise [B, C, h/2, w/2], if any -> [B, C, h/2, w/2]."""
        return self.encode(upsample(lr) * 2 - 1, noise)


class ClampedEncoder(VAEEncoder):
    """The same for an enlarged image that is clamped: bicubic enlargement leaves [0, 1]."""

    def forward(self, lr: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """[B, 3, h, w] in [0, 1] and noise [B, C, h/2, w/2], if any -> [B, C, h/2, w/2]."""
        return self.encode(upsample(lr).clamp(0, 1) * 2 - 1, noise)


class ImageEncoder(VAEEncoder):
    """The same of an image that is enlarged already, such as a preprocessor's."""

    def forward(self, image: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """[B, 3, H, W] in [0, 1] and noise [B, C, H/8, W/8], if any -> [B, C, H/8, W/8]."""
        return self.encode(image * 2 - 1, noise)


class VAEDecoder(nn.Module):
    """A KL autoencoder's decoder, from the scaled latent to an image in about [0, 1]."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        # Diffusers' modules, or what passes put in their place.
        self.post_quant_conv: Any = _beside(vae.post_quant_conv)
        self.decoder: Any = vae.decoder
        self.scaling_factor: float = vae.config["scaling_factor"]

    def features(self, latent: torch.Tensor) -> torch.Tensor:
        """What the middle block puts out, [B, C, h, w]."""
        unscaled = self.post_quant_conv(latent / self.scaling_factor)
        return self.decoder.mid_block(self.decoder.conv_in(unscaled))

    def tail(self, features: torch.Tensor) -> torch.Tensor:
        """The image from the middle block's features."""
        x = features
        for block in self.decoder.up_blocks:
            x = block(x)
        x = self.decoder.conv_act(self.decoder.conv_norm_out(x))
        return self.decoder.conv_out(x) * 0.5 + 0.5

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] -> [B, 3, 8h, 8w]."""
        return self.tail(self.features(latent))


class Conditioned(nn.Module):
    """A network that is told a timestep and a text.

    Args:
        timestep: What it is told where the process gives none.
        context: The constant text embedding [1, tokens, dim]; None while a text encoder provides
            it, and after the `strip` pass has folded it into keys and values.
    """

    context: nn.Parameter | None

    def __init__(self, timestep: int, context: nn.Parameter | None = None):
        super().__init__()
        self.timestep = timestep
        self.register_parameter("context", context)

    @property
    def network(self) -> Any:
        """What has the time embedding and the attention on the text."""
        return self

    def batch_context(
        self, latent: torch.Tensor, context: torch.Tensor | None
    ) -> torch.Tensor | None:
        """The context for every image of a batch, the own one where none is given."""
        text = self.context if context is None else context
        if text is None:
            return None
        return text.expand(latent.shape[0], -1, -1)


class UNetDenoiser(Conditioned):
    """A conditional UNet, at one fixed timestep or at those that a process gives.

    Args:
        unet: The network.
        timestep: See `Conditioned`.
        context: See `Conditioned`.
    """

    def __init__(
        self, unet: UNet2DConditionModel, timestep: int, context: nn.Parameter | None = None
    ):
        super().__init__(timestep, context)
        self.unet = unet

    @property
    def network(self) -> Any:
        """The UNet."""
        return self.unet

    def forward(
        self, latent: torch.Tensor, context: torch.Tensor | None = None, *step: torch.Tensor
    ) -> torch.Tensor:
        """Latent [B, C, h, w] -> prediction [B, C, h, w].

        Args:
            latent: What the process shows.
            context: [1 or B, tokens, dim], if not the own one.
            step: The timesteps, int64 [B], if not the own one.
        """
        text = self.batch_context(latent, context)
        timestep = step[0] if step else self.timestep
        return self.unet(latent, timestep, encoder_hidden_states=text, return_dict=False)[0]


class ConstantProjection(nn.Module):
    """The projection of one constant, whatever the input, or of several, of which it chooses.

    Args:
        value: What the projection makes of each constant, [constants, tokens, channels].
        requires_grad: Whether it is trained.
    """

    def __init__(self, value: torch.Tensor, requires_grad: bool = True):
        super().__init__()
        self.value = nn.Parameter(value, requires_grad)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The value [B, tokens, channels] of one constant for [B, ...].

        Of several it is that whose place in [B, 1, constants] holds 1, the others 0.
        """
        if len(self.value) == 1:
            return self.value.expand(x.shape[0], -1, -1)
        chosen = x.to(self.value.dtype) @ self.value.flatten(1)
        return chosen.unflatten(-1, self.value.shape[1:])[:, 0]


class NoTimeEmbedding(nn.Module):
    """In place of a UNet's time embedding once the residual blocks hold it in their biases."""

    def forward(self, sample: torch.Tensor, condition: torch.Tensor | None = None) -> None:
        """Nothing, which the residual blocks take for no embedding."""
        return None


class PromptEncoder(nn.Module):
    """A text encoder on fixed prompts.

    Args:
        text_model: The network.
        token_ids: int64 [prompts, tokens].
    """

    token_ids: torch.Tensor

    def __init__(self, text_model: nn.Module, token_ids: torch.Tensor):
        super().__init__()
        self.text_model = text_model
        self.register_buffer("token_ids", token_ids)
        # Position ids: a model built on meta has them from its file.
        for module in text_model.modules():
            module._non_persistent_buffers_set.clear()

    def keep_outputs(self, kept: Sequence[int]) -> None:
        """Keep these of the prompts, in this order."""
        self.token_ids = self.token_ids[list(kept)]

    def forward(self) -> Any:
        """The context [1, tokens, dim] of one prompt, or a tuple of those of several."""
        return one_or_all(self.text_model(self.token_ids)[0].split(1))


class ConstantPrompts(nn.Module):
    """In place of a text encoder on fixed prompts: what the networks are told of each.

    That is its embedding, or its number where a `ConstantProjection` of several reads it.

    Args:
        contexts: [prompts, tokens, dim].
    """

    def __init__(self, contexts: torch.Tensor):
        super().__init__()
        self.contexts = nn.Parameter(contexts, requires_grad=False)

    def keep_outputs(self, kept: Sequence[int]) -> None:
        """Keep these of the prompts, in this order."""
        self.contexts = nn.Parameter(self.contexts[list(kept)], requires_grad=False)

    def forward(self) -> Any:
        """See `PromptEncoder`."""
        return one_or_all(self.contexts.split(1))
