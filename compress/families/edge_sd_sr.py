"""Edge-SD-SR (CVPR 2025): LR encoder, small UNet and light decoder; and our nano model.

The three parts work under bidirectional conditioning (process/bidirectional.py).

[KNOWN] from abstract and survey: SD 1.5 as base, a UNet of 158M, about 169M and 142 GFLOPs in all
for 128 -> 512, one step, 512 -> 2048 in 25 evaluations. [REC] our reconstruction, whose counts meet
those: all widths and depths below. No checkpoint is published.
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
from compress.families.edge_inherit import inherit
from compress.folding.conditions import remove_context
from compress.model.source import Source
from compress.model.sr_model import MARGIN, SRModel, Tiling
from compress.networks.edge import CleanDenoiser, LightDecoder, LREncoder
from compress.process.bidirectional import Bidirectional
from compress.process.colour import ColourFix

ASSET = Path(__file__).parent.parent / "assets" / "edge_nano.safetensors"
CHANNELS = 4  # of the latent
SIGMA = 0.3  # sigma_L at the start of a training
HEADS_SD15 = 8  # of each level, whatever its width
HEAD_CHANNELS_SD21 = 64
# Tiles of 128 px at a stride of 96: 25 of them for 512 x 512. The number is published, the sizes
# are not. In latent pixels.
TILE, OVERLAP = 64, 16


@dataclass(frozen=True)
class Shape:
    """Widths and depths of the three networks. Widths count from the largest map on.

    Attributes:
        unet: Channels of the UNet's levels.
        unet_blocks: Residual blocks of a level on the way down; there is one more on the way up.
        attention: The UNet's levels with self-attention.
        groups: Groups of the UNet's norms.
        decoder: Channels of the decoder's levels.
        decoder_blocks: Blocks of the decoder's levels.
        encoder: Channels of the encoder's levels.
        encoder_blocks: Blocks of the encoder's levels.
        shuffle: Whether the decoder's last doubling is a pixel shuffle.
        head: Channels of an attention head; None for those of Stable Diffusion.
    """

    unet: tuple[int, ...]
    unet_blocks: int
    attention: tuple[int, ...]
    groups: int
    decoder: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    encoder: tuple[int, int]
    encoder_blocks: tuple[int, int]
    shuffle: bool = False
    head: int | None = None

    def heads(self, like: Literal["sd15", "sd21"]) -> tuple[int, ...]:
        """How many heads each level has, those without attention included.

        Args:
            like: 8 heads each as in Stable Diffusion 1.5, or heads of 64 channels as in 2.1.
        """
        size = self.head
        if size is None and like == "sd21":
            size = HEAD_CHANNELS_SD21
        if size is None:
            return (HEADS_SD15,) * len(self.unet)
        return tuple(max(1, width // size) for width in self.unet)


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
    # Ours. Most weights work at the size of the latent, none at that of the image. At 512 x 512 a
    # convolution of 12 channels costs as much as one of 96 on the latent, so the last doubling is a
    # pixel shuffle.
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
    """diffusers' own UNet without cross-attention.

    It maps [z_t, mu_L], which is [B, 2 * CHANNELS, h, w], to [B, CHANNELS, h, w].

    Args:
        shape: Widths and depths.
        heads: Attention heads of each level.
    """
    down = []
    up = []
    for level in range(len(shape.unet)):
        kind = "CrossAttn" if level in shape.attention else ""
        down.append(f"{kind}DownBlock2D")
        up.append(f"{kind}UpBlock2D")
    unet = UNet2DConditionModel(
        sample_size=64,
        in_channels=2 * CHANNELS,
        out_channels=CHANNELS,
        layers_per_block=shape.unet_blocks,
        block_out_channels=shape.unet,
        down_block_types=tuple(down),
        up_block_types=tuple(reversed(up)),
        norm_num_groups=shape.groups,
        # diffusers calls the number of heads `attention_head_dim` here.
        attention_head_dim=heads,
        # The text's width is of no account: cross-attention goes.
        cross_attention_dim=shape.unet[0],
        use_linear_projection=True,
    )
    remove_context(unet)
    return unet


def random_values(model: SRModel, seed: int = 0) -> None:
    """Random values for a meta model, each module's own, whatever the random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.to_empty(device="cpu")
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()


