"""The stage `pixel_blocks`: a start from which the rest is taught.

From random weights a network first has to learn to pass an image through. Here it passes one
through from the start.
"""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from compress.core.errors import UserError
from compress.networks.latent_diffusion import VAEEncoder
from compress.process.one_step import OneStep
from compress.process.velocity import VelocityStep
from compress.stages.base import Batch, Stage, StageRun
from compress.stages.images import ImageStage, Setting
from compress.stages.latents import encode_at_signal_scale
from compress.stages.pass_through import pass_pixels
from compress.stages.settings import ON_IMAGES
from compress.training.networks import expect
from compress.training.terms import Terms, wants


def pixel_blocks(image: torch.Tensor, side: int = 2) -> torch.Tensor:
    """Blocks of side x side pixels as channels: nothing of the image is lost.

    Args:
        image: [B, 3, h, w] in [0, 1].
        side: Of the blocks.

    Returns:
        [B, 3 * side**2, h/side, w/side] in [-1, 1]. At a side of 2 the order of channels is
        4 * colour + 2 * row + column.
    """
    return F.pixel_unshuffle(image * 2 - 1, side)


class PixelBlocks(ImageStage):
    """The encoder passes the pixels of its image through; the decoder learns to enlarge clean ones.

    The encoder is set to emit the pixel blocks of the low-resolution image, at signal scale
    (pass_through.py), and the loss `blocks` teaches it that further. The decoder learns to make an
    image of the blocks of its reduction by 4 (the losses on images). So with a prediction of 0 the
    model enlarges its input, and whatever is wrong with that input is left to the denoiser.

    Attributes:
        signal: What the encoder emits for a pixel of 1.
        decoded: What the decoder reads for one.
        passed_rms: The encoder's root mean square error on clean crops, where pixels span [-1, 1].
    """

    name = "pixel_blocks"
    families = ("osediff", "dfosd", "tsdsr")
    losses = ("blocks", *ON_IMAGES)
    takes_teacher = True

    def __init__(self, setting: Setting, clean: torch.Tensor):
        """Set the encoder of `setting.model`, on `clean` crops [B, 3, H, W] in [0, 1].

        Raises:
            UserError: The latent has not as many channels as a block has pixels, or the encoder
                has other proportions.
        """
        super().__init__(setting)
        learns_blocks = wants(self.weights, "blocks")
        self.trained = ("encoder", "decoder") if learns_blocks else ("decoder",)
        encoder = expect(self.model.encoder, VAEEncoder)
        channels = encoder.quant_conv.out_channels // 2
        self.side = round(1 / self.model.latent_ratio)
        wanted = 3 * self.side**2
        if channels != wanted:
            raise UserError(
                f"stages: 'pixel_blocks' needs {wanted} latent channels, the pixels of a block of "
                f"{self.side}x{self.side}, this source has {channels}; set source.latent_channels"
            )
        if isinstance(self.model.process, VelocityStep):
            self.signal = self.decoded = encoder.scaling_factor
        else:
            self.signal = expect(self.model.process, OneStep).signal
            self.decoded = 1.0
            encode_at_signal_scale(self.model)
        self.passed_rms = pass_pixels(encoder, clean, self.signal)

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """The stage, and its batches."""
        setting = Setting.of(run)
        stage = cls(setting, run.clean_images())
        run.tell(f"the encoder passes pixels through with an RMS error of {stage.passed_rms:.4f}")
        return stage, run.samples()

    def figures(self) -> dict[str, float]:
        """The error of the encoder before the training."""
        return {"passed_rms": self.passed_rms}

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        """The decoder's image of the blocks of the target's own reduction."""
        lr, target = self.pair(batch, index)
        terms: Terms = {}
        if wants(self.weights, "blocks"):
            emitted = self.model.encoder(lr).float() / self.signal
            terms["blocks"] = F.l1_loss(emitted, pixel_blocks(lr, self.side))
        small = F.avg_pool2d(target, target.shape[-1] // lr.shape[-1])
        blocks = pixel_blocks(small, self.side).contiguous(memory_format=torch.channels_last)
        image = self.model.decoder(self.decoded * blocks)
        return image, terms | self.terms(image, target)
