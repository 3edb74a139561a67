"""The canonical model: encoder -> denoiser -> process -> decoder, from a small image to one four times its size.

Quantisers, exporters and metrics know this interface and never a model family.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from compress.errors import UserError
from compress.image import MIN_SIDE, check_image_tensor
from compress.process.bidirectional import Bidirectional
from compress.process.colour import FIXES
from compress.process.direct import Direct
from compress.process.one_step import OneStep
from compress.process.padding import pad
from compress.process.resample import SCALE, upsample  # noqa: F401  both are imported from here as well
from compress.process.residual_sampler import ResidualSampler
from compress.process.tiling import tiled

Process = OneStep | Direct | ResidualSampler | Bidirectional


@dataclass(frozen=True)
class Tiling:
    """Tile sizes in latent pixels, multiples of what the denoiser takes. Maps no larger than `tile` stay whole.

    `colour_fix` corrects images of several tiles, None by the model's own.
    """

    tile: int = 96
    overlap: int = 32
    colour_fix: str | None = None


class SRModel(nn.Module):
    """A x4 super-resolution model in latent space.

    `encoder(lr)` takes float [B, 3, h, w] in [0, 1] and returns a latent [B, C, h*r, w*r], r = `latent_ratio`;
    `denoiser(state, context)` returns a prediction of as many pixels; `process.restore(latent, predict)` calls it once
    or, with the timestep as third argument, for each of `process.steps`, and returns the clean latent;
    `decoder(latent)` returns an image [B, 3, 4h, 4w] in about [0, 1]. `text_encoder()`, where a model still has one,
    returns the context; otherwise the denoiser holds it.
    """

    COMPONENTS = ("text_encoder", "encoder", "denoiser", "decoder")

    def __init__(self, encoder: nn.Module, denoiser: nn.Module, decoder: nn.Module, process: Process, *,
                 text_encoder: nn.Module | None = None, colour_fix: str = "adain", multiple: int = 16,
                 latent_ratio: float = 0.5, tiling: Tiling = Tiling()):
        super().__init__()
        if colour_fix not in FIXES:
            raise UserError(f"colour_fix '{colour_fix}' is unknown; choose one of {', '.join(FIXES)}")
        self.text_encoder = text_encoder
        self.encoder = encoder
        self.denoiser = denoiser
        self.decoder = decoder
        self.process = process
        self.colour_fix = colour_fix
        self.multiple = multiple
        self.latent_ratio = latent_ratio
        self.tiling = tiling

    def components(self) -> Iterator[tuple[str, nn.Module]]:
        """(name, module) of the parts this model has, in the order they run."""
        for name in self.COMPONENTS:
            module = getattr(self, name)
            if module is not None:
                yield name, module

    def fix(self, tiles: bool) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The colour correction (image, lr) -> image, of one made of several `tiles` or not."""
        own = self.tiling.colour_fix if tiles and self.colour_fix != "none" else None
        return FIXES[own or self.colour_fix]

    def context(self) -> torch.Tensor | None:
        return None if self.text_encoder is None else self.text_encoder()

    def clean_latent(self, latent: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """The clean latent x0 [B, C', h, w] of an encoded low-resolution image. `context` saves a call of the text
        encoder."""
        context = self.context() if context is None else context
        return self.process.restore(latent, lambda x, *step: self.denoiser(x, context, *step))

    def predictions(self, latent: torch.Tensor, context: torch.Tensor | None = None) -> list[torch.Tensor]:
        """What the denoiser puts out on the way to the clean latent: one tensor for each step of the process."""
        context, seen = self.context() if context is None else context, []

        def predict(x: torch.Tensor, *step: torch.Tensor) -> torch.Tensor:
            seen.append(self.denoiser(x, context, *step))
            return seen[-1]

        self.process.restore(latent, predict)
        return seen

    def network(self, lr: torch.Tensor) -> torch.Tensor:
        """What is trained, counted and exported: legal sizes only, no tiles, no colour fix, no clamp."""
        return self.decoder(self.clean_latent(self.encoder(lr)))

    def forward(self, lr: torch.Tensor, progress: Callable[[str], None] | None = None) -> torch.Tensor:
        """Super-resolve float [B, 3, h, w] in [0, 1] of any size from 16 to [B, 3, 4h, 4w] in [0, 1].

        Sides are reflect-padded to multiples of `multiple` and cropped again. Images larger than a tile run in
        Gaussian-blended tiles through each of the three networks, with one colour correction over the whole.
        """
        height, width = check_image_tensor(lr).shape[-2:]
        if min(height, width) < MIN_SIDE:
            raise UserError(f"an image of {width}x{height} pixels is too small; both sides must be at least {MIN_SIDE}")
        say = progress or (lambda stage: None)
        padded = pad(lr, -width % self.multiple, -height % self.multiple)
        tile, overlap, ratio = self.tiling.tile, self.tiling.overlap, self.latent_ratio
        context = self.context()
        say("encoder")
        latent = tiled(self.encoder, padded, int(tile / ratio), int(overlap / ratio), ratio, self.multiple)
        say("denoiser")
        align = int(self.multiple * ratio)
        clean = self.process.restore(
            latent, lambda x, *step: tiled(lambda z: self.denoiser(z, context, *step), x, tile, overlap, align=align))
        say("decoder")
        image = tiled(self.decoder, clean, tile, overlap, SCALE / ratio)
        fix = self.fix(tiles=max(latent.shape[-2:]) > tile)
        return fix(image[..., :height * SCALE, :width * SCALE], lr).clamp(0, 1)
