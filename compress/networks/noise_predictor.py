"""InvSR's noise predictor (arXiv 2412.09013): which noise makes an LR latent a good start.

Names and shapes of `NoisePredictor.state_dict()` are those of the published checkpoints. Written
from facts about them. The blocks are diffusers'.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d_blocks import (
    AttnDownBlock2D,
    DownBlock2D,
    UNetMidBlock2D,
)
from torch import nn

from compress.networks.latent_diffusion import LEAST_LOGVAR, MOST_LOGVAR
from compress.networks.released_file import fill, released_state

PREDICTOR = "InvSR's noise_predictor_sd_turbo_v5.pth"
TIMESTEP = 199.0  # where one step starts
LEAST_SINUSOIDS = 128  # channels
EPS = 1e-6  # of every GroupNorm


@dataclass(frozen=True)
class PredictorConfig:
    """Sizes of a noise predictor; the defaults are the published ones.

    Attributes:
        channels: Of each level. A map has half the sides of the level before.
        layers: Residual blocks in each level.
        attention: Whether each level has self-attention over all its pixels behind every block.
        head_channels: Of an attention head.
        time_channels: Of the time embedding.
        groups: Of GroupNorm.
        latent_channels: Of the noise.
    """

    channels: tuple[int, ...] = (256, 512)
    layers: int = 3
    attention: tuple[bool, ...] = (True, True)
    head_channels: int = 64
    time_channels: int = 512
    groups: int = 32
    latent_channels: int = 4


PUBLISHED = PredictorConfig()


class TimedEncoder(nn.Module):
    """Levels of residual blocks with a time embedding, and a middle block.

    Args:
        config: The sizes.
    """

    def __init__(self, config: PredictorConfig):
        super().__init__()
        first, last = config.channels[0], config.channels[-1]
        sinusoids = max(LEAST_SINUSOIDS, first)
        self.time_proj = Timesteps(sinusoids, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding: Any = TimestepEmbedding(sinusoids, config.time_channels)
        self.time_embed_act = None  # as in a UNet without one
        self.conv_in = nn.Conv2d(3, first, 3, padding=1)
        self.down_blocks = nn.ModuleList()
        before = first
        for level in range(len(config.channels)):
            self.down_blocks.append(_level(config, level, before))
            before = config.channels[level]
        self.mid_block = UNetMidBlock2D(
            in_channels=last,
            temb_channels=config.time_channels,
            resnet_eps=EPS,
            resnet_groups=config.groups,
            attention_head_dim=config.head_channels,
        )
        self.conv_norm_out = nn.GroupNorm(config.groups, last, eps=EPS)
        self.conv_out = nn.Conv2d(last, 2 * config.latent_channels, 3, padding=1)

    def forward(self, image: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """Image [B, 3, h, w] in [-1, 1] and timesteps [B] -> [B, 2C, h / 2, w / 2]."""
        embedding = self.time_embedding(self.time_proj(timestep).to(image.dtype))
        x = self.conv_in(image)
        for block in self.down_blocks:
            x = block(x, embedding)[0]
        x = self.mid_block(x, embedding)
        return self.conv_out(nn.functional.silu(self.conv_norm_out(x)))


def _level(config: PredictorConfig, level: int, before: int) -> nn.Module:
    """The blocks of one level, and the way down to the next."""
    is_last = level == len(config.channels) - 1
    options: dict[str, Any] = {
        "in_channels": before,
        "out_channels": config.channels[level],
        "temb_channels": config.time_channels,
        "num_layers": config.layers,
        "resnet_eps": EPS,
        "resnet_groups": config.groups,
        "downsample_padding": 0,  # to the right and below instead
    }
    if not config.attention[level]:
        return DownBlock2D(add_downsample=not is_last, **options)
    return AttnDownBlock2D(
        attention_head_dim=config.head_channels,
        downsample_type=None if is_last else "conv",  # type: ignore[arg-type]  # None is none
        **options,
    )


class NoisePredictor(nn.Module):
    """A Gaussian over noise maps, from the LR image at its own size.

    Two levels halve the sides once, so the noise has those of the latent of the x4 image.

    Args:
        config: The sizes.
        timestep: Where the process starts, as it is told where no other is given: the listed number
            less one.
    """

    def __init__(self, config: PredictorConfig = PUBLISHED, timestep: float = TIMESTEP):
        super().__init__()
        self.encoder = TimedEncoder(config)
        self.timestep = timestep

    @property
    def network(self) -> TimedEncoder:
        """What has the time embedding."""
        return self.encoder

    def raw_moments(self, lr: torch.Tensor, timestep: torch.Tensor | None = None) -> torch.Tensor:
        """Mean and unclamped log-variance of `lr` [B, 3, h, w] in [0, 1], [B, 2C, h/2, w/2].

        Args:
            lr: Its sides are multiples of 2 for two levels.
            timestep: One for each image or one for all, [B] or [1], if not the own one.
        """
        if timestep is None:
            timestep = torch.full((1,), self.timestep, device=lr.device)
        return self.encoder(2 * lr - 1, timestep.expand(lr.shape[0]))

    def moments(
        self, lr: torch.Tensor, timestep: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance, each [B, C, h/2, w/2]; the latter in [-30, 20]."""
        mean, logvar = self.raw_moments(lr, timestep).chunk(2, dim=1)
        return mean, logvar.clamp(LEAST_LOGVAR, MOST_LOGVAR)

    def sample(
        self, lr: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The noise [B, C, h/2, w/2] that standard normal `noise` of that shape becomes."""
        mean, logvar = self.moments(lr, timestep)
        return mean + (logvar / 2).exp() * noise

    def forward(self, lr: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """LR image [B, 3, h, w] in [0, 1] -> noise [B, C, h/2, w/2] at the own timestep.

        Args:
            lr: The image.
            noise: Standard normal, of the shape of the result. Without it the result is the mean.
        """
        return self.moments(lr)[0] if noise is None else self.sample(lr, noise)


def load_noise_predictor(network: NoisePredictor, path: str, key: str = "noise_predictor") -> None:
    """Fill a predictor, which may be on the meta device, with a published file.

    Args:
        network: Of the published sizes.
        path: The file.
        key: The recipe's key that names it.

    Raises:
        UserError: The file is wrong or incomplete; the first names that do not fit are told.
    """
    state = released_state(path, key, PREDICTOR)
    fill([network], state, f"{key}: {path}", PREDICTOR)
