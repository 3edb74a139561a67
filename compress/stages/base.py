"""What a stage of training is, and what it is made from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn
from torch.utils.data import DataLoader

from compress.core.machine import device_of
from compress.data.folder import RandomCrops
from compress.data.presets import Degradation
from compress.model.sr_model import SRModel
from compress.stages.companions import Companions
from compress.stages.settings import Freezable, Loss, StageSettings
from compress.stages.taught import SEED_FACTOR, Taught
from compress.training.adversarial import PAIRED, Form, Judged
from compress.training.discriminator import patch_discriminator
from compress.training.perceptual import MetricFiles, metrics
from compress.training.terms import Terms

LATENT_POOL = 4096  # precomputed crops of the stages on latents
POOL_BATCH = 32  # crops that are encoded at once
CLEAN_IMAGES = 16  # that a stage looks at before it begins
# The crops of one recipe differ by a salt. Each stage has ten: its number times ten for its
# batches, one more for what it is prepared with, two more for softening.
SALTS = 10
PREPARE_SALT = 1
SOFTEN_SALT = 2

# Clean crops [B, 3, H, W], pairs of (low-resolution crops, images to make of them), or latents.
Batch = torch.Tensor | list[torch.Tensor]


@dataclass(frozen=True)
class StageRun:
    """One stage of one training: all that a stage may be made from.

    Attributes:
        model: The model that is trained, as the stage before left it.
        settings: What the recipe says of the stage.
        number: Of the stage in the recipe, from 0 on.
        seed: The recipe's.
        images: The photographs.
        degradation: Makes low-resolution images of them.
        taught: The teacher's samples; None without a teacher.
        taught_before: How many of them earlier stages have seen.
        companions: What the training has beside the model.
        metric_files: Where the weights of perceptual losses on images are.
        latent_lpips_weights: Those of the loss latent_lpips.
        processes: How many processes train together.
        tell: Prints a line, in the first process.
    """

    model: SRModel
    settings: StageSettings
    number: int
    seed: int
    images: list[Path]
    degradation: Degradation
    taught: Taught | None
    taught_before: int
    companions: Companions
    metric_files: MetricFiles
    latent_lpips_weights: str | None
    processes: int
    tell: Callable[[str], None]

    @property
    def key(self) -> tuple[int, ...]:
        """What the degraded images of the stage are a function of."""
        return (self.seed, self.number, 0)

    @property
    def count(self) -> int:
        """Samples of the whole stage, of all processes."""
        return self.settings.samples * self.processes

    @property
    def salt(self) -> int:
        """That of the stage's batches."""
        return SALTS * self.number

    @property
    def weights(self) -> dict[str, float]:
        """The factors of the losses."""
        return dict(self.settings.losses.items())

    def crops(self, count: int, batch: int, salt: int) -> DataLoader:
        """`count` clean crops [B, 3, crop, crop] in [0, 1], in batches."""
        seed = self.seed * SEED_FACTOR + salt
        return DataLoader(
            RandomCrops(self.images, self.settings.crop, count, seed), batch_size=batch
        )

    def batches(self) -> DataLoader:
        """The clean crops of the stage."""
        return self.crops(self.count, self.settings.batch, self.salt)

    def samples(self) -> DataLoader:
        """The clean crops of the stage, or with a teacher its pairs."""
        if self.taught is None:
            return self.batches()
        pairs = self.taught.samples(self.settings.crop, self.count, self.salt, self.taught_before)
        return DataLoader(pairs, batch_size=self.settings.batch)

    def pool_crops(self, salt: int | None = None) -> DataLoader:
        """The crops whose latents are computed once; by default they are the stage's own."""
        own = self.salt + PREPARE_SALT
        return self.crops(LATENT_POOL, POOL_BATCH, own if salt is None else salt)

    def first_crops(self, count: int = POOL_BATCH) -> torch.Tensor:
        """A few clean crops [count, 3, crop, crop] to prepare with, on the model's device."""
        crops = next(iter(self.crops(count, count, self.salt + PREPARE_SALT)))
        return crops.to(device_of(self.model))

    def clean_images(self) -> torch.Tensor:
        """A few images [16, 3, crop, crop] like those to be made, on the model's device."""
        if self.images:
            return self.first_crops(CLEAN_IMAGES)
        if self.taught is None:
            raise ValueError("a training has photographs or a teacher")
        salt = self.salt + PREPARE_SALT
        samples = self.taught.samples(self.settings.crop, CLEAN_IMAGES, salt, 0)
        images = torch.stack([samples[i][1] for i in range(CLEAN_IMAGES)])
        return images.to(device_of(self.model))

    def perceptual(self) -> dict[str, nn.Module]:
        """The metrics of the stage's losses, by their names."""
        return metrics(self.weights, self.metric_files)


class Stage(nn.Module):
    """Base of all stages. Called as (batch, index of the batch) -> (result, terms of the loss).

    The result is the image that a discriminator judges beside the batch's own, in the stages that
    have one; a `Judged` says otherwise what it compares. One module computes network and losses, as
    distributed training wants it. A subclass says of itself what the class attributes below ask;
    registry.py lists it.
    """

    name: ClassVar[str]  # in recipes
    families: ClassVar[tuple[str, ...]]  # of the sources that it trains
    losses: ClassVar[tuple[Loss, ...]]  # that it has
    may_freeze: ClassVar[tuple[Freezable, ...]] = ()  # parts of the model that it may hold still
    takes_teacher: ClassVar[bool] = False  # whether a teacher of the recipe gives its images
    takes_lora: ClassVar[tuple[str, ...]] = ()  # parts of the model that may learn by LoRA
    form: ClassVar[Form] = PAIRED  # of the loss gan
    balances: ClassVar[bool] = False  # whether it has a last layer for `gan_balance`
    trained: tuple[str, ...] = ()  # the parts of the model that learn, by their names
    in_full: tuple[str, ...] = ()  # parameters of these that learn in full where the part has LoRA

    @classmethod
    def prepare(cls, run: StageRun) -> tuple["Stage", DataLoader]:
        """The stage, and its batches. May change the values of `run.model`.

        Raises:
            UserError: The model, or what is beside it, does not fit the stage.
        """
        raise NotImplementedError

    def companions(self) -> list[nn.Parameter]:
        """What learns beside the model; by default nothing."""
        return []

    def critic(self) -> tuple[nn.Module, list[nn.Parameter]]:
        """A new discriminator of the loss gan, and what of it learns; by default of images."""
        judge = patch_discriminator()
        return judge, list(judge.parameters())

    def last_layer(self) -> nn.Parameter:
        """The weight that `gan_balance` looks at, of a stage that `balances`."""
        raise NotImplementedError

    def figures(self) -> dict[str, float]:
        """What the record of the stage says besides its losses."""
        return {}

    def finish(self) -> None:
        """What follows the training; by default nothing."""

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor | Judged, Terms]:
        """The result for one batch, and the terms of the loss (class docstring)."""
        raise NotImplementedError
