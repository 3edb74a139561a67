"""Discriminators: modules that turn what they judge into a map of logits, positive for real.

On images a patch discriminator (pix2pix, arXiv 1611.07004); on features and latents the source's own UNet with LoRA.
"""

import torch
from torch import nn

from compress.networks.latent_diffusion import UNetDenoiser
from compress.training.lora import AdaptedUNet, add_lora
from compress.training.score import diffuse


def patch_discriminator(width: int = 32, layers: int = 3, in_channels: int = 3) -> nn.Sequential:
    """[B, 3, H, W] -> patch logits [B, 1, about H/8, about W/8]. GroupNorm, so that batch 1 works."""
    blocks: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    channels = width
    for layer in range(1, layers + 1):
        out = width * min(2**layer, 8)
        stride = 2 if layer < layers else 1
        blocks += [
            nn.Conv2d(channels, out, 4, stride, 1, bias=False),
            nn.GroupNorm(8, out),
            nn.LeakyReLU(0.2),
        ]
        channels = out
    return nn.Sequential(*blocks, nn.Conv2d(channels, 1, 4, 1, 1))


def widen_input(conv: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """A convolution of `in_channels` inputs, input i with the weights of i mod C over how often they are repeated.

    An input map repeated along the channels gives what `conv` gives for the map itself.
    """
    wide = nn.Conv2d(
        in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    origin = torch.arange(in_channels, device="cpu") % conv.in_channels
    repeats = torch.bincount(origin)[origin].to(conv.weight)  # [in_channels]
    with torch.no_grad():
        wide.weight.copy_(conv.weight[:, origin] / repeats[:, None, None])
        wide.bias.copy_(conv.bias)
    return wide


class UNetDiscriminator(AdaptedUNet):
    """AdcSR's (arXiv 2411.13383, `train.py`): the whole UNet at its timestep and prompt judges decoder features.

    features [B, in_channels, h, w] -> logits [B, 4, h, w]. `conv_in` takes 256 channels in AdcSR and trains in
    full, everything else by LoRA: 4,802,384 parameters at SD 2.1. A stripped UNet serves as well.
    """

    trained = ("denoiser.unet.conv_in.base_layer.",)

    def __init__(
        self, denoiser: UNetDenoiser, in_channels: int, context: torch.Tensor | None, rank: int = 4
    ):
        super().__init__(denoiser, context, any_timestep=False)
        self.unet.conv_in = widen_input(self.unet.conv_in, in_channels).requires_grad_(False)
        add_lora(self.unet, rank)
        self.requires_grad_(True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.denoiser(features)


class NoiseAwareDiscriminator(AdaptedUNet):
    """DFOSD's (arXiv 2410.04224): the UNet's encoder and middle judge latents under noise of a random level.

    Scaled latents [B, 4, h, w] -> patch logits [B, 1, h/8, w/8]. Every sample gets its own timestep of the inclusive
    range `steps`; z_t = sqrt(abar_t) * z + sqrt(1 - abar_t) * eps. LoRA on what is kept of the UNet, and in full a
    random head on its middle block. No code is published; ours are the head's two convolutions, in the paper an MLP
    on patches, the range of `steps`, which is that of OSEDiff's VSD, and the prompt, which is the source's.
    """

    trained = ("head.",)

    def __init__(
        self,
        denoiser: UNetDenoiser,
        context: torch.Tensor | None,
        alphas_cumprod: torch.Tensor,
        rank: int = 4,
        steps: tuple[int, int] = (20, 979),
    ):
        super().__init__(denoiser, context, any_timestep=True)
        self.steps = steps
        self.register_buffer("alphas_cumprod", alphas_cumprod.float(), persistent=False)
        # With no decoder and no output layers, diffusers' own forward returns the output of the middle block.
        self.unet.up_blocks = nn.ModuleList()
        self.unet.conv_norm_out = None
        self.unet.conv_out = nn.Identity()
        add_lora(self.unet, rank)
        width, groups = self.unet.config.block_out_channels[-1], self.unet.config.norm_num_groups
        like = dict(device=self.unet.device, dtype=self.unet.dtype)
        self.head = nn.Sequential(
            nn.GroupNorm(groups, width, **like),
            nn.SiLU(),
            nn.Conv2d(width, width // 4, 3, padding=1, **like),
            nn.SiLU(),
            nn.Conv2d(width // 4, 1, 1, **like),
        )
        self.requires_grad_(True)

    def forward(
        self, latent: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        noisy, timesteps, _, _ = diffuse(latent, self.alphas_cumprod, self.steps, generator)
        return self.head(self.predict(noisy, timesteps, self.denoiser.context))
