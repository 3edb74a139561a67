"""Stable Diffusion's UNet and VAE at nano size, with widths that a source may choose."""

from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.autoencoders.vae import Encoder
from pydantic import Field, model_validator

from compress.core.config import Strict

# Widths of the nano model are multiples of these: of an attention head, of GroupNorm's groups.
WIDTHS = {
    "unet_channels": 16,
    "vae_channels": 8,
    "encoder_channels": 8,
    "control_channels": 16,
}
MOST_WIDTH = 8192  # beyond any network of the family: SD 2.1 has 1280
# Same module types as SD 2.1. Self-attention starts at the second level, where a map has a quarter
# of the positions. Widths and latent channels are in the source. The encoder only passes blocks of
# pixels on, so it is thin; the UNet is wide where its map is large, because it does the restoring.
NANO_UNET: dict[str, Any] = {
    "sample_size": 64,
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "use_linear_projection": True,
    "norm_num_groups": 16,
    "down_block_types": (
        "DownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
NANO_VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 512,
    "scaling_factor": 1.0,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
# What an encoder of its own takes over from the nano VAE.
OF_ENCODER = ("in_channels", "layers_per_block", "norm_num_groups", "down_block_types")


UNET_TEXT = "For `nano`, the UNet's channels at 1/8 to 1/64 of the image."
SCALE_TEXT = (
    "For `nano`, what the latent is multiplied by: the larger, the less the noise of the schedule "
    "counts beside it."
)
CONTROL_TEXT = "For `nano`, the control network's channels; null: those of `unet_channels`."


class VAEWidths(Strict):
    """Widths of a nano's autoencoder: keys of a source, and the network that they make."""

    size: str = Field("nano", description="`nano`, or a published size.")
    latent_channels: int = Field(
        12,
        gt=0,
        le=1024,
        description="For `nano`, the channels of the latent; 12 hold a block of 2 x 2 pixels.",
    )
    vae_channels: tuple[int, int, int, int] = Field(
        (16, 24, 64, 64), description="For `nano`, the VAE's channels at 1/1 to 1/8 of the image."
    )
    encoder_channels: tuple[int, int, int, int] | None = Field(
        (8, 16, 24, 48),
        description="For `nano`, the encoder's channels; null: those of `vae_channels`.",
    )
    latent_scale: float = Field(1.0, gt=0, le=4096, description=SCALE_TEXT)

    def is_nano(self) -> bool:
        """Whether these widths are in use: those of a published size are published."""
        return self.size == "nano"

    @classmethod
    def nano_keys(cls) -> tuple[str, ...]:
        """The keys that only a nano takes, of those that this source has."""
        named = ("latent_channels", "latent_scale", "time_channels", *WIDTHS)
        return tuple(name for name in named if name in cls.model_fields)

    @model_validator(mode="after")
    def _legal_widths(self) -> "VAEWidths":
        for name, multiple in WIDTHS.items():
            for width in getattr(self, name, None) or ():
                if not 0 < width <= MOST_WIDTH or width % multiple:
                    raise ValueError(
                        f"{name} has {width}; choose multiples of {multiple} up to {MOST_WIDTH}"
                    )
        # Not whether they are set: a stored header names all fields.
        fields = type(self).model_fields
        for name in self.nano_keys():
            if not self.is_nano() and getattr(self, name) != fields[name].default:
                raise ValueError(
                    f"{name} is of size 'nano'; the architecture of a full size is published, "
                    "leave it out"
                )
        return self

    def nano_vae(self) -> AutoencoderKL:
        """The VAE, with values as diffusers draws them."""
        vae = AutoencoderKL(
            **NANO_VAE | {"scaling_factor": self.latent_scale},
            latent_channels=self.latent_channels,
            block_out_channels=self.vae_channels,
        )
        if self.encoder_channels:
            vae.encoder = Encoder(
                out_channels=self.latent_channels,
                block_out_channels=self.encoder_channels,
                **{name: NANO_VAE[name] for name in OF_ENCODER},
            )
        return vae


class NanoWidths(VAEWidths):
    """The same with a UNet."""

    unet_channels: tuple[int, int, int, int] = Field((144, 80, 32, 32), description=UNET_TEXT)
    time_channels: int | None = Field(
        64,
        gt=0,
        le=8192,
        description="For `nano`, channels of the time embedding; null: 4 times the first of "
        "`unet_channels`.",
    )

    def nano_unet(self) -> UNet2DConditionModel:
        """The UNet, with values as diffusers draws them."""
        return UNet2DConditionModel(
            **NANO_UNET,
            in_channels=self.latent_channels,
            out_channels=self.latent_channels,
            block_out_channels=self.unet_channels,
            time_embedding_dim=self.time_channels,
            # diffusers calls the number of heads `attention_head_dim` here.
            attention_head_dim=tuple(
                width // WIDTHS["unet_channels"] for width in self.unet_channels
            ),
        )


class ControlWidths(NanoWidths):
    """The same with a control network beside the UNet."""

    control_channels: tuple[int, int, int, int] | None = Field(None, description=CONTROL_TEXT)

    def control_widths(self) -> tuple[int, int, int, int] | None:
        """The control network's channels; None: those of the UNet, as in a published size."""
        return self.control_channels if self.is_nano() else None
