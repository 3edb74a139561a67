"""The stages that an Edge-SD-SR model is trained in. The order is [REC]; what is ours is said.

1. `edge_autoencoder`: HR encoder E_H and decoder, on clean crops.
2. `edge_encoder`: the LR encoder E_L alone, towards the clean latents. Ours: a start for 4, and with `encoder: frozen`
   there the ablation without joint training.
3. `edge_teacher`: a x2 model, UNet and LR encoder, for scale distillation.
4. `edge_joint`: UNet and E_L on z_t at random t; `distill` draws the result to the x2 teacher's, whose UNet it starts
   from (ours).
5. `edge_one_step`: the same two at t = T, through the decoder to the image.
6. `edge_decoder`: the decoder on the latents of a frozen UNet.

E_H and the teacher belong to the training: they lie beside its checkpoints, in files of their own, and never in the
model. Stages 2 and 3, and 4 without losses on images, see batches that were computed once, [B, C + 60, h, w]
(`Companions.pool`), in 4 with the teacher's C channels behind.
"""

import copy
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from compress.core.errors import UserError
from compress.core.tensors import read_tensors
from compress.core.weight_file import write_tensors
from compress.data.degradation import Degradation, degrade
from compress.model.sr_model import SRModel
from compress.networks.edge import LREncoder, conv3, levels
from compress.process.bidirectional import Bidirectional
from compress.training import losses
from compress.training.stages import ImageStage, Terms, seeded_pair

X4, X2 = 12, 48  # channels of an LR image at the size of its latent, by scale


