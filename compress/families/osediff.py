"""OSEDiff (arXiv 2406.08177): SD 2.1-base with LoRA, one step at t = 999; and our nano model of the same shape."""

from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.autoencoders.vae import Encoder
from pydantic import Field, model_validator
from torch import nn

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.core.tensors import read_tensors
from compress.cost.count import Replaced, measure_module
from compress.model.source import Source
from compress.model.sr_model import MARGIN, SRModel, Tiling
from compress.networks.latent_diffusion import PromptEncoder, UNetDenoiser, VAEDecoder, VAEEncoder
from compress.networks.sd21_checkpoint import PARTS, load_sd21
from compress.process.colour import ColourFix
from compress.process.one_step import OneStep

TOKENS = 77
ASSET = Path(__file__).parent.parent / "assets" / "osediff_nano.safetensors"

SD21_UNET = dict(
    sample_size=64,
    in_channels=4,
    out_channels=4,
    layers_per_block=2,
    block_out_channels=(320, 640, 1280, 1280),
    down_block_types=(
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    # diffusers calls the number of heads `attention_head_dim` here.
    attention_head_dim=(5, 10, 20, 20),
    cross_attention_dim=1024,
    use_linear_projection=True,
)
SD21_VAE = dict(
    in_channels=3,
    out_channels=3,
    latent_channels=4,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    norm_num_groups=32,
    sample_size=768,
    scaling_factor=0.18215,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
)
SD21_TEXT = dict(
    vocab_size=49408,
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=23,
    num_attention_heads=16,
    max_position_embeddings=TOKENS,
    hidden_act="gelu",
    projection_dim=512,
    bos_token_id=49406,
    eos_token_id=49407,
    pad_token_id=1,
)

# Same module types as SD 2.1. Self-attention starts at the second level, where a map has a quarter of the
# positions; the VAE carries the larger share of the MACs, as in SD. Widths and latent channels are in the source.
# Each a multiple of: an attention head, GroupNorm's groups.
WIDTHS = {"unet_channels": 16, "vae_channels": 8, "encoder_channels": 8}
MOST_WIDTH = 8192  # beyond any network of the family: SD 2.1 has 1280
NANO_UNET = dict(
    sample_size=64,
    layers_per_block=1,
    cross_attention_dim=64,
    use_linear_projection=True,
    norm_num_groups=16,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
)
NANO_VAE = dict(
    in_channels=3,
    out_channels=3,
    layers_per_block=1,
    norm_num_groups=8,
    sample_size=512,
    scaling_factor=1.0,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
)


class OSEDiffSource(Source):
    """`size: nano` comes with the package; `size: sd21` reads SD 2.1-base from `base` and OSEDiff from `lora`.

    A nano of other widths or latent channels than the embedded one has to be trained first (compress.train).
    """

    family: Literal["osediff"] = "osediff"
    size: Literal["nano", "sd21"] = "nano"
    weights: str | None = None  # nano: another weight file than the embedded one
    base: str | None = None  # sd21: folder in diffusers' layout, or a hub id
    lora: str | None = None  # sd21: osediff.pkl, either published format
    prompt: str = ""  # sd21: the one prompt that replaces the tagger
    colour_fix: ColourFix = "adain"
    latent_channels: int = Field(4, gt=0, le=1024)  # of nano, as are the next two
    unet_channels: tuple[int, int, int, int] = (48, 64, 64, 80)  # at 1/8 to 1/64 of the image
    vae_channels: tuple[int, int, int, int] = (16, 32, 64, 80)  # at 1/1 to 1/8
    encoder_channels: tuple[int, int, int, int] | None = None  # where not those of vae_channels
    time_channels: int | None = Field(
        None, gt=0, le=8192
    )  # of the time embedding, where not 4 times unet_channels' first

    @model_validator(mode="after")
    def _legal_widths(self) -> "OSEDiffSource":
        for name, multiple in WIDTHS.items():
            if wrong := [
                n for n in getattr(self, name) or () if not 0 < n <= MOST_WIDTH or n % multiple
            ]:
                raise ValueError(
                    f"{name} has {wrong[0]}; choose multiples of {multiple} up to {MOST_WIDTH}"
                )
        # Not whether they are set: a stored header names all fields.
        fields = type(self).model_fields
        own = [
            name
            for name in ("latent_channels", "time_channels", *WIDTHS)
            if getattr(self, name) != fields[name].default
        ]
        if self.size != "nano" and own:
            raise ValueError(
                f"{own[0]} is of size 'nano'; the architecture of '{self.size}' is published, "
                "leave it out"
            )
        return self

    def _networks(self) -> tuple[UNet2DConditionModel, AutoencoderKL]:
        if self.size == "sd21":
            return UNet2DConditionModel(**SD21_UNET), AutoencoderKL(**SD21_VAE)
        unet = UNet2DConditionModel(
            **NANO_UNET,
            in_channels=self.latent_channels,
            out_channels=self.latent_channels,
            block_out_channels=self.unet_channels,
            time_embedding_dim=self.time_channels,
            # diffusers calls the number of heads `attention_head_dim` here.
            attention_head_dim=tuple(n // WIDTHS["unet_channels"] for n in self.unet_channels),
        )
        vae = AutoencoderKL(
            **NANO_VAE, latent_channels=self.latent_channels, block_out_channels=self.vae_channels
        )
        if self.encoder_channels:
            shared = ("in_channels", "layers_per_block", "norm_num_groups", "down_block_types")
            vae.encoder = Encoder(
                out_channels=self.latent_channels,
                block_out_channels=self.encoder_channels,
                **{name: NANO_VAE[name] for name in shared},
            )
        return unet, vae

    def build(self) -> SRModel:
        """The structure, on the meta device; no weight is read."""
        with torch.device("meta"):
            unet, vae = self._networks()
            context = text_encoder = None
            if self.size == "nano":
                context = nn.Parameter(torch.empty(1, TOKENS, NANO_UNET["cross_attention_dim"]))
            else:
                from transformers import CLIPTextConfig, CLIPTextModel

                text_encoder = PromptEncoder(
                    CLIPTextModel(CLIPTextConfig(**SD21_TEXT)),
                    torch.empty(1, TOKENS, dtype=torch.int64),
                )
        process = OneStep(timestep=999)
        # The nano encoder is trained to emit the signal inside z_t (distill/stages.py says why).
        encoder = VAEEncoder(vae, process.signal if self.size == "nano" else 1.0)
        model = SRModel(
            encoder,
            UNetDenoiser(unet, process.timestep, context),
            VAEDecoder(vae),
            process,
            text_encoder=text_encoder,
            colour_fix=self.colour_fix,
            tiling=Tiling(colour_fix="wavelet", margin=MARGIN) if self.size == "nano" else Tiling(),
        )
        return model.eval()

    def load(self, model: SRModel) -> None:
        """Read the values into what `build` returned."""
        if self.size == "sd21":
            if self.base is None:
                raise UserError(
                    "source.base: size 'sd21' needs Stable Diffusion 2.1-base; set source.base to a folder "
                    "in diffusers' layout or a hub id (--plan needs none)"
                )
            load_sd21(model, self.base, self.lora, self.prompt)
        else:
            file = Path(self.weights) if self.weights else ASSET
            if not file.is_file():
                raise UserError(
                    f"source.weights: {file} does not exist; leave it out for the embedded weights"
                )
            read_tensors(model, file)
        model.eval().requires_grad_(False)

    def replaced(self) -> Replaced | None:
        """The tagger whose words `prompt` replaces, and its cost. The nano model was trained without one."""
        if self.size == "nano":
            return None
        from compress.networks.dape import SIZE, Tagger

        with torch.device("meta"):
            cost = measure_module(Tagger(), torch.empty(1, 3, SIZE, SIZE), name="tagger")
        return Replaced("tagger", "DAPE", by="one constant prompt", system="OSEDiff", cost=cost)

    def data_key(self) -> str:
        """Identity of the weight files, part of cache keys."""
        base = [Path(self.base) / part for part in PARTS] if self.base else []
        return files_key([*base, *(f for f in (self.weights, self.lora) if f)] or [ASSET])
