"""Clean latents of photographs, and the stage `hr_encoder`, which makes them of detail.

The encoder of a nano passes the pixels of the low-resolution image through, so that its latent of a
photograph has no more detail than that image. What a diffusion is to make, and what a
discriminator takes for real, are latents that the decoder makes the photograph of. An encoder
beside the model learns them.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from compress.core.machine import in_memory_format
from compress.data.seeded import seeded_pair
from compress.networks.latent_diffusion import VAEDecoder, VAEEncoder
from compress.stages.base import Batch, Stage, StageRun
from compress.stages.companions import Companions, HREncoder
from compress.stages.images import LOG_VARIANCE, ImageStage, Setting, sample
from compress.stages.settings import ON_IMAGES, ON_SD
from compress.training import losses
from compress.training.hidden import Hidden
from compress.training.networks import bias_of, expect
from compress.training.terms import Terms, wants

STAGE = "hr_encoder"


class CleanLatents:
    """Photographs [B, 3, H, W] in [0, 1] -> scaled latents [B, C, H/8, W/8], without gradient.

    Args:
        run: Of a stage, whose setting `clean` says which encoder makes them.
        still: Whether the model's encoder counts as it is now, in a stage that trains it.

    Raises:
        UserError: The stage hr_encoder has not run.
    """

    def __init__(self, run: StageRun, still: bool = False):
        own = expect(run.model.encoder, VAEEncoder)
        if still:
            own = copy.deepcopy(own)
        self._scale = own.scaling_factor
        self._own = Hidden(own)
        self._beside: Hidden[HREncoder] | None = None
        if run.settings.clean == STAGE:
            self._beside = Hidden(run.companions.hr_encoder(own.latent_channels, STAGE))

    @torch.no_grad()
    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """See the class."""
        if self._beside is None:
            return self._own.module.clean(image).float()
        return self._beside.module(image)[0].float() * self._scale


class HREncoderStage(ImageStage):
    """An encoder of photographs learns beside the model, whose decoder is held still.

    The loss `latent` is the mean square from what the model restores of the low-resolution image,
    in units of that latent's deviation: it keeps the latents where the decoder was trained.

    Attributes:
        beside: The encoder. While it learns it puts out latents of mean 0 and deviation 1.
    """

    name = STAGE
    families = ("osediff", *ON_SD, "tsdsr")
    losses = (*ON_IMAGES, "kl", "latent")
    takes_teacher = True

    def __init__(self, setting: Setting, companions: Companions, crops: torch.Tensor):
        """Put a new encoder beside the model.

        Args:
            setting: What the stage computes with.
            companions: Keeps the encoder.
            crops: Images [B, 3, H, W] in [0, 1], which measure the latents that the model restores.
        """
        super().__init__(setting)
        channels = expect(self.model.encoder, VAEEncoder).latent_channels
        self.scale = expect(self.model.decoder, VAEDecoder).scaling_factor
        self.beside = in_memory_format(HREncoder(channels), torch.channels_last)
        self.keeper = companions
        restored = self.restored(seeded_pair(crops.cpu(), self.degradation, *self.key).to(crops))
        self.mean = restored.mean(dim=(0, 2, 3), keepdim=True)
        self.deviation = restored.std(dim=(0, 2, 3), keepdim=True)

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """The stage, and its batches."""
        return cls(Setting.of(run), run.companions, run.clean_images()), run.samples()

    def companions(self) -> list[nn.Parameter]:
        """The encoder's parameters."""
        return list(self.beside.parameters())

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        """The decoder's image of the encoder's latent of the clean crops."""
        lr, hr = self.pair(batch, index)
        mean, log_variance = self.beside(hr)
        log_variance = log_variance.float().clamp(*LOG_VARIANCE)
        terms: Terms = {}
        latent = mean
        if wants(self.weights, "kl"):
            latent = sample(mean, log_variance)
            terms["kl"] = losses.kl(mean.float(), log_variance)
        if wants(self.weights, "latent"):
            wanted = (self.restored(lr) - self.mean) / self.deviation
            terms["latent"] = F.mse_loss(mean.float(), wanted)
        unscaled = latent * self.deviation + self.mean
        image = self.model.decoder(unscaled * self.scale)
        return image, terms | self.terms(image, hr)

    @torch.no_grad()
    def restored(self, lr: torch.Tensor) -> torch.Tensor:
        """The unscaled clean latent that the model makes of `lr` [B, 3, h, w]."""
        before = self.model.values_before("decoder", self.model.given(lr))
        latent: torch.Tensor = before["clean_latent"]
        return latent.float() / self.scale

    @torch.no_grad()
    def finish(self) -> None:
        """Give the latents their mean and deviation, and write the encoder."""
        moments = self.beside.moments
        half = moments.out_channels // 2
        deviation, bias = self.deviation.flatten(), bias_of(moments)
        moments.weight[:half] *= deviation[:, None, None, None]
        bias[:half] = bias[:half] * deviation + self.mean.flatten()
        bias[half:] += 2 * deviation.log()
        self.keeper.write(STAGE, self.beside)