class HREncoder(nn.Module):
    """E_H: hr [B, 3, H, W] in [0, 1] -> mean and log-variance, each [B, C, H/8, W/8]. Its size is ours."""

    def __init__(
        self,
        channels: int,
        widths: tuple[int, ...] = (48, 64, 96),
        blocks: tuple[int, ...] = (1, 1, 2),
    ):
        super().__init__()
        self.conv_in = conv3(12, widths[0])
        self.levels = levels(widths, blocks, up=False)
        self.moments = conv3(widths[-1], 2 * channels)

    def forward(self, hr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.conv_in(F.pixel_unshuffle(hr * 2 - 1, 2))
        for level in self.levels:
            x = level(x)
        return self.moments(F.silu(x)).chunk(2, dim=1)


class X2Teacher(nn.Module):
    """A model for images of half the HR size: a copy of the student's UNet behind an LR encoder one level deeper."""

    def __init__(self, student: SRModel):
        super().__init__()
        own = student.encoder
        widths = [level.blocks[0].conv1.in_channels for level in own.levels]
        self.encoder = LREncoder(
            (widths[0] // 2, *widths),
            (1, *(len(level.blocks) for level in own.levels)),
            student.process.channels,
        )
        self.denoiser = copy.deepcopy(student.denoiser)


class Companions:
    """What a training has beside its model, under `workdir`: E_H, the x2 teacher and the precomputed batches."""

    def __init__(self, model: SRModel, workdir: Path, writes: bool = True):
        """`writes` is False in all processes of a run but the first."""
        self.model, self.workdir, self.writes = model, workdir, writes
        self.pools: dict[int, torch.Tensor] = {}

    def write(self, name: str, module: nn.Module) -> None:
        if not self.writes:
            return
        write_tensors(self.workdir / f"{name}.safetensors", module.state_dict(), {})

    def read(self, name: str, module: nn.Module, stage: str) -> nn.Module:
        """`module` with the values that `stage` left. Raises UserError where it has not run."""
        file = self.workdir / f"{name}.safetensors"
        if not file.is_file():
            raise UserError(
                f"stages: {file} does not exist; list {stage} before the stages that need it"
            )
        read_tensors(module, file)
        return module.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def hr_encoder(self) -> HREncoder:
        return self.read("hr_encoder", HREncoder(self.model.process.channels), "edge_autoencoder")

    def teacher(self) -> X2Teacher:
        return self.read("x2_teacher", X2Teacher(self.model), "edge_teacher")

    @torch.no_grad()
    def pool(
        self,
        loader: Iterable[torch.Tensor],
        crop: int,
        degradation: Degradation,
        key: tuple[int, ...],
    ) -> torch.Tensor:
        """[N, C + 12 + 48, h, w]: clean latents; their x4 and x2 partners, neighbours as channels. Kept by `crop`."""
        if crop not in self.pools:
            encoder, rows = self.hr_encoder(), []
            for index, hr in enumerate(tqdm(loader, desc="latents of crops", leave=False)):
                x4, x2 = (
                    seeded_pair(hr, degradation, *key, index),
                    half_scale(hr, degradation, *key, index),
                )
                rows.append(
                    torch.cat(
                        [encoder(hr)[0], F.pixel_unshuffle(x4, 2), F.pixel_unshuffle(x2, 4)], dim=1
                    )
                )
            self.pools[crop] = torch.cat(rows)
        return self.pools[crop]

    @torch.no_grad()
    def taught(self, pool: torch.Tensor) -> torch.Tensor:
        """`pool` with the teacher's clean latents from z_T behind, [N, 2C + 60, h, w]."""
        teacher, process, rows = self.teacher(), self.model.process, []
        for batch in tqdm(pool.split(64), desc="the teacher's latents", leave=False):
            x2 = F.pixel_shuffle(batch[:, -X2:], 4)
            rows.append(process.restore(teacher.encoder(x2), teacher.denoiser).float())
        return torch.cat([pool, torch.cat(rows)], dim=1)


def half_scale(hr: torch.Tensor, degradation: Degradation, *key: int) -> torch.Tensor:
    """The x2 partner [B, 3, H/2, W/2] of `hr`, a function of `key`."""
    seed = int(np.random.SeedSequence((*key, 2)).generate_state(1, np.uint64)[0] >> 1)
    return degrade(hr, degradation, torch.Generator().manual_seed(seed), scale=2)


class EdgeAutoencoder(ImageStage):
    """E_H is trained beside the decoder. At its end the latents get unit standard deviation, which `crops`
    [B, 3, H, W] measure: sigma_L is clamped to [sigma_min, 1] of that unit."""

    trained = ("decoder",)

    def __init__(
        self,
        model: SRModel,
        weights: dict[str, float],
        perceptual: nn.Module | None,
        degradation: Degradation,
        key: tuple[int, ...],
        companions: Companions,
        crops: torch.Tensor,
    ):
        super().__init__(model, weights, perceptual, degradation, key)
        self.beside = HREncoder(model.process.channels).to(memory_format=torch.channels_last)
        self.__dict__.update(companions=companions, crops=crops)

    def forward(self, hr: torch.Tensor, index: int) -> tuple[torch.Tensor, Terms]:
        mean, logvar = self.beside(hr)
        logvar = logvar.float().clamp(-30, 20)
        image = self.model.decoder(mean + (0.5 * logvar).exp() * torch.randn_like(logvar))
        found = self.terms(image, hr)
        if self.weights.get("kl"):
            found["kl"] = losses.kl(mean.float(), logvar)
        return image, found

    @torch.no_grad()
    def finish(self) -> float:
        """Rescale and write E_H; returns the deviation before."""
        last, half = self.beside.moments, self.model.process.channels
        deviation = self.beside(self.crops.to(last.weight.device))[0].std().item()
        last.weight[:half] /= deviation
        last.bias[:half] /= deviation
        last.bias[half:] -= 2 * float(np.log(deviation))
        self.model.decoder.conv_in.weight *= deviation
        self.companions.write("hr_encoder", self.beside)
        return deviation


def nll(latent: torch.Tensor, clean: torch.Tensor, process: Bidirectional) -> torch.Tensor:
    """-log N(z_0; mu_L, sigma_L^2) in nats a value, without its constant, with the clamped sigma_L."""
    mean, sigma = process.moments(latent.float())
    return (sigma.log() + 0.5 * ((clean - mean) / sigma).square()).mean()


def random_step(
    process: Bidirectional, denoiser: nn.Module, clean: torch.Tensor, latent: torch.Tensor
) -> torch.Tensor:
    """f_theta [B, C, h, w] on z_t of `clean`, every sample at a t of its own; `latent` is the LR encoder's."""
    t = torch.randint(process.timestep + 1, (len(clean),), device=clean.device)
    state = process.diffuse(clean, latent, t, torch.randn_like(clean))
    return denoiser(process.pair(state, latent), None, t).float()


class EdgeLatent(nn.Module):
    """Base of the stages on precomputed batches. `latent` and `distill` are mean squares of latents."""

    def __init__(self, model: SRModel, weights: dict[str, float], encoder: str = "joint"):
        super().__init__()
        self.model, self.weights = model, weights
        self.trained: tuple[str, ...] = (
            ("denoiser", "encoder") if encoder == "joint" else ("denoiser",)
        )

    @property
    def process(self) -> Bidirectional:
        return self.model.process

    def unpack(
        self, batch: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """z_0 [B, C, h, w]; the x4 and the x2 image in [0, 1]; the teacher's z_0, of no channels without one."""
        c = self.process.channels
        clean, x4, x2, taught = batch.split([c, X4, X2, batch.shape[1] - c - X4 - X2], dim=1)
        return clean, F.pixel_shuffle(x4, 2), F.pixel_shuffle(x2, 4), taught


class EdgeEncoder(EdgeLatent):
    """E_L alone: `latent` on mu_L, `nll` on both."""

    def __init__(self, model: SRModel, weights: dict[str, float]):
        super().__init__(model, weights)
        self.trained = ("encoder",)

    def forward(self, batch: torch.Tensor, index: int) -> tuple[torch.Tensor, Terms]:
        clean, x4, *_ = self.unpack(batch)
        latent = self.model.encoder(x4).float()
        mean, found = self.process.moments(latent)[0], {}
        if self.weights.get("latent"):
            found["latent"] = F.mse_loss(mean, clean)
        if self.weights.get("nll"):
            found["nll"] = nll(latent, clean, self.process)
        return mean, found


class EdgeJoint(EdgeLatent):
    """f_theta and E_L at random t. A weak `nll` keeps sigma_L at what E_L does not know; [REC] has a clamp or a KL."""

    def forward(self, batch: torch.Tensor, index: int) -> tuple[torch.Tensor, Terms]:
        clean, x4, _, taught = self.unpack(batch)
        latent, found = self.model.encoder(x4), {}
        restored = random_step(self.process, self.model.denoiser, clean, latent)
        if self.weights.get("latent"):
            found["latent"] = F.mse_loss(restored, clean)
        if self.weights.get("distill"):
            found["distill"] = F.mse_loss(restored, taught)
        if self.weights.get("nll"):
            found["nll"] = nll(latent, clean, self.process)
        return restored, found


class EdgeTeacher(EdgeLatent):
    """The x2 teacher, as `edge_joint` trains the student. The model itself is left alone."""

    def __init__(self, model: SRModel, weights: dict[str, float], companions: Companions):
        super().__init__(model, weights)
        self.trained = ()
        self.beside = X2Teacher(model).to(memory_format=torch.channels_last)
        self.beside.encoder.start_variance(0.3)
        self.__dict__["companions"] = companions

    def forward(self, batch: torch.Tensor, index: int) -> tuple[torch.Tensor, Terms]:
        clean, _, x2, _ = self.unpack(batch)
        latent, found = self.beside.encoder(x2), {}
        restored = random_step(self.process, self.beside.denoiser, clean, latent)
        if self.weights.get("latent"):
            found["latent"] = F.mse_loss(restored, clean)
        if self.weights.get("nll"):
            found["nll"] = nll(latent, clean, self.process)
        return restored, found

    def finish(self) -> None:
        self.companions.write("x2_teacher", self.beside)


class EdgeImages(ImageStage):
    """Stages 4 to 6 from pixels to pixels: `edge_joint` at random t, the others as the model runs, noise included."""

    def __init__(
        self,
        model: SRModel,
        weights: dict[str, float],
        perceptual: nn.Module | None,
        degradation: Degradation,
        key: tuple[int, ...],
        companions: Companions,
        stage: str,
        encoder: str = "joint",
    ):
        super().__init__(model, weights, perceptual, degradation, key)
        self.stage = stage
        self.trained = (
            ("decoder",)
            if stage == "edge_decoder"
            else (("denoiser", "encoder") if encoder == "joint" else ("denoiser",))
        )
        needs_clean = stage == "edge_joint" or weights.get("latent") or weights.get("nll")
        self.__dict__["hr_encoder"] = companions.hr_encoder() if needs_clean else None

    def forward(self, hr: torch.Tensor, index: int) -> tuple[torch.Tensor, Terms]:
        lr = seeded_pair(hr.cpu(), self.degradation, *self.key, index).to(hr.device)
        lr, clean = lr.contiguous(memory_format=torch.channels_last), None
        if self.hr_encoder is not None:
            with torch.no_grad():
                clean = self.hr_encoder(hr)[0].float()
        with torch.set_grad_enabled(self.stage != "edge_decoder" and torch.is_grad_enabled()):
            latent = self.model.encoder(lr)
            if self.stage == "edge_joint":
                restored = random_step(self.model.process, self.model.denoiser, clean, latent)
            else:
                restored = self.model.clean_latent(latent)
        image, found = restored, {}
        if any(self.weights.get(name) for name in ("l1", "mse", "lpips", "gan")):
            image = self.model.decoder(restored)
            found = self.terms(image, hr)
        if self.weights.get("latent"):
            found["latent"] = F.mse_loss(restored.float(), clean)
        if self.weights.get("nll"):
            found["nll"] = nll(latent, clean, self.model.process)
        return image, found
