"""What a training has beside the model, such as that of an Edge-SD-SR model.

The HR encoder and the x2 teacher belong to the training: they lie beside its checkpoints, in files
of their own, and never in the model. The same holds for latents that are computed once.
"""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from compress.core.errors import UserError
from compress.core.machine import device_of, in_memory_format
from compress.core.tensors import read_tensors
from compress.core.weight_file import write_tensors
from compress.data.degradation import degrade
from compress.data.presets import Degradation
from compress.data.seeded import seed_of, seeded_pair
from compress.model.sr_model import SRModel
from compress.networks.edge import ConvBlock, Level, LREncoder, conv3, levels
from compress.process.bidirectional import Bidirectional
from compress.training.networks import expect

# Channels of an LR image at the size of its latent, by scale.
X4 = 12
X2 = 48
HALF_SCALE_SALT = 2  # the last part of the key of x2 images
TAUGHT_BATCH = 64  # latents that the teacher makes at once

M = TypeVar("M", bound=nn.Module)


class HREncoder(nn.Module):
    """E_H: hr [B, 3, H, W] in [0, 1] -> mean and log-variance of the latent, each [B, C, H/8, W/8].

    The size is ours: the paper gives none.
    """

    def __init__(
        self,
        channels: int,
        widths: tuple[int, ...] = (48, 64, 96),
        blocks: tuple[int, ...] = (1, 1, 2),
    ):
        """Make an encoder to `channels` latent channels, of levels of `widths` and `blocks`."""
        super().__init__()
        self.conv_in = conv3(12, widths[0])
        self.levels = levels(widths, blocks, up=False)
        self.moments = conv3(widths[-1], 2 * channels)

    def forward(self, hr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance (class docstring)."""
        x = self.conv_in(F.pixel_unshuffle(hr * 2 - 1, 2))
        for level in self.levels:
            x = level(x)
        mean, log_variance = self.moments(F.silu(x)).chunk(2, dim=1)
        return mean, log_variance


class X2Teacher(nn.Module):
    """A model for images of half the HR size.

    It is a copy of the student's UNet behind an LR encoder one level deeper.
    """

    def __init__(self, student: SRModel):
        """Copy the UNet of `student`, and make an encoder after its encoder."""
        super().__init__()
        own = [expect(level, Level) for level in expect(student.encoder, LREncoder).levels]
        widths = [expect(level.blocks[0], ConvBlock).conv1.in_channels for level in own]
        blocks = [len(level.blocks) for level in own]
        channels = expect(student.process, Bidirectional).channels
        self.encoder = LREncoder((widths[0] // 2, *widths), (1, *blocks), channels)
        self.denoiser = copy.deepcopy(student.denoiser)
        self.to(device_of(student))


class Companions:
    """The networks and latents beside a model, under its working folder.

    Attributes:
        pools: Precomputed batches by the size of their crops.
    """

    def __init__(self, model: SRModel, workdir: Path, writes: bool = True):
        """Look after what is beside `model` in `workdir`.

        Args:
            model: The model that is trained.
            workdir: The folder of the training.
            writes: False in all processes of a run but the first.
        """
        self.model = model
        self.workdir = workdir
        self.writes = writes
        self.pools: dict[int, torch.Tensor] = {}

    @property
    def process(self) -> Bidirectional:
        """The model's process."""
        return expect(self.model.process, Bidirectional)

    def write(self, name: str, module: nn.Module) -> None:
        """Keep the values of `module` as NAME.safetensors."""
        if self.writes:
            write_tensors(self.workdir / f"{name}.safetensors", module.state_dict(), {})

    def read(self, name: str, module: M, stage: str) -> M:
        """`module` on the model's device, frozen, with NAME.safetensors, which `stage` left.

        Raises:
            UserError: That stage has not run.
        """
        file = self.workdir / f"{name}.safetensors"
        if not file.is_file():
            raise UserError(
                f"stages: {file} does not exist; list {stage} before the stages that need it"
            )
        read_tensors(module.to(device_of(self.model)), file)
        return in_memory_format(module.eval().requires_grad_(False), torch.channels_last)

    def hr_encoder(self, channels: int | None = None, stage: str = "edge_autoencoder") -> HREncoder:
        """The HR encoder that a stage left.

        Args:
            channels: Of its latent; None for those of the process of an Edge-SD-SR model.
            stage: The name of that stage.

        Raises:
            UserError: It has not run.
        """
        encoder = HREncoder(self.process.channels if channels is None else channels)
        return self.read("hr_encoder", encoder, stage)

    def teacher(self) -> X2Teacher:
        """The x2 teacher that the stage edge_teacher left.

        Raises:
            UserError: It has not run.
        """
        return self.read("x2_teacher", X2Teacher(self.model), "edge_teacher")

    @torch.no_grad()
    def pool(
        self,
        loader: Iterable[torch.Tensor],
        crop: int,
        degradation: Degradation,
        key: tuple[int, ...],
    ) -> torch.Tensor:
        """The clean latents of crops, and their x4 and x2 partners with neighbours as channels.

        They are computed once for each size of crop.

        Args:
            loader: Batches of crops [B, 3, crop, crop] in [0, 1].
            crop: Their size in pixels.
            degradation: Makes low-resolution images of them.
            key: The degraded images are a function of it.

        Returns:
            [N, C + 12 + 48, h, w], h and w being those of the latent.

        Raises:
            UserError: There is no HR encoder yet.
        """
        if crop in self.pools:
            return self.pools[crop]
        encoder = self.hr_encoder()
        rows = []
        for index, hr in enumerate(tqdm(loader, desc="latents of crops", leave=False)):
            x4 = seeded_pair(hr, degradation, *key, index)
            x2 = half_scale(hr, degradation, *key, index)
            mean, _ = encoder(hr.to(device_of(encoder)))
            rows.append(
                torch.cat([mean.cpu(), F.pixel_unshuffle(x4, 2), F.pixel_unshuffle(x2, 4)], dim=1)
            )
        self.pools[crop] = torch.cat(rows)
        return self.pools[crop]

    @torch.no_grad()
    def taught(self, pool: torch.Tensor) -> torch.Tensor:
        """`pool` with the teacher's clean latents from z_T behind, [N, 2C + 60, h, w].

        Raises:
            UserError: There is no x2 teacher yet.
        """
        teacher = self.teacher()
        rows = []
        batches = pool.split(TAUGHT_BATCH)
        for batch in tqdm(batches, desc="the teacher's latents", leave=False):
            x2 = F.pixel_shuffle(batch[:, -X2:], 4).to(device_of(teacher))
            restored = self.process.restore(teacher.encoder(x2), teacher.denoiser)
            rows.append(restored.float().cpu())
        return torch.cat([pool, torch.cat(rows)], dim=1)


def half_scale(hr: torch.Tensor, degradation: Degradation, *key: int) -> torch.Tensor:
    """The x2 partner [B, 3, H/2, W/2] of `hr` [B, 3, H, W], a function of `key`."""
    generator = torch.Generator().manual_seed(seed_of(*key, HALF_SCALE_SALT))
    return degrade(hr, degradation, generator, scale=2)
