"""The canonical model: named components and a process, to an image four times as large.

Quantisers, exporters and metrics know this interface and never a model family.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from compress.core.errors import UserError
from compress.core.image import MIN_SIDE, check_image_tensor
from compress.model.calls import LATENT, Wiring, plain
from compress.model.components import Components, Process
from compress.model.tiled_run import MARGIN, WHOLE, TiledRun, Tiling, report_nothing
from compress.process import strips
from compress.process.colour import FIXES
from compress.process.padding import round_up
from compress.process.resample import SCALE

__all__ = ["MARGIN", "SCALE", "WHOLE", "Process", "SRModel", "Tiling"]

Images = Mapping[str, torch.Tensor]  # the images beside the low-resolution one, by their names


class SRModel(Components):
    """A x4 super-resolution model in latent space.

    Most have an encoder, a denoiser and a decoder, as `compress.model.calls.plain` wires them:

    - encoder: Takes the low-resolution image, float [B, 3, h, w] in [0, 1]. Returns a latent
      [B, C, h * r, w * r], where r is `latent_ratio`.
    - denoiser: Called as (state, context). Returns a prediction of as many pixels. For a process of
      several steps it takes the timesteps, int64 [B], as third argument.
    - decoder: Takes the clean latent. Returns an image [B, 3, 4h, 4w] in about [0, 1].
    - text_encoder: Called without arguments, returns the context. Left out in a model whose
      denoiser holds its context, or needs none.

    Args:
        components: Name -> network, in running order.
        process: `process.restore(latent, steps)` calls the components of a step once or several
            times, and returns the clean latent (compress/process/contract.py).
        wiring: The calls of a model with other components; None for those above.
        colour_fix: How the image is corrected by the input, one of
            `compress.process.colour.FIXES`.
        multiple: Sides of the input that the networks take are multiples of it.
        latent_ratio: Side of the latent by side of the input, where `wiring` is None.
        tiling: How large images are cut.

    Raises:
        UserError: `colour_fix` is unknown.
        ValueError: A component is never called.
    """

    # Roles that passes know by name. A model with another wiring may lack them.
    encoder: nn.Module
    denoiser: nn.Module
    decoder: nn.Module
    text_encoder: nn.Module | None

    def __init__(
        self,
        components: Mapping[str, nn.Module | None],
        process: Process,
        *,
        wiring: Wiring | None = None,
        colour_fix: str = "adain",
        multiple: int = 16,
        latent_ratio: float = 0.5,
        tiling: Tiling = WHOLE,
    ):
        if colour_fix not in FIXES:
            raise UserError(
                f"colour_fix '{colour_fix}' is unknown; choose one of {', '.join(FIXES)}"
            )
        super().__init__(components, process, wiring or plain(latent_ratio, process.steps > 1))
        self.colour_fix = colour_fix
        self.multiple = multiple
        self.tiling = tiling

    @property
    def latent_ratio(self) -> float:
        """Side of the latent by side of the input."""
        return self.wiring.ratios[LATENT]

    def fix_name(self, tiles: bool) -> str:
        """The name of the colour correction of an image made of several `tiles` or not."""
        if tiles and self.colour_fix != "none" and self.tiling.colour_fix:
            return self.tiling.colour_fix
        return self.colour_fix

    def fix(self, tiles: bool) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The colour correction (image, lr) -> image, of one made of several `tiles` or not."""
        return FIXES[self.fix_name(tiles)]

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

    def image_rows(
        self,
        lr: torch.Tensor,
        progress: Callable[[str], None] | None = None,
        images: Images | None = None,
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
        how, several = self.tiles(lr)
        values = self.given(lr, images)
        run = TiledRun(self, how, several, self.multiple)
        left = how.margin * SCALE
        skip = how.margin * SCALE
        missing = height * SCALE
        for strip in run.rows(values, progress or report_nothing):
            rows = strip[..., skip : skip + missing, left : left + width * SCALE]
            skip = max(0, skip - strip.shape[-2])
            missing -= rows.shape[-2]
            if rows.shape[-2]:
                yield rows

    def forward(
        self,
        lr: torch.Tensor,
        progress: Callable[[str], None] | None = None,
        images: Images | None = None,
    ) -> torch.Tensor:
        """Super-resolve float [B, 3, h, w] in [0, 1], sides from 16, to [B, 3, 4h, 4w] in [0, 1].

        Beyond the borders lies a reflection, `tiling.margin` pixels wide and on to multiples of
        `multiple`; it is cropped again. Images larger than a tile run in Gaussian-blended tiles
        through each network, with one colour correction over the whole.
        `upscale_bytes` needs far less memory for a large image.

        Args:
            lr: The image.
            progress: Told the name of each network before it runs.
            images: The further images of a model that takes some; no tiles are cut from them.

        Raises:
            UserError: The image is too small, or no image tensor (`check_image_tensor`); or a
                further image is missing, or has another size than the model takes.
        """
        image = torch.cat(list(self.image_rows(lr, progress, images)), dim=-2)
        _, several = self.tiles(lr)
        return self.fix(several)(image, lr).clamp(0, 1)

    @torch.no_grad()
    def upscale_bytes(
        self,
        lr: torch.Tensor,
        progress: Callable[[str], None] | None = None,
        images: Images | None = None,
    ) -> np.ndarray:
        """As `forward`, to 8-bit pixels; no float image is ever whole in memory.

        Args:
            lr: One image, float [1, 3, h, w] in [0, 1].
            progress: As in `forward`.
            images: As in `forward`.

        Returns:
            uint8 [4h, 4w, 3].

        Raises:
            UserError: As `forward` does; also for several images, for values that are not finite,
                and for a temporary file without room.
        """
        if len(lr) != 1:
            raise UserError(f"a batch of {len(lr)} images has no one result; give one image")
        rows = (strip[0].float().cpu().numpy() for strip in self.image_rows(lr, progress, images))
        _, several = self.tiles(lr)
        height, width = lr.shape[-2:]
        try:
            fixed = strips.corrected(
                rows, lr[0].float().cpu().numpy(), self.fix_name(several), SCALE
            )
            return strips.to_bytes(fixed, height * SCALE, width * SCALE)
        except strips.StripError as error:
            raise UserError(str(error)) from None
