"""The stages of an Edge-SD-SR model from pixels to pixels (edge.py says which there are)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from compress.core.machine import in_memory_format
from compress.networks.edge import LightDecoder
from compress.process.bidirectional import Bidirectional
from compress.stages.base import Batch, Stage, StageRun
from compress.stages.companions import Companions, HREncoder
from compress.stages.edge import nll, random_step
from compress.stages.images import LOG_VARIANCE, ImageStage, Setting, sample
from compress.stages.settings import ON_IMAGES
from compress.training import losses
from compress.training.hidden import Hidden
from compress.training.networks import bias_of, expect
from compress.training.terms import Terms, wants


class EdgeAutoencoder(ImageStage):
    """The HR encoder is trained beside the decoder, on clean crops.

    At its end the latents get unit standard deviation: sigma_L is clamped to [sigma_min, 1] of that
    unit.

    Attributes:
        beside: The HR encoder.
        deviation: The standard deviation of the latents before they got their unit.
    """

    name = "edge_autoencoder"
    families = ("edge_sd_sr",)
    losses = (*ON_IMAGES, "kl")
    trained = ("decoder",)

    def __init__(self, setting: Setting, companions: Companions, crops: torch.Tensor):
        """Put a new HR encoder beside the model.

        Args:
            setting: What the stage computes with.
            companions: Keeps the encoder.
            crops: Images [B, 3, H, W] in [0, 1], which measure the deviation.
        """
        super().__init__(setting)
        channels = companions.process.channels
        self.beside = in_memory_format(HREncoder(channels), torch.channels_last)
        self.keeper = companions
        self.crops = crops
        self.deviation = 1.0

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """The stage, and its batches."""
        setting = Setting.of(run)
        return cls(setting, run.companions, run.first_crops()), run.batches()

    def companions(self) -> list[torch.nn.Parameter]:
        """The HR encoder's parameters."""
        return list(self.beside.parameters())

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        """The image from a sampled latent of the clean crops."""
        hr = self.clean(batch)
        mean, log_variance = self.beside(hr)
        log_variance = log_variance.float().clamp(*LOG_VARIANCE)
        image = self.model.decoder(sample(mean, log_variance))
        terms = self.terms(image, hr)
        if wants(self.weights, "kl"):
            terms["kl"] = losses.kl(mean.float(), log_variance)
        return image, terms

    @torch.no_grad()
    def finish(self) -> None:
        """Give the latents their unit, and write the HR encoder."""
        decoder = expect(self.model.decoder, LightDecoder)
        moments = self.beside.moments
        half = self.keeper.process.channels
        mean, _ = self.beside(self.crops.to(moments.weight.device))
        self.deviation = mean.std().item()
        moments.weight[:half] /= self.deviation
        bias = bias_of(moments)
        bias[:half] /= self.deviation
        bias[half:] -= 2 * float(np.log(self.deviation))
        decoder.conv_in.weight *= self.deviation
        self.keeper.write("hr_encoder", self.beside)


class EdgeImages(ImageStage):
    """Base of the stages that run the model on degraded crops."""

    families = ("edge_sd_sr",)

    def __init__(self, setting: Setting, companions: Companions):
        """Read the HR encoder where clean latents are needed.

        Raises:
            UserError: It is needed, and the stage that trains it has not run.
        """
        super().__init__(setting)
        self.hr_encoder: Hidden[HREncoder] | None = None
        if self.needs_clean():
            self.hr_encoder = Hidden(companions.hr_encoder())

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """The stage, and its batches."""
        return cls(Setting.of(run), run.companions), run.batches()

    @property
    def process(self) -> Bidirectional:
        """The model's process."""
        return expect(self.model.process, Bidirectional)

    def needs_clean(self) -> bool:
        """Whether the latents of clean crops are needed."""
        return wants(self.weights, "latent", "nll")

    def restore(
        self, lr: torch.Tensor, clean: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(the encoder's latent of `lr`, the clean latent that the model makes of it).

        As the model runs, the noise of inference included; `clean` is the latent of the clean crop.
        """
        latent = self.model.encoder(lr)
        return latent, self.model.clean_latent(latent)

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        """The image, or the clean latent where no loss compares images."""
        lr, hr = self.pair(batch, index)
        clean = None
        if self.hr_encoder is not None:
            with torch.no_grad():
                clean = self.hr_encoder.module(hr)[0].float()
        latent, restored = self.restore(lr, clean)
        image = restored
        terms: Terms = {}
        if wants(self.weights, *ON_IMAGES):
            image = self.model.decoder(restored)
            terms = self.terms(image, hr)
        if clean is not None and wants(self.weights, "latent"):
            terms["latent"] = F.mse_loss(restored.float(), clean)
        if clean is not None and wants(self.weights, "nll"):
            terms["nll"] = nll(latent, clean, self.process)
        return image, terms


class EdgeJointImages(EdgeImages):
    """The stage `edge_joint` with losses on images: UNet and LR encoder at random t."""

    trained = ("denoiser", "encoder")

    def needs_clean(self) -> bool:
        """They are noised."""
        return True

    def restore(
        self, lr: torch.Tensor, clean: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the base, from the noised latent of the clean crop."""
        if clean is None:
            raise ValueError("random steps need the latent of the clean crop")
        latent = self.model.encoder(lr)
        return latent, random_step(self.process, self.model.denoiser, clean, latent)


class EdgeOneStep(EdgeImages):
    """UNet and LR encoder at t = T, through the decoder to the image."""

    name = "edge_one_step"
    losses = ("latent", "nll", *ON_IMAGES)
    may_freeze = ("encoder",)
    trained = ("denoiser", "encoder")


class EdgeDecoder(EdgeImages):
    """The decoder, on the latents of a frozen UNet."""

    name = "edge_decoder"
    losses = ON_IMAGES
    trained = ("decoder",)

    @torch.no_grad()
    def restore(
        self, lr: torch.Tensor, clean: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the base, without gradients."""
        return super().restore(lr, clean)
