"""OSEDiff (arXiv 2406.08177): SD 2.1-base with LoRA, one step at t = 999; and our nano model.

The nano model has the same shape.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.autoencoders.vae import Encoder
from pydantic import Field, model_validator
from torch import nn

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.core.tensors import read_tensors
from compress.model.source import ReplacedPart, Source
from compress.model.sr_model import MARGIN, SRModel, Tiling
from compress.networks.latent_diffusion import UNetDenoiser, VAEDecoder, VAEEncoder
from compress.networks.osediff_file import LORA_ALPHA
from compress.networks.sd21 import TIMESTEP, TOKENS, build_sd21
from compress.networks.sd21_checkpoint import PARTS, load_sd21
from compress.process.colour import ColourFix
from compress.process.one_step import OneStep

ASSET = Path(__file__).parent.parent / "assets" / "osediff_nano.safetensors"

# Widths of the nano model are multiples of these: of an attention head, of GroupNorm's groups.
WIDTHS = {"unet_channels": 16, "vae_channels": 8, "encoder_channels": 8}
MOST_WIDTH = 8192  # beyond any network of the family: SD 2.1 has 1280
# Same module types as SD 2.1. Self-attention starts at the second level, where a map has a quarter
# of the positions. The VAE carries the larger share of the MACs, as in SD. Widths and latent
# channels are in the source.
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


class OSEDiffSource(Source):
    """OSEDiff, and the nano model, which comes with the package.

    A nano of other widths or latent channels than the embedded one has to be trained first
    (compress.train).
    """

    family: Literal["osediff"] = Field("osediff", description="The name of this family.")
    size: Literal["nano", "sd21"] = Field(
        "nano",
        description="`nano` comes with the package; `sd21` reads SD 2.1-base from `base` and "
        "OSEDiff from `lora`.",
    )
    weights: str | None = Field(
        None, description="For `nano`, another weight file than the embedded one."
    )
    base: str | None = Field(
        None,
        description="For `sd21`, Stable Diffusion 2.1-base: a folder in diffusers' layout, or a "
        "hub id.",
    )
    lora: str | None = Field(
        None, description="For `sd21`, the file osediff.pkl, in either published format."
    )
    lora_alpha: float = Field(
        LORA_ALPHA,
        gt=0,
        le=4096,
        description="For `sd21`, the alpha of the LoRA in `lora`, which that file does not store: "
        "its pairs count alpha / rank, which is 8 / 4 = 2 in OSEDiff.",
    )
    prompt: str = Field(
        "", description="For `sd21`, the one prompt that replaces the tagger's words."
    )
    colour_fix: ColourFix = Field("adain", description="How the image is corrected by the input.")
    latent_channels: int = Field(
        4, gt=0, le=1024, description="For `nano`, the channels of the latent."
    )
    unet_channels: tuple[int, int, int, int] = Field(
        (48, 64, 64, 80),
        description="For `nano`, the UNet's channels at 1/8 to 1/64 of the image.",
    )
    vae_channels: tuple[int, int, int, int] = Field(
        (16, 32, 64, 80), description="For `nano`, the VAE's channels at 1/1 to 1/8 of the image."
    )
    encoder_channels: tuple[int, int, int, int] | None = Field(
        None, description="For `nano`, the encoder's channels; null: those of `vae_channels`."
    )
    time_channels: int | None = Field(
        None,
        gt=0,
        le=8192,
        description="For `nano`, channels of the time embedding; null: 4 times the first of "
        "`unet_channels`.",
    )

    @model_validator(mode="after")
    def _legal_widths(self) -> "OSEDiffSource":
        for name, multiple in WIDTHS.items():
            for width in getattr(self, name) or ():
                if not 0 < width <= MOST_WIDTH or width % multiple:
                    raise ValueError(
                        f"{name} has {width}; choose multiples of {multiple} up to {MOST_WIDTH}"
                    )
        # Not whether they are set: a stored header names all fields.
        fields = type(self).model_fields
        if self.size == "nano" and self.lora_alpha != fields["lora_alpha"].default:
            raise ValueError("lora_alpha is of size 'sd21'; nano has no LoRA, leave it out")
        for name in ("latent_channels", "time_channels", *WIDTHS):
            if self.size != "nano" and getattr(self, name) != fields[name].default:
                raise ValueError(
                    f"{name} is of size 'nano'; the architecture of '{self.size}' is published, "
                    "leave it out"
                )
        return self

    def build(self) -> SRModel:
        """The structure, on the meta device; no weight is read."""
        if self.size == "sd21":
            return build_sd21(self.colour_fix)
        with torch.device("meta"):
            unet, vae = self._nano_networks()
            context = nn.Parameter(torch.empty(1, TOKENS, NANO_UNET["cross_attention_dim"]))
        process = OneStep(timestep=TIMESTEP)
        # The nano encoder is trained to emit the signal inside z_t (stages/latents.py says why).
        model = SRModel(
            {
                "encoder": VAEEncoder(vae, process.signal),
                "denoiser": UNetDenoiser(unet, process.timestep, context),
                "decoder": VAEDecoder(vae),
            },
            process,
            colour_fix=self.colour_fix,
            tiling=Tiling(colour_fix="wavelet", margin=MARGIN),
        )
        return model.eval()

    def _nano_networks(self) -> tuple[UNet2DConditionModel, AutoencoderKL]:
        unet = UNet2DConditionModel(
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
        vae = AutoencoderKL(
            **NANO_VAE, latent_channels=self.latent_channels, block_out_channels=self.vae_channels
        )
        if self.encoder_channels:
            vae.encoder = Encoder(
                out_channels=self.latent_channels,
                block_out_channels=self.encoder_channels,
                **{name: NANO_VAE[name] for name in OF_ENCODER},
            )
        return unet, vae

    def load(self, model: SRModel) -> None:
        """Read the values into what `build` returned.

        Raises:
            UserError: A file is not named, is missing, or holds other tensors than the model.
        """
        if self.size == "sd21":
            if self.base is None:
                raise UserError(
                    "source.base: size 'sd21' needs Stable Diffusion 2.1-base; set source.base to "
                    "a folder in diffusers' layout or a hub id (--plan needs none)"
                )
            load_sd21(model, self.base, self.lora, self.prompt, self.lora_alpha)
        else:
            file = Path(self.weights) if self.weights else ASSET
            if not file.is_file():
                raise UserError(
                    f"source.weights: {file} does not exist; leave it out for the embedded weights"
                )
            read_tensors(model, file)
        model.eval().requires_grad_(False)

    def replaced(self) -> ReplacedPart | None:
        """The tagger whose words `prompt` replaces.

        None for the nano model, which was trained without one.
        """
        if self.size == "nano":
            return None
        # Brings transformers with it, which is slow to import.
        from compress.networks.dape import SIZE, Tagger

        with torch.device("meta"):
            module = Tagger()
            example = torch.empty(1, 3, SIZE, SIZE)
        return ReplacedPart("tagger", "DAPE", "one constant prompt", "OSEDiff", module, example)

    def data_key(self) -> str:
        """Identity of the weight files, part of cache keys."""
        named: list[str | Path] = []
        if self.base:
            named += [Path(self.base) / part for part in PARTS]
        named += [file for file in (self.weights, self.lora) if file]
        return files_key(named or [ASSET])
