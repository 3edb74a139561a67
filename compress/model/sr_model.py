"""The canonical model: encoder -> denoiser -> process -> decoder, from a small image to one four times its size.

Quantisers, exporters and metrics know this interface and never a model family.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from compress.core.errors import UserError
from compress.core.image import MIN_SIDE, check_image_tensor
from compress.process import strips
from compress.process.bidirectional import Bidirectional
from compress.process.colour import FIXES
from compress.process.direct import Direct
from compress.process.one_step import OneStep
from compress.process.padding import surround
from compress.process.resample import SCALE, upsample  # noqa: F401  both are imported from here as well
from compress.process.residual_sampler import ResidualSampler
from compress.process.tiling import Cut, tiled, tiled_rows

Process = OneStep | Direct | ResidualSampler | Bidirectional


@dataclass(frozen=True)
class Tiling:
    """Tile sizes in latent pixels, multiples of what the denoiser takes. Maps no larger than `tile` stay whole.

    `colour_fix` corrects images of several tiles, None by the model's own. `margin` is how many input pixels are
    reflected beyond every border and cropped from the result: networks see zeros there, and what they make of the
    outermost pixels is a frame. 0 is what published pipelines do. Tiles at the borders have it beside `tile`.
    """

    tile: int = 96
    overlap: int = 32
    colour_fix: str | None = None
    margin: int = 0


MARGIN = 16  # tests/bench/bench_frame.py: less leaves a frame on some family, more improves nothing


class SRModel(nn.Module):
    """A x4 super-resolution model in latent space.

    `encoder(lr)` takes float [B, 3, h, w] in [0, 1] and returns a latent [B, C, h*r, w*r], r = `latent_ratio`;
    `denoiser(state, context)` returns a prediction of as many pixels; `process.restore(latent, predict)` calls it once
    or, with the timestep as third argument, for each of `process.steps`, and returns the clean latent;
    `decoder(latent)` returns an image [B, 3, 4h, 4w] in about [0, 1]. `text_encoder()`, where a model still has one,
    returns the context; otherwise the denoiser holds it.
    """

    COMPONENTS = ("text_encoder", "encoder", "denoiser", "decoder")

    def __init__(
        self,
        encoder: nn.Module,
        denoiser: nn.Module,
        decoder: nn.Module,
        process: Process,
        *,
        text_encoder: nn.Module | None = None,
        colour_fix: str = "adain",
        multiple: int = 16,
        latent_ratio: float = 0.5,
        tiling: Tiling = Tiling(),
    ):
        super().__init__()
        if colour_fix not in FIXES:
            raise UserError(
                f"colour_fix '{colour_fix}' is unknown; choose one of {', '.join(FIXES)}"
            )
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

    def fix_name(self, tiles: bool) -> str:
        """The name of the colour correction of an image made of several `tiles` or not."""
        own = self.tiling.colour_fix if tiles and self.colour_fix != "none" else None
        return own or self.colour_fix

    def fix(self, tiles: bool) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The colour correction (image, lr) -> image, of one made of several `tiles` or not."""
        return FIXES[self.fix_name(tiles)]

    def context(self) -> torch.Tensor | None:
        return None if self.text_encoder is None else self.text_encoder()

    def clean_latent(
        self, latent: torch.Tensor, context: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The clean latent x0 [B, C', h, w] of an encoded low-resolution image. `context` saves a call of the text
        encoder."""
        context = self.context() if context is None else context
        return self.process.restore(latent, lambda x, *step: self.denoiser(x, context, *step))

    def predictions(
        self, latent: torch.Tensor, context: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
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

    def tiles(self, lr: torch.Tensor) -> tuple[Tiling, bool]:
        """The tiling of float [B, 3, h, w], with a tile as large as the padded map where the image fits one, else with
        a margin in whole multiples; and whether the image has several tiles."""
        sides = [side + -side % self.multiple for side in lr.shape[-2:]]
        if max(sides) * self.latent_ratio > self.tiling.tile:
            return replace(
                self.tiling, margin=-(-self.tiling.margin // self.multiple) * self.multiple
            ), True
        margin = 2 * self.tiling.margin
        padded = [side + margin + -(side + margin) % self.multiple for side in lr.shape[-2:]]
        return replace(self.tiling, tile=int(max(padded) * self.latent_ratio)), False

    def image_rows(
        self, lr: torch.Tensor, progress: Callable[[str], None] | None = None
    ) -> Iterator[torch.Tensor]:
        """What the networks make of `lr`, before any correction: strips [B, 3, rows, 4w] from top to bottom.

        Arguments and errors are those of `forward`.
        """
        height, width = check_image_tensor(lr).shape[-2:]
        if min(height, width) < MIN_SIDE:
            raise UserError(
                f"an image of {width}x{height} pixels is too small; both sides must be at least {MIN_SIDE}"
            )
        say = progress or (lambda stage: None)
        (how, several), ratio = self.tiles(lr), self.latent_ratio
        margin = how.margin if several else 0  # one piece has it within
        cut = Cut(how.tile, how.overlap, int(self.multiple * ratio), int(margin * ratio))
        context = self.context()
        say("encoder")
        latent = tiled(
            self.encoder,
            surround(lr, how.margin, self.multiple),
            int(how.tile / ratio),
            int(how.overlap / ratio),
            ratio,
            self.multiple,
            margin,
        )
        say("denoiser")
        clean = self.process.restore(
            latent,
            lambda x, *step: tiled(
                lambda z: self.denoiser(z, context, *step),
                x,
                cut.tile,
                cut.overlap,
                align=cut.align,
                margin=cut.margin,
            ),
        )
        del latent
        say("decoder")
        left, skip, wanted = how.margin * SCALE, how.margin * SCALE, height * SCALE
        for strip in tiled_rows(self.decoder, clean, replace(cut, align=1), SCALE / ratio):
            rows = strip[..., skip : skip + wanted, left : left + width * SCALE]
            skip, wanted = max(0, skip - strip.shape[-2]), wanted - rows.shape[-2]
            if rows.shape[-2]:
                yield rows

    def forward(
        self, lr: torch.Tensor, progress: Callable[[str], None] | None = None
    ) -> torch.Tensor:
        """Super-resolve float [B, 3, h, w] in [0, 1] of any size from 16 to [B, 3, 4h, 4w] in [0, 1].

        Beyond the borders lies a reflection, `tiling.margin` pixels wide and on to multiples of `multiple`; it is
        cropped again. Images larger than a tile run in Gaussian-blended tiles through each of the three networks, with
        one colour correction over the whole. `upscale_bytes` needs far less memory for a large image.
        """
        image = torch.cat(list(self.image_rows(lr, progress)), dim=-2)
        return self.fix(self.tiles(lr)[1])(image, lr).clamp(0, 1)

    @torch.no_grad()
    def upscale_bytes(
        self, lr: torch.Tensor, progress: Callable[[str], None] | None = None
    ) -> np.ndarray:
        """As `forward` of one image [1, 3, h, w], as uint8 [4h, 4w, 3]; no float image is ever whole in memory.

        Raises UserError as `forward` does, for values that are not finite, and for a temporary file without room.
        """
        if len(lr) != 1:
            raise UserError(f"a batch of {len(lr)} images has no one result; give one image")
        rows = (strip[0].float().cpu().numpy() for strip in self.image_rows(lr, progress))
        several, (height, width) = self.tiles(lr)[1], lr.shape[-2:]
        try:
            fixed = strips.corrected(
                rows, lr[0].float().cpu().numpy(), self.fix_name(several), SCALE
            )
            return strips.to_bytes(fixed, height * SCALE, width * SCALE)
        except strips.StripError as error:
            raise UserError(str(error)) from None
