"""The canonical model: encoder -> denoiser -> process -> decoder, to an image four times as large.

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
from compress.process.padding import round_up, surround
from compress.process.resample import SCALE
from compress.process.residual_sampler import ResidualSampler
from compress.process.tiling import Cut, tiled, tiled_rows

Process = OneStep | Direct | ResidualSampler | Bidirectional


@dataclass(frozen=True)
class Tiling:
    """How a large image is cut into tiles.

    Attributes:
        tile: Side of a tile in latent pixels, a multiple of what the denoiser takes. Maps no larger
            than this stay whole.
        overlap: How many latent pixels neighbours share.
        colour_fix: The colour correction of images of several tiles; None for the model's own.
        margin: How many input pixels are reflected beyond every border and cropped from the result.
            Networks see zeros there, and what they make of the outermost pixels is a frame. 0 is
            what published pipelines do. Tiles at the borders have it beside `tile`.
    """

    tile: int = 96
    overlap: int = 32
    colour_fix: str | None = None
    margin: int = 0


# tests/bench/bench_frame.py: less leaves a frame on some family, more improves nothing.
MARGIN = 16
WHOLE = Tiling()


class SRModel(nn.Module):
    """A x4 super-resolution model in latent space.

    Args:
        encoder: Takes the low-resolution image, float [B, 3, h, w] in [0, 1]. Returns a latent
            [B, C, h * r, w * r], where r is `latent_ratio`.
        denoiser: Called as (state, context). Returns a prediction of as many pixels. For a process
            of several steps it takes the timesteps, int64 [B], as third argument.
        decoder: Takes the clean latent. Returns an image [B, 3, 4h, 4w] in about [0, 1].
        process: `process.restore(latent, predict)` calls the denoiser once, or for each of
            `process.steps`, and returns the clean latent.
        text_encoder: Called without arguments, returns the context. None for a model whose denoiser
            holds its context, or needs none.
        colour_fix: How the image is corrected by the input, one of
            `compress.process.colour.FIXES`.
        multiple: Sides of the input that the networks take are multiples of it.
        latent_ratio: Side of the latent by side of the input.
        tiling: How large images are cut.

    Raises:
        UserError: `colour_fix` is unknown.
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
        tiling: Tiling = WHOLE,
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
        if tiles and self.colour_fix != "none" and self.tiling.colour_fix:
            return self.tiling.colour_fix
        return self.colour_fix

    def fix(self, tiles: bool) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The colour correction (image, lr) -> image, of one made of several `tiles` or not."""
        return FIXES[self.fix_name(tiles)]

    def context(self) -> torch.Tensor | None:
        """What the text encoder puts out; None for a model without one."""
        return None if self.text_encoder is None else self.text_encoder()

    def clean_latent(
        self, latent: torch.Tensor, context: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The clean latent x0 [B, C', h, w] of an encoded low-resolution image.

        Args:
            latent: What the encoder put out, [B, C, h, w].
            context: Saves a call of the text encoder.
        """
        text = self.context() if context is None else context
        return self.process.restore(latent, lambda x, *step: self.denoiser(x, text, *step))

    def predictions(
        self, latent: torch.Tensor, context: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """What the denoiser puts out on the way to the clean latent: one tensor for each step.

        Arguments are those of `clean_latent`.
        """
        text = self.context() if context is None else context
        outputs: list[torch.Tensor] = []

        def predict(x: torch.Tensor, *step: torch.Tensor) -> torch.Tensor:
            outputs.append(self.denoiser(x, text, *step))
            return outputs[-1]

        self.process.restore(latent, predict)
        return outputs

    def network(self, lr: torch.Tensor) -> torch.Tensor:
        """What is trained, counted and exported: legal sizes, no tiles, no colour fix, no clamp."""
        return self.decoder(self.clean_latent(self.encoder(lr)))

    def tiles(self, lr: torch.Tensor) -> tuple[Tiling, bool]:
        """The tiling of an image float [B, 3, h, w], and whether it has several tiles.

        Where the image fits one tile, the tile is as large as the padded map. Else the margin is in
        whole multiples of `multiple`.
        """
        sides = [round_up(side, self.multiple) for side in lr.shape[-2:]]
        if max(sides) * self.latent_ratio > self.tiling.tile:
            return replace(self.tiling, margin=round_up(self.tiling.margin, self.multiple)), True
        margins = 2 * self.tiling.margin
        padded = [round_up(side + margins, self.multiple) for side in lr.shape[-2:]]
        return replace(self.tiling, tile=int(max(padded) * self.latent_ratio)), False

    def _encode(self, lr: torch.Tensor, how: Tiling, margin: int) -> torch.Tensor:
        """The latent of the image with its margin, by tiles."""
        return tiled(
            self.encoder,
            surround(lr, how.margin, self.multiple),
            int(how.tile / self.latent_ratio),
            int(how.overlap / self.latent_ratio),
            self.latent_ratio,
            self.multiple,
            margin,
        )

    def _restore(self, latent: torch.Tensor, cut: Cut) -> torch.Tensor:
        """The clean latent, each call of the denoiser by tiles."""
        context = self.context()

        def predict(x: torch.Tensor, *step: torch.Tensor) -> torch.Tensor:
            return tiled(
                lambda z: self.denoiser(z, context, *step),
                x,
                cut.tile,
                cut.overlap,
                align=cut.align,
                margin=cut.margin,
            )

        return self.process.restore(latent, predict)

    def image_rows(
        self, lr: torch.Tensor, progress: Callable[[str], None] | None = None
    ) -> Iterator[torch.Tensor]:
        """What the networks make of `lr`, before any correction.

        Arguments and errors are those of `forward`.

        Yields:
            Strips [B, 3, rows, 4w] from top to bottom.
        """
        height, width = check_image_tensor(lr).shape[-2:]
        if min(height, width) < MIN_SIDE:
            raise UserError(
                f"an image of {width}x{height} pixels is too small; "
                f"both sides must be at least {MIN_SIDE}"
            )
        report = progress or _report_nothing
        how, several = self.tiles(lr)
        ratio = self.latent_ratio
        margin = how.margin if several else 0  # one piece has it within
        cut = Cut(how.tile, how.overlap, int(self.multiple * ratio), int(margin * ratio))
        report("encoder")
        latent = self._encode(lr, how, margin)
        report("denoiser")
        clean = self._restore(latent, cut)
        del latent
        report("decoder")
        left = how.margin * SCALE
        skip = how.margin * SCALE
        missing = height * SCALE
        for strip in tiled_rows(self.decoder, clean, replace(cut, align=1), SCALE / ratio):
            rows = strip[..., skip : skip + missing, left : left + width * SCALE]
            skip = max(0, skip - strip.shape[-2])
            missing -= rows.shape[-2]
            if rows.shape[-2]:
                yield rows

    def forward(
        self, lr: torch.Tensor, progress: Callable[[str], None] | None = None
    ) -> torch.Tensor:
        """Super-resolve float [B, 3, h, w] in [0, 1], sides from 16, to [B, 3, 4h, 4w] in [0, 1].

        Beyond the borders lies a reflection, `tiling.margin` pixels wide and on to multiples of
        `multiple`; it is cropped again. Images larger than a tile run in Gaussian-blended tiles
        through each of the three networks, with one colour correction over the whole.
        `upscale_bytes` needs far less memory for a large image.

        Args:
            lr: The image.
            progress: Told the name of each network before it runs.

        Raises:
            UserError: The image is too small, or no image tensor (`check_image_tensor`).
        """
        image = torch.cat(list(self.image_rows(lr, progress)), dim=-2)
        _, several = self.tiles(lr)
        return self.fix(several)(image, lr).clamp(0, 1)

    @torch.no_grad()
    def upscale_bytes(
        self, lr: torch.Tensor, progress: Callable[[str], None] | None = None
    ) -> np.ndarray:
        """As `forward`, to 8-bit pixels; no float image is ever whole in memory.

        Args:
            lr: One image, float [1, 3, h, w] in [0, 1].
            progress: As in `forward`.

        Returns:
            uint8 [4h, 4w, 3].

        Raises:
            UserError: As `forward` does; also for several images, for values that are not finite,
                and for a temporary file without room.
        """
        if len(lr) != 1:
            raise UserError(f"a batch of {len(lr)} images has no one result; give one image")
        rows = (strip[0].float().cpu().numpy() for strip in self.image_rows(lr, progress))
        _, several = self.tiles(lr)
        height, width = lr.shape[-2:]
        try:
            fixed = strips.corrected(
                rows, lr[0].float().cpu().numpy(), self.fix_name(several), SCALE
            )
            return strips.to_bytes(fixed, height * SCALE, width * SCALE)
        except strips.StripError as error:
            raise UserError(str(error)) from None


def _report_nothing(_component: str) -> None:
    pass
