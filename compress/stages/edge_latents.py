"""The stages of an Edge-SD-SR model on latents (edge.py says which there are).

Batches are [B, C + 60, h, w], computed once (`Companions.pool`), or for the loss `distill`
[B, 2C + 60, h, w], with the teacher's channels behind.
"""

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from compress.core.machine import in_memory_format
from compress.model.sr_model import SRModel
from compress.process.bidirectional import Bidirectional
from compress.stages.base import PREPARE_SALT, Batch, Stage, StageRun
from compress.stages.companions import X2, X4, Companions, X2Teacher
from compress.stages.edge import nll, random_step
from compress.stages.edge_images import EdgeJointImages
from compress.stages.latents import latent_batches
from compress.stages.settings import ON_IMAGES, Loss
from compress.training.networks import expect
from compress.training.terms import Terms, Weights, wants

START_SIGMA = 0.3  # of the x2 teacher's encoder


class Unpacked(NamedTuple):
    """A precomputed batch.

    Attributes:
        clean: z_0, [B, C, h, w].
        x4: The low-resolution images [B, 3, 2h, 2w] in [0, 1].
        x2: Those of half the HR size, [B, 3, 4h, 4w].
        taught: The teacher's z_0, of no channels without one.
    """

    clean: torch.Tensor
    x4: torch.Tensor
    x2: torch.Tensor
    taught: torch.Tensor


class EdgeLatent(Stage):
    """Base of the stages on precomputed batches. `latent` and `distill` are mean squares."""

    families = ("edge_sd_sr",)
    losses: ClassVar[tuple[Loss, ...]] = ("latent", "nll")

    def __init__(self, model: SRModel, weights: Weights):
        """Train `model` with the factors `weights` of the losses."""
        super().__init__()
        self.model = model
        self.weights = weights

    @property
    def process(self) -> Bidirectional:
        """The model's process."""
        return expect(self.model.process, Bidirectional)

    def unpack(self, batch: Batch) -> Unpacked:
        """The parts of a batch."""
        if not isinstance(batch, torch.Tensor):
            raise TypeError("batches of this stage are latents")
        channels = self.process.channels
        rest = batch.shape[1] - channels - X4 - X2
        clean, x4, x2, taught = batch.split([channels, X4, X2, rest], dim=1)
        return Unpacked(clean, F.pixel_shuffle(x4, 2), F.pixel_shuffle(x2, 4), taught)

    def latent_terms(self, restored: torch.Tensor, latent: torch.Tensor, seen: Unpacked) -> Terms:
        """The terms of a restored z_0 [B, C, h, w] and the LR encoder's latent [B, 2C, h, w]."""
        terms: Terms = {}
        if wants(self.weights, "latent"):
            terms["latent"] = F.mse_loss(restored, seen.clean)
        if wants(self.weights, "distill"):
            terms["distill"] = F.mse_loss(restored, seen.taught)
        if wants(self.weights, "nll"):
            terms["nll"] = nll(latent, seen.clean, self.process)
        return terms


def precomputed(run: StageRun) -> torch.Tensor:
    """The latents of crops, the same for all stages: a resumed run may begin with any of them."""
    crops = run.pool_crops(PREPARE_SALT)
    key = (run.seed, 0)
    return run.companions.pool(crops, run.settings.crop, run.degradation, key)


class EdgeEncoder(EdgeLatent):
    """The LR encoder alone: `latent` on mu_L, `nll` on both."""

    name = "edge_encoder"
    trained = ("encoder",)

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """The stage, and its batches."""
        pool = precomputed(run)
        return cls(run.model, run.weights), latent_batches(run, pool)

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        """mu_L [B, C, h, w]."""
        seen = self.unpack(batch)
        latent = self.model.encoder(seen.x4).float()
        mean, _ = self.process.moments(latent)
        return mean, self.latent_terms(mean, latent, seen)


class EdgeTeacher(EdgeLatent):
    """The x2 teacher, as `edge_joint` trains the student. The model itself is left alone.

    Attributes:
        beside: The teacher.
    """

    name = "edge_teacher"

    def __init__(self, model: SRModel, weights: Weights, companions: Companions):
        """Make a teacher of `model`, which `companions` keeps."""
        super().__init__(model, weights)
        self.beside = in_memory_format(X2Teacher(model), torch.channels_last)
        self.beside.encoder.start_variance(START_SIGMA)
        self.keeper = companions

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """The stage, and its batches."""
        pool = precomputed(run)
        return cls(run.model, run.weights, run.companions), latent_batches(run, pool)

    def companions(self) -> list[nn.Parameter]:
        """The teacher's parameters."""
        return list(self.beside.parameters())

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        """The teacher's z_0 [B, C, h, w]."""
        seen = self.unpack(batch)
        latent = self.beside.encoder(seen.x2)
        restored = random_step(self.process, self.beside.denoiser, seen.clean, latent)
        return restored, self.latent_terms(restored, latent, seen)

    def finish(self) -> None:
        """Write the teacher."""
        self.keeper.write("x2_teacher", self.beside)


class EdgeJoint(EdgeLatent):
    """UNet and LR encoder at random t.

    A weak `nll` keeps sigma_L at what the LR encoder does not know; [REC] has a clamp or a KL
    there. With losses on images the stage is an `EdgeJointImages`.
    """

    name = "edge_joint"
    losses = ("latent", "nll", "distill", *ON_IMAGES)
    may_freeze = ("encoder",)
    trained = ("denoiser", "encoder")

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """The stage, and its batches; with the loss `distill` it starts from the teacher's UNet."""
        if wants(run.weights, *ON_IMAGES):
            return EdgeJointImages.prepare(run)
        pool = precomputed(run)
        if wants(run.weights, "distill"):
            pool = run.companions.taught(pool)
            teacher = run.companions.teacher()
            run.model.denoiser.load_state_dict(teacher.denoiser.state_dict())
        return cls(run.model, run.weights), latent_batches(run, pool)

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        """The model's z_0 [B, C, h, w]."""
        seen = self.unpack(batch)
        latent = self.model.encoder(seen.x4)
        restored = random_step(self.process, self.model.denoiser, seen.clean, latent)
        return restored, self.latent_terms(restored, latent, seen)
