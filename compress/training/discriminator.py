"""Discriminators: modules that turn what they judge into a map of logits, positive for real.

On images it is a patch discriminator (pix2pix, arXiv 1611.07004), on features and latents the
source's own UNet with LoRA.
"""

from typing import Any

import torch
from torch import nn

from compress.networks.osediff_file import LORA_ALPHA
from compress.training.lora import AdaptedUNet, add_lora
from compress.training.score import ALL_STEPS, Steps, diffuse, draw_steps

SLOPE = 0.2  # of LeakyReLU below 0, pix2pix's
HEAD_NARROWER = 4  # times fewer channels than the middle block, inside a head
MOST_WIDER = 8  # a layer has at most so many times the channels of the first


def patch_discriminator(width: int = 32, layers: int = 3, in_channels: int = 3) -> nn.Sequential:
    """Images [B, 3, H, W] -> logits of patches [B, 1, about H/8, about W/8].

    It has no normalisation: GroupNorm divides by the strength of detail, by which a soft image is
    told from a sharp one. It judges pairs (`adversarial`), which need none.

    Args:
        width: Channels of the first layer; each further one doubles them, up to 8 times as many.
        layers: Layers after the first, all but the last of which halve the resolution.
        in_channels: Of the images.
    """
    blocks: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, 2, 1), nn.LeakyReLU(SLOPE)]
    channels = width
    for layer in range(1, layers + 1):
        out = width * min(2**layer, MOST_WIDER)
        stride = 2 if layer < layers else 1
        blocks += [nn.Conv2d(channels, out, 4, stride, 1), nn.LeakyReLU(SLOPE)]
        channels = out
    return nn.Sequential(*blocks, nn.Conv2d(channels, 1, 4, 1, 1))


def widen_input(conv: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """A convolution like `conv` that takes `in_channels` input channels.

    Input i has the weights of i mod C, C being what `conv` takes, divided by how often they are
    repeated. So an input map that is repeated along the channels gives what `conv` gives for the
    map itself.
    """
    wide = nn.Conv2d(
        in_channels,
        conv.out_channels,
        # torch says of these sides that they are a tuple of any length.
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    origin = torch.arange(in_channels, device="cpu") % conv.in_channels
    repeats = torch.bincount(origin)[origin].to(conv.weight)  # [in_channels]
    with torch.no_grad():
        wide.weight.copy_(conv.weight[:, origin] / repeats[:, None, None])
        if conv.bias is not None and wide.bias is not None:
            wide.bias.copy_(conv.bias)
    return wide


class UNetDiscriminator(AdaptedUNet):
    """AdcSR's discriminator of decoder features (arXiv 2411.13383, `train.py`).

    Features [B, in_channels, h, w] -> logits [B, 4, h, w]. The whole UNet judges, at its timestep
    and prompt. `conv_in` takes 256 channels in AdcSR and trains in full, everything else by LoRA:
    4,802,384 parameters at SD 2.1. A stripped UNet serves as well.
    """

    trained = ("denoiser.unet.conv_in.base_layer.",)

    def __init__(
        self,
        denoiser: nn.Module,
        in_channels: int,
        context: torch.Tensor | None,
        rank: int = 4,
        alpha: float = LORA_ALPHA,
    ):
        """Copy the UNet of a denoiser.

        Args:
            denoiser: At its timestep.
            in_channels: Of the features.
            context: Replaces the denoiser's own prompt [1, tokens, dim], if given.
            rank: Of the LoRA.
            alpha: Of the LoRA; it counts alpha / rank.

        Raises:
            UserError: The denoiser is no UNet, or lacks its prompt.
        """
        super().__init__(denoiser, context, any_timestep=False)
        self.unet.conv_in = widen_input(self.unet.conv_in, in_channels).requires_grad_(False)
        add_lora(self.unet, rank, alpha)
        self.requires_grad_(True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [B, 4, h, w] of features [B, in_channels, h, w]."""
        return self.denoiser(features)


def keep_trunk(unet: Any) -> None:
    """Leave a UNet's encoder and middle block, in place: it then returns what the latter makes."""
    # With no decoder and no output layers, diffusers' own forward returns that.
    unet.up_blocks = nn.ModuleList()
    unet.conv_norm_out = None
    unet.conv_out = nn.Identity()


def mlp_head(width: int, hidden: int) -> nn.Sequential:
    """An MLP at every position: features [B, width, h, w] -> one logit each, [B, 1, h, w]."""
    return nn.Sequential(nn.Conv2d(width, hidden, 1), nn.SiLU(), nn.Conv2d(hidden, 1, 1))


class NoiseAwareDiscriminator(AdaptedUNet):
    """DFOSD's discriminator of latents (arXiv 2410.04224).

    Scaled latents [B, 4, h, w] -> logits of patches [B, 1, h/8, w/8]. The encoder and the middle of
    the UNet judge latents under noise of a random level: every sample gets its own timestep. What
    is kept of the UNet learns by LoRA, and a random head on its middle block in full.

    No code is published. Ours are the head's widths (the paper says an MLP on patches), that all
    timesteps are drawn evenly, and the prompt (the source's). A real latent and a fake one that are
    judged as a pair share the timestep: `draw` gives it to both calls.
    """

    trained = ("head.",)

    def __init__(
        self,
        denoiser: nn.Module,
        context: torch.Tensor | None,
        alphas_cumprod: torch.Tensor,
        rank: int = 16,
        alpha: float = 16,
        steps: Steps = ALL_STEPS,
    ):
        """Copy the encoder and the middle of a UNet.

        Args:
            denoiser: Must have every timestep.
            context: Replaces the denoiser's own prompt [1, tokens, dim], if given.
            alphas_cumprod: abar of every timestep.
            rank: Of the LoRA.
            alpha: Of the LoRA; it counts alpha / rank.
            steps: The range of timesteps, both ends included.

        Raises:
            UserError: The denoiser is no UNet, lacks its prompt, or has one timestep folded in.
        """
        super().__init__(denoiser, context, any_timestep=True)
        self.steps = steps
        self.register_buffer("alphas_cumprod", alphas_cumprod.float(), persistent=False)
        self.alphas_cumprod: torch.Tensor
        keep_trunk(self.unet)
        add_lora(self.unet, rank, alpha)
        width = self.unet.config.block_out_channels[-1]
        head = mlp_head(width, width // HEAD_NARROWER)
        self.head = head.to(self.unet.device, self.unet.dtype)
        self.requires_grad_(True)

    def draw(self, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Timesteps, int64 [count], for latents that are judged as pairs."""
        device = self.alphas_cumprod.device if generator is None else generator.device
        return draw_steps(count, self.steps, generator, device)

    def forward(
        self,
        latent: torch.Tensor,
        generator: torch.Generator | None = None,
        timesteps: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits of patches [B, 1, h/8, w/8].

        Args:
            latent: Scaled latents, [B, 4, h, w].
            generator: Draws timesteps and noise.
            timesteps: Those of `draw`, if they are not drawn.
        """
        noisy, timesteps, _, _ = diffuse(
            latent, self.alphas_cumprod, self.steps, generator, timesteps
        )
        return self.head(self.predict(noisy, timesteps, self.denoiser.context))


def told_of_pair(judge: nn.Module | None, count: int) -> dict[str, torch.Tensor]:
    """What a discriminator is told of `count` pairs: a noise-aware one, their timesteps."""
    if isinstance(judge, NoiseAwareDiscriminator):
        return {"timesteps": judge.draw(count)}
    return {}
