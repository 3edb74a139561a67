"""Edge-SD-SR (CVPR 2025): LR encoder, small UNet and light decoder under bidirectional conditioning; and our nano.

[KNOWN] from abstract and survey: SD 1.5 as base, a UNet of 158M, about 169M and 142 GFLOPs in all for 128 -> 512, one
step, 512 -> 2048 in 25 evaluations. [REC] our reconstruction, whose counts meet those: all widths and depths below. No
checkpoint is published.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from diffusers import UNet2DConditionModel
from pydantic import Field
from torch import nn

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.core.tensors import read_tensors
from compress.model.source import Source
from compress.model.sr_model import MARGIN, SRModel, Tiling
from compress.networks.edge import CleanDenoiser, LightDecoder, LREncoder
from compress.process.bidirectional import Bidirectional
from compress.process.colour import ColourFix

ASSET = Path(__file__).parent.parent / "assets" / "edge_nano.safetensors"
CHANNELS = 4  # of the latent
SIGMA = 0.3  # sigma_L at the start of a training


@dataclass(frozen=True)
class Shape:
    """Widths count from the largest map on; `attention` names the UNet's levels with self-attention."""

    unet: tuple[int, ...]
    unet_blocks: int  # residual blocks a level on the way down, one more on the way up
    attention: tuple[int, ...]
    groups: int
    decoder: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    encoder: tuple[int, int]
    encoder_blocks: tuple[int, int]
    shuffle: bool = False
    head: int | None = None  # channels a head; None: 8 heads, as SD 1.5 has

    def heads(self, like: Literal["sd15", "sd21"]) -> tuple[int, ...]:
        """How many heads each level has, those without attention included."""
        size = self.head or (64 if like == "sd21" else None)
        return tuple(max(1, width // size) if size else 8 for width in self.unet)


SHAPES = {
    # [REC] 169.0M and 140.7 GMACs at 128 -> 512.
    "default": Shape(
        unet=(128, 256, 448, 704),
        unet_blocks=2,
        attention=(1, 2),
        groups=32,
        decoder=(320, 160, 64, 24),
        decoder_blocks=(4, 3, 2, 1),
        encoder=(64, 176),
        encoder_blocks=(2, 3),
    ),
    # [REC] if the published 142 GFLOPs are two for a MAC: 164.5M and 71.3 GMACs.
    "lite": Shape(
        unet=(112, 224, 512, 768),
        unet_blocks=1,
        attention=(2, 3),
        groups=16,
        decoder=(512, 64, 32, 16),
        decoder_blocks=(1, 2, 2, 1),
        encoder=(48, 160),
        encoder_blocks=(1, 4),
    ),
    # Ours. Most weights work at the size of the latent, none at that of the image: at 512 x 512 a convolution of 12
    # channels costs as much as one of 96 on the latent, so the last doubling is a pixel shuffle.
    "nano": Shape(
        unet=(64, 64, 96),
        unet_blocks=1,
        attention=(1, 2),
        groups=16,
        head=32,
        shuffle=True,
        decoder=(96, 48, 24),
        decoder_blocks=(2, 2, 1),
        encoder=(32, 64),
        encoder_blocks=(1, 2),
    ),
}


def small_unet(shape: Shape, heads: tuple[int, ...]) -> UNet2DConditionModel:
    """diffusers' own UNet without cross-attention, [z_t, mu_L] -> C channels."""
    from compress.passes.strip import remove_context  # the passes import compress.families

    count = len(shape.unet)
    down = tuple(
        "CrossAttnDownBlock2D" if i in shape.attention else "DownBlock2D" for i in range(count)
    )
    up = tuple(
        "CrossAttnUpBlock2D" if i in shape.attention else "UpBlock2D"
        for i in reversed(range(count))
    )
    unet = UNet2DConditionModel(
        sample_size=64,
        in_channels=2 * CHANNELS,
        out_channels=CHANNELS,
        layers_per_block=shape.unet_blocks,
        block_out_channels=shape.unet,
        down_block_types=down,
        up_block_types=up,
        norm_num_groups=shape.groups,
        # diffusers calls the number of heads `attention_head_dim` here; the text's width is of no account.
        attention_head_dim=heads,
        cross_attention_dim=shape.unet[0],
        use_linear_projection=True,
    )
    remove_context(unet)
    return unet


class EdgeSDSRSource(Source):
    """`size: nano` comes with the package. `default` and `lite` need `weights`, a file of this toolkit's training, or
    `base`, Stable Diffusion 1.5 or 2.1, from whose UNet they inherit what fits and which must then be trained.

    `mean` and `variance` switch off parts of the conditioning for ablation (process/bidirectional.py).
    """

    family: Literal["edge_sd_sr"] = "edge_sd_sr"
    size: Literal["nano", "lite", "default"] = "nano"
    weights: str | None = (
        None  # a file that compress.train wrote; nano: in place of the embedded one
    )
    base: str | None = None  # default, lite: folder in diffusers' layout, or a hub id
    heads: Literal["sd15", "sd21"] = (
        "sd15"  # default, lite: 8 heads each, or heads of 64 channels; as `base` has
    )
    mean: bool = True
    variance: bool = True
    sigma_min: float = Field(0.05, gt=0, le=1)
    colour_fix: ColourFix = "adain"

    def build(self) -> SRModel:
        """The structure, on the meta device; no weight is read."""
        shape = SHAPES[self.size]
        with torch.device("meta"):
            unet = small_unet(shape, shape.heads(self.heads))
            encoder = LREncoder(shape.encoder, shape.encoder_blocks, CHANNELS)
            decoder = LightDecoder(shape.decoder, shape.decoder_blocks, CHANNELS, shape.shuffle)
            process = Bidirectional(CHANNELS, self.mean, self.variance, self.sigma_min)
        # Tiles of 128 px at a stride of 96: 25 of them for 512 x 512. The number is published, the sizes are not.
        model = SRModel(
            encoder,
            CleanDenoiser(unet, process.timestep),
            decoder,
            process,
            colour_fix=self.colour_fix,
            multiple=2 ** len(shape.unet),
            tiling=Tiling(tile=64, overlap=16, margin=MARGIN),
        )
        return model.eval()

    @torch.no_grad()
    def start(self, model: SRModel) -> None:
        """What a training begins with, on top of random values: f_theta the identity, sigma_L constant, and what
        `base` has to give."""
        if self.base:
            from compress.families.edge_inherit import inherit

            inherit(model.denoiser.unet, self.base)
        nn.init.zeros_(model.denoiser.unet.conv_out.weight)
        nn.init.zeros_(model.denoiser.unet.conv_out.bias)
        model.encoder.start_variance(SIGMA)

    def load(self, model: SRModel) -> None:
        """Read the values into what `build` returned."""
        if self.base and not self.weights:
            from compress.families.edge_inherit import random_values

            random_values(model)
            self.start(model)
        else:
            file = Path(self.weights) if self.weights else ASSET
            if self.size != "nano" and not self.weights:
                raise UserError(
                    f"source.weights: no checkpoint of Edge-SD-SR is published, so size '{self.size}' "
                    "needs a file that compress.train wrote for it, or source.base with Stable Diffusion "
                    "1.5 or 2.1 to inherit from and a training after it (--plan needs neither)"
                )
            if not file.is_file():
                raise UserError(
                    f"source.weights: {file} does not exist; give a weight file that recipes/train/"
                    "edge_nano.yaml wrote"
                    + ", or leave it out for the embedded weights"
                    * bool(self.weights and self.size == "nano")
                )
            read_tensors(model, file)
        model.eval().requires_grad_(False)

    def data_key(self) -> str:
        """Identity of the weight files, part of cache keys."""
        base = Path(self.base) / "unet" if self.base else None
        return files_key([f for f in (self.weights, base) if f] or [ASSET])
