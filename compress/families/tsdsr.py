"""TSD-SR (arXiv 2411.18263): one step with SD 3's transformer, distilled from its teacher.

The latent of the enlarged image is shown to the network at sigma = 1, and z0 = z - v. The prompt is
constant, and no text encoder runs: its embeddings are files. The VAE's shift is never applied.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from compress.core.errors import UserError
from compress.families.released import ReleasedSource
from compress.families.taking_over import take_autoencoder
from compress.model.calls import (
    CLEAN_LATENT,
    IMAGE,
    LATENT,
    LR,
    PREDICTION,
    STATE,
    Call,
    Wiring,
    map_ratios,
)
from compress.model.sr_model import MARGIN, SRModel, Tiling
from compress.networks.latent_diffusion import ClampedEncoder, VAEDecoder
from compress.networks.mmdit import ConstantPrompt, MMDiTDenoiser
from compress.networks.nano import SCALE_TEXT, VAEWidths
from compress.networks.noise_maps import NoiseMaps
from compress.networks.sd3 import (
    NANO_TEXT,
    NANO_TOKENS,
    TOKENS,
    TRANSFORMERS,
    Model,
    nano_transformer,
    sd3_transformer,
    sd3_vae,
)
from compress.networks.sd3_checkpoint import LORA, PARTS, Released, load_sd3
from compress.process.colour import ColourFix
from compress.process.shared_norms import SharedNorms
from compress.process.velocity import VelocityStep

NOISE = "posterior_noise"
LORA_ALPHA = 64.0  # at rank 64
BLENDED = Tiling(tile=64, overlap=8, colour_fix="wavelet", margin=MARGIN)


def published_tiling(
    tile: int = 64, overlap: int = 8, encoder_tile: int = 1024, decoder_tile: int = 224
) -> Tiling:
    """The tiles of the authors' script with --is_use_tile.

    Args:
        tile: Side of a latent tile in latent pixels.
        overlap: How many latent pixels neighbours share at least.
        encoder_tile: Side of the encoder's tiles in pixels of the enlarged image.
        decoder_tile: Side of the decoder's tiles in latent pixels.
    """
    return Tiling(
        tile,
        overlap,
        flush=True,
        shared_norms=(
            SharedNorms("encoder", "encoder", encoder_tile, margin=32, scale=1 / 8),
            SharedNorms("decoder", "", decoder_tile, margin=11, scale=8),
        ),
    )


TILINGS = {"blended": BLENDED, "shared_norms": published_tiling()}
EMBEDDINGS = "the folder dataset/default of its repository, with prompt_embeds.pt, pool_embeds.pt"


class TSDSRSource(VAEWidths, ReleasedSource):
    """TSD-SR: SD 3's transformer and its VAE of 16 channels."""

    title: ClassVar[str] = "TSD-SR"
    files: ClassVar[dict[str, str]] = {
        "weights": "the weight file of a nano, which recipes/train/tsdsr_nano.yaml trains",
        "base": "Stable Diffusion 3-medium: a folder in diffusers' layout, a hub id, or the "
        "single file sd3_medium.safetensors",
        "lora": LORA,
        "embeddings": EMBEDDINGS,
    }
    base_parts: ClassVar[tuple[str, ...]] = PARTS

    family: Literal["tsdsr"] = Field("tsdsr", description="The name of this family.")
    size: Literal["nano", "full"] = Field(
        "nano",
        description="`full` reads Stable Diffusion 3 from `base`, TSD-SR from `lora` and its "
        "prompt from `embeddings`; `nano` has the same parts, small.",
    )
    weights: str | None = Field(
        None, description="For `nano`, another weight file than the embedded one."
    )
    base: str | None = Field(
        None,
        description="For `full`, Stable Diffusion 3-medium: a folder in diffusers' layout, a hub "
        "id, or the single file of its release.",
    )
    lora: str | None = Field(
        None,
        description="For `full`, the folder checkpoint/tsdsr or checkpoint/tsdsr-mse, with "
        "transformer.safetensors and vae.safetensors; null for the base alone.",
    )
    lora_alpha: float = Field(
        LORA_ALPHA,
        gt=0,
        le=4096,
        description="For `full`, the alpha of those pairs, which count alpha / rank = 1.",
    )
    embeddings: str | None = Field(None, description=f"For `full`, {EMBEDDINGS}.")
    model: Model = Field(
        "sd3",
        description="For `full`, the transformer: `sd3` is SD 3-medium, as published; `sd35` is SD "
        "3.5-medium, with normalised queries and keys and a second attention in 13 blocks.",
    )
    # Pixels in [-1, 1] have a deviation of about 0.5, the latents of a flow one of 1.
    latent_scale: float = Field(2.0, gt=0, le=4096, description=SCALE_TEXT)
    heads: int = Field(
        6, gt=0, le=64, description="For `nano`, the transformer's heads of 16 channels."
    )
    blocks: int = Field(8, ge=2, le=64, description="For `nano`, the transformer's blocks.")
    sample: bool = Field(
        False,
        description="Whether the latent of the input is drawn from its Gaussian, with fixed noise, "
        "as published; else it is the mean.",
    )
    colour_fix: ColourFix = Field("wavelet", description="How the image is corrected by the input.")
    tiles: Literal["blended", "shared_norms"] = Field(
        "blended",
        description="How large images are cut: `blended` tiles, spaced evenly, with a reflected "
        "margin; or as published with --is_use_tile, latent tiles flush with the border and an "
        "autoencoder in padded tiles whose group norms share their statistics.",
    )

    @classmethod
    def nano_keys(cls) -> tuple[str, ...]:
        """See `VAEWidths`."""
        return (*super().nano_keys(), "heads", "blocks")

    @model_validator(mode="after")
    def _model_of_full(self) -> "TSDSRSource":
        # Not whether they are set: a stored header names all fields.
        for key in ("model", "lora_alpha"):
            if self.is_nano() and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} is of size 'full'; leave it out")
        return self

    def build(self) -> SRModel:
        """The structure, on the meta device; no weight is read."""
        with torch.device("meta"):
            if self.is_nano():
                vae = self.nano_vae()
                transformer = nano_transformer(self.latent_channels, self.blocks, self.heads)
                prompt = ConstantPrompt(NANO_TOKENS, NANO_TEXT, NANO_TEXT)
            else:
                vae = sd3_vae()
                transformer = sd3_transformer(self.model)
                sizes = TRANSFORMERS[self.model]
                prompt = ConstantPrompt(
                    TOKENS, sizes["joint_attention_dim"], sizes["pooled_projection_dim"]
                )
            channels: int = vae.config["latent_channels"]
            networks: dict[str, nn.Module | None] = {
                "text_encoder": prompt,
                "noise": NoiseMaps(1, channels) if self.sample else None,
                "encoder": ClampedEncoder(vae),
                "denoiser": MMDiTDenoiser(transformer, VelocityStep().timestep),
                "decoder": VAEDecoder(vae),
            }
        return tsdsr_model(networks, self.colour_fix, TILINGS[self.tiles])

    @torch.no_grad()
    def start(self, model: SRModel) -> None:
        """See `Source`: a nano's transformer adds nothing at first, so that z0 = z."""
        super().start(model)
        if self.is_nano():
            for parameter in model.component(
                "denoiser", self.title
            ).transformer.proj_out.parameters():
                nn.init.zeros_(parameter)

    def take_over(self, model: SRModel, other: SRModel, where: str) -> None:
        """See `Source`: a nano takes encoder and decoder of a nano of one step."""
        if not self.is_nano():
            raise UserError(
                f"{where} is a nano, and source.size '{self.size}' begins with published files; "
                "leave start out"
            )
        take_autoencoder(model, other, where)

    def load_full(self, model: SRModel) -> None:
        """See `ReleasedSource`."""
        files = Released(self.named("base"), self.lora, self.named("embeddings"), self.lora_alpha)
        load_sd3(model, files, TRANSFORMERS[self.model])
        if self.sample:
            model.component("noise", self.title).reset_parameters()


