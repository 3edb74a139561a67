"""The stages whose result is an image, and what they have in common."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import DataLoader

from compress.data.presets import Degradation
from compress.data.seeded import seeded_pair
from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import VAEEncoder
from compress.stages.base import Batch, Stage, StageRun
from compress.stages.settings import ON_IMAGES, ON_SD
from compress.training import losses
from compress.training.networks import expect
from compress.training.terms import Terms, Weights, image_terms, wants

# The bounds of a log-variance, within which its exponential is finite.
LOG_VARIANCE = (-30.0, 20.0)


@dataclass(frozen=True)
class Setting:
    """What a stage on images computes with.

    Attributes:
        model: The model that is trained.
        weights: The factors of the losses.
        perceptual: The metrics of losses, by their names.
        degradation: Makes low-resolution images of photographs.
        key: The degraded images are a function of it.
    """

    model: SRModel
    weights: Weights
    perceptual: Mapping[str, nn.Module]
    degradation: Degradation
    key: tuple[int, ...]

    @classmethod
    def of(cls, run: StageRun) -> "Setting":
        """The setting of one stage of a training."""
        return cls(run.model, run.weights, run.perceptual(), run.degradation, run.key)


def sample(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """A latent drawn from a Gaussian, with gradients to both of its parameters."""
    return mean + (0.5 * log_variance).exp() * torch.randn_like(log_variance)


class ImageStage(Stage):
    """Base of the stages on images.

    A batch is clean crops [B, 3, H, W], which the stage degrades itself, or, with a teacher, a pair
    of low-resolution crops [B, 3, H/4, W/4] and the images to make of them.
    """

    losses = ON_IMAGES

    def __init__(self, setting: Setting):
        """Train `setting.model`. The metrics become a part of this module."""
        super().__init__()
        self.model = setting.model
        self.weights = setting.weights
        self.perceptual = nn.ModuleDict(setting.perceptual)
        self.degradation = setting.degradation
        self.key = setting.key

    def pair(self, batch: Batch, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(low-resolution image, image to make of it) of batch `index`."""
        if isinstance(batch, torch.Tensor):
            lr = seeded_pair(batch.cpu(), self.degradation, *self.key, index).to(batch.device)
            return lr.contiguous(memory_format=torch.channels_last), batch
        lr, target = batch
        return lr, target

    def clean(self, batch: Batch) -> torch.Tensor:
        """The images to make, [B, 3, H, W]."""
        if isinstance(batch, torch.Tensor):
            return batch
        return batch[1]

    def terms(self, image: torch.Tensor, target: torch.Tensor) -> Terms:
        """The terms that compare the stage's image with what it should be."""
        return image_terms(image, target, self.weights, dict(self.perceptual.items()))


class Autoencoder(ImageStage):
    """A KL autoencoder on clean crops."""

    name = "autoencoder"
    families = ("osediff", "dfosd", "tsdsr")
    losses = (*ON_IMAGES, "kl")
    takes_teacher = True
    trained = ("encoder", "decoder")

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """The stage, and its batches."""
        return cls(Setting.of(run)), run.samples()

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        """The image from a sampled latent of the clean crops."""
        hr = self.clean(batch)
        encoder = expect(self.model.encoder, VAEEncoder)
        mean, log_variance = encoder.moments(hr * 2 - 1)
        log_variance = log_variance.float().clamp(*LOG_VARIANCE)
        latent = sample(mean, log_variance)
        image = self.model.decoder(latent * encoder.scaling_factor)
        terms = self.terms(image, hr)
        if wants(self.weights, "kl"):
            terms["kl"] = losses.kl(mean.float(), log_variance)
        return image, terms


class EndToEnd(ImageStage):
    """All networks, from the low-resolution image to the restored one."""

    name = "end_to_end"
    families = ("osediff", "adcsr", "resshift", "edge_sd_sr", *ON_SD, "tsdsr")
    may_freeze = ("encoder", "decoder")
    takes_teacher = True
    takes_lora = ("denoiser", "control")

    def __init__(self, setting: Setting):
        """Train all networks of `setting.model` but a text encoder."""
        super().__init__(setting)
        self.trained = tuple(name for name, _ in self.model.components() if name != "text_encoder")

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """The stage, and its batches."""
        return cls(Setting.of(run)), run.samples()

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        """The model's image of the low-resolution one."""
        lr, target = self.pair(batch, index)
        image = self.model.network(lr)
        return image, self.terms(image, target)