class EdgeSDSRSource(Source):
    """Edge-SD-SR as reconstructed here, and the nano model, which comes with the package.

    `default` and `lite` need `weights` or `base`. From the UNet of `base` they inherit what fits,
    and must then be trained.
    """

    family: Literal["edge_sd_sr"] = Field("edge_sd_sr", description="The name of this family.")
    size: Literal["nano", "lite", "default"] = Field(
        "nano", description="`nano` comes with the package; `lite` and `default` are trained first."
    )
    weights: str | None = Field(
        None,
        description="A file that compress.train wrote; for `nano`, in place of the embedded one.",
    )
    base: str | None = Field(
        None,
        description="For `default` and `lite`, Stable Diffusion 1.5 or 2.1 to inherit from: a "
        "folder in diffusers' layout, or a hub id.",
    )
    heads: Literal["sd15", "sd21"] = Field(
        "sd15",
        description="For `default` and `lite`, 8 heads each (sd15) or heads of 64 channels (sd21), "
        "as `base` has.",
    )
    mean: bool = Field(
        True, description="The encoder's mean is in the states; false drops it, as an ablation."
    )
    variance: bool = Field(
        True,
        description="The encoder's variance scales the noise; false sets it to 1, as an ablation.",
    )
    sigma_min: float = Field(
        0.05, gt=0, le=1, description="The least standard deviation that the encoder may give."
    )
    colour_fix: ColourFix = Field("adain", description="How the image is corrected by the input.")

    def build(self) -> SRModel:
        """The structure, on the meta device; no weight is read."""
        shape = SHAPES[self.size]
        with torch.device("meta"):
            unet = small_unet(shape, shape.heads(self.heads))
            encoder = LREncoder(shape.encoder, shape.encoder_blocks, CHANNELS)
            decoder = LightDecoder(shape.decoder, shape.decoder_blocks, CHANNELS, shape.shuffle)
            process = Bidirectional(CHANNELS, self.mean, self.variance, self.sigma_min)
        model = SRModel(
            {
                "encoder": encoder,
                "denoiser": CleanDenoiser(unet, process.timestep),
                "decoder": decoder,
            },
            process,
            colour_fix=self.colour_fix,
            multiple=2 ** len(shape.unet),
            tiling=Tiling(tile=TILE, overlap=OVERLAP, margin=MARGIN),
        )
        return model.eval()

    @torch.no_grad()
    def start(self, model: SRModel) -> None:
        """What a training begins with, on top of random values.

        f_theta is the identity, sigma_L is constant, and the UNet has what `base` has to give.

        Raises:
            UserError: `base` cannot be read, or does not fit.
        """
        if not isinstance(model.denoiser, CleanDenoiser) or not isinstance(
            model.encoder, LREncoder
        ):
            raise TypeError("only a model as `build` made it can be started")
        unet = model.denoiser.unet
        if self.base:
            inherit(unet, self.base)
        for parameter in unet.conv_out.parameters():
            nn.init.zeros_(parameter)
        model.encoder.start_variance(SIGMA)

    def load(self, model: SRModel) -> None:
        """Read the values into what `build` returned, or inherit them from `base`.

        Raises:
            UserError: A file is not named, is missing, or holds other tensors than the model.
        """
        if self.base and not self.weights:
            random_values(model)
            self.start(model)
        else:
            read_tensors(model, self._file())
        model.eval().requires_grad_(False)

    def _file(self) -> Path:
        """The weight file. Raises UserError where there is none."""
        if self.size != "nano" and not self.weights:
            raise UserError(
                "source.weights: no checkpoint of Edge-SD-SR is published, so size "
                f"'{self.size}' needs a file that compress.train wrote for it, or source.base with "
                "Stable Diffusion 1.5 or 2.1 to inherit from and a training after it (--plan needs "
                "neither)"
            )
        file = Path(self.weights) if self.weights else ASSET
        if not file.is_file():
            remedy = "give a weight file that recipes/train/edge_nano.yaml wrote"
            if self.weights and self.size == "nano":
                remedy += ", or leave it out for the embedded weights"
            raise UserError(f"source.weights: {file} does not exist; {remedy}")
        return file

    def data_key(self) -> str:
        """Identity of the weight files, part of cache keys."""
        named: list[str | Path] = []
        if self.weights:
            named.append(self.weights)
        if self.base:
            named.append(Path(self.base) / "unet")
        return files_key(named or [ASSET])