def tsdsr_model(
    networks: dict[str, nn.Module | None],
    colour_fix: str = "wavelet",
    tiling: Tiling = BLENDED,
) -> SRModel:
    """The model of TSD-SR's parts.

    Args:
        networks: `text_encoder`, `encoder`, `denoiser`, `decoder`, and `noise` for a latent that is
            drawn.
        colour_fix: A key of `compress.process.colour.FIXES`.
        tiling: How large images are cut.
    """
    # Without noise the wiring is a plain one, which passes know.
    drawn = (NOISE,) if networks.get("noise") is not None else ()
    parts = {name: part for name, part in networks.items() if drawn or name != "noise"}
    calls = (
        Call("text_encoder", (), ("context", "pooled")),
        *(Call("noise", (LR,), drawn) for _ in drawn),
        Call("encoder", (LR, *drawn), (LATENT,)),
        Call("denoiser", (STATE, "context", "pooled"), (PREDICTION,), each_step=True),
        Call("decoder", (CLEAN_LATENT,), (IMAGE,)),
    )
    return SRModel(
        parts,
        VelocityStep(),
        wiring=Wiring(calls, map_ratios(0.5, **dict.fromkeys(drawn, 0.5))),
        colour_fix=colour_fix,
        tiling=tiling,
    ).eval()
