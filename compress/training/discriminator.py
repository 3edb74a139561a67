"""Discriminators: modules that turn what they judge into a map of logits, positive for real.

On images it is a patch discriminator (pix2pix, arXiv 1611.07004), on features and latents the
source's own UNet with LoRA.
"""

import torch
from torch import nn

from compress.training.lora import AdaptedUNet, add_lora
from compress.training.score import VSD_STEPS, Steps, diffuse

SLOPE = 0.2  # of LeakyReLU below 0, pix2pix's
GROUPS = 8  # of GroupNorm
MOST_WIDER = 8  # a layer has at most so many times the channels of the first


def patch_discriminator(width: int = 32, layers: int = 3, in_channels: int = 3) -> nn.Sequential:
    """Images [B, 3, H, W] -> logits of patches [B, 1, about H/8, about W/8].

    It has GroupNorm and not BatchNorm, so that a batch of one image works.

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
        blocks += [
            nn.Conv2d(channels, out, 4, stride, 1, bias=False),
            nn.GroupNorm(GROUPS, out),
            nn.LeakyReLU(SLOPE),
        ]
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
        self, denoiser: nn.Module, in_channels: int, context: torch.Tensor | None, rank: int = 4
    ):
        """Copy the UNet of `denoiser`, for features of `in_channels` channels and LoRA of `rank`.

        Raises:
            UserError: The denoiser is no UNet, or lacks its prompt.
        """
        super().__init__(denoiser, context, any_timestep=False)
        self.unet.conv_in = widen_input(self.unet.conv_in, in_channels).requires_grad_(False)
        add_lora(self.unet, rank)
        self.requires_grad_(True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [B, 4, h, w] of features [B, in_channels, h, w]."""
        return self.denoiser(features)


class NoiseAwareDiscriminator(AdaptedUNet):
    """DFOSD's discriminator of latents (arXiv 2410.04224).

    Scaled latents [B, 4, h, w] -> logits of patches [B, 1, h/8, w/8]. The encoder and the middle of
    the UNet judge latents under noise of a random level: every sample gets its own timestep. What
    is kept of the UNet learns by LoRA, and a random head on its middle block in full.

    No code is published. Ours are the head's two convolutions (in the paper an MLP on patches), the
    range of timesteps (that of OSEDiff's VSD), and the prompt (the source's).
    """

    trained = ("head.",)

    def __init__(
        self,
        denoiser: nn.Module,
        context: torch.Tensor | None,
        alphas_cumprod: torch.Tensor,
        rank: int = 4,
        steps: Steps = VSD_STEPS,
    ):
        """Copy the encoder and the middle of a UNet.

        Args:
            denoiser: Must have every timestep.
            context: Replaces the denoiser's own prompt [1, tokens, dim], if given.
            alphas_cumprod: abar of every timestep.
            rank: Of the LoRA.
            steps: The range of timesteps, both ends included.

        Raises:
            UserError: The denoiser is no UNet, lacks its prompt, or has one timestep folded in.
        """
        super().__init__(denoiser, context, any_timestep=True)
        self.steps = steps
        self.register_buffer("alphas_cumprod", alphas_cumprod.float(), persistent=False)
        self.alphas_cumprod: torch.Tensor
        # With no decoder and no output layers, diffusers' own forward returns the output of the
        # middle block.
        self.unet.up_blocks = nn.ModuleList()
        self.unet.conv_norm_out = None
        self.unet.conv_out = nn.Identity()
        add_lora(self.unet, rank)
        width = self.unet.config.block_out_channels[-1]
        groups = self.unet.config.norm_num_groups
        device = self.unet.device
        dtype = self.unet.dtype
        self.head = nn.Sequential(
            nn.GroupNorm(groups, width, device=device, dtype=dtype),
            nn.SiLU(),
            nn.Conv2d(width, width // 4, 3, padding=1, device=device, dtype=dtype),
            nn.SiLU(),
            nn.Conv2d(width // 4, 1, 1, device=device, dtype=dtype),
        )
        self.requires_grad_(True)

    def forward(
        self, latent: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Logits [B, 1, h/8, w/8] of `latent` [B, 4, h, w]; `generator` draws the noise."""
        noisy, timesteps, _, _ = diffuse(latent, self.alphas_cumprod, self.steps, generator)
        return self.head(self.predict(noisy, timesteps, self.denoiser.context))
