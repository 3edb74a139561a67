"""TSD-SR's training (arXiv 2411.18263): a flow-matching teacher, and a student by its scores.

    loss = tsd + lpips + latent, and the score network's own beside it

The stage `flow_teacher` is ours: a nano has no Stable Diffusion 3 to begin with, so a transformer
of its own kind learns the velocity of photographs' latents. The stage `tsdsr` trains student and
encoder by target score distillation from it (compress/training/target_score.py). The score network
starts as the teacher and follows the student's latents; as published it learns by LoRA on SD 3,
here in whole. `latent` is the mean square from the photograph's latent.

The authors' command takes one point of a path and drops the gradient of `tsd`. With `dasm: false`
it is one point here; the gradient stays.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from compress.networks.latent_diffusion import VAEEncoder
from compress.networks.mmdit import ConstantPrompt, MMDiT, MMDiTDenoiser
from compress.stages.base import Batch, Stage, StageRun
from compress.stages.clean import CleanLatents
from compress.stages.images import ImageStage, Setting
from compress.stages.latents import unit_latent
from compress.stages.settings import ON_IMAGES
from compress.training.hidden import Hidden
from compress.training.networks import expect
from compress.training.target_score import (
    BIASES,
    INDICES,
    STEPS,
    Start,
    distillation_loss,
    gradient,
    noise_levels,
    noised,
    score_loss,
)
from compress.training.terms import Terms, wants

TEACHER = "flow_teacher"
POINTS = 4  # of a path with DASM


class Flow(nn.Module):
    """A transformer at any timestep, under its prompt: noisy latents -> velocities.

    Args:
        model: A denoiser and its prompt, which are copied.
    """

    def __init__(self, denoiser: nn.Module, prompt: nn.Module):
        super().__init__()
        self.transformer: MMDiT = copy.deepcopy(expect(denoiser, MMDiTDenoiser).transformer)
        self.prompt: ConstantPrompt = copy.deepcopy(expect(prompt, ConstantPrompt))

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] and [B], 0 to 1000 -> [B, C, h, w]."""
        context, pooled = self.prompt()
        text = context.expand(len(noisy), -1, -1)
        velocity: torch.Tensor = self.transformer(noisy, text, pooled, timesteps)
        return velocity.float()


class FlowTeacher(ImageStage):
    """A transformer beside the model learns the velocity of clean latents at all noise levels."""

    name = TEACHER
    families = ("tsdsr",)
    losses = ("velocity",)
    takes_teacher = True

    def __init__(self, setting: Setting, run: StageRun):
        """Begin the teacher as a copy of the model's transformer and prompt."""
        super().__init__(setting)
        self.clean_latents = CleanLatents(run)
        self.beside = Flow(self.model.denoiser, self.model.get_submodule("text_encoder"))
        self.keeper = run.companions

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """Give a nano's own latents unit deviation, as those of SD 3 have about."""
        encoder = expect(run.model.encoder, VAEEncoder)
        is_published = isinstance(encoder.quant_conv, nn.Identity)
        if run.settings.clean == "encoder" and not is_published:
            unit_latent(run.model, run.clean_images())
        return cls(Setting.of(run), run), run.samples()

    def companions(self) -> list[nn.Parameter]:
        """The teacher's parameters."""
        return list(self.beside.parameters())

    def forward(self, batch: Batch, _index: int) -> tuple[torch.Tensor, Terms]:
        """The teacher's velocities."""
        clean = self.clean_latents(self.clean(batch))
        sigma = noise_levels().to(clean)[torch.randint(STEPS, (len(clean),), device=clean.device)]
        noise = torch.randn_like(clean)
        velocity = self.beside(noised(clean, noise, sigma), STEPS * sigma)
        terms: Terms = {}
        if wants(self.weights, "velocity"):
            terms["velocity"] = F.mse_loss(velocity, noise - clean)
        return velocity, terms

    @torch.no_grad()
    def finish(self) -> None:
        """Write the teacher."""
        self.keeper.write(TEACHER, self.beside)


class TSDSR(ImageStage):
    """Transformer and encoder learn from the teacher's scores and from photographs."""

    name = "tsdsr"
    families = ("tsdsr",)
    losses = ("tsd", "score", "latent", *ON_IMAGES)
    takes_teacher = True
    may_freeze = ("encoder",)
    takes_lora = ("denoiser",)
    trained = ("denoiser", "encoder")

    def __init__(self, setting: Setting, run: StageRun):
        """Read the teacher, and begin the score network as it.

        Raises:
            UserError: The stage flow_teacher has not run.
        """
        super().__init__(setting)
        self.dasm = run.settings.dasm
        self.clean_latents = CleanLatents(run, still=True)
        self.flow: Hidden[Flow] | None = None
        self.score: Flow | None = None
        if wants(self.weights, "tsd", "score"):
            empty = Flow(self.model.denoiser, self.model.get_submodule("text_encoder"))
            teacher = run.companions.read(TEACHER, empty, TEACHER)
            self.flow = Hidden(teacher)
            self.score = copy.deepcopy(teacher).requires_grad_(True)

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """The stage, and its batches."""
        return cls(Setting.of(run), run), run.samples()

    def companions(self) -> list[nn.Parameter]:
        """The score network's parameters."""
        return [] if self.score is None else list(self.score.parameters())

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        """The model's image of the low-resolution one."""
        lr, target = self.pair(batch, index)
        latent = self.model.latent_of(self.model.given(lr))
        restored: torch.Tensor = latent.float()
        wanted = self.clean_latents(target)
        terms: Terms = {}
        if self.flow is not None and self.score is not None:
            terms |= self.scores(restored, wanted, self.flow.module, self.score)
        if wants(self.weights, "latent"):
            terms["latent"] = F.mse_loss(restored, wanted)
        image = self.model.decoder(latent)
        return image, terms | self.terms(image, target)

    def scores(
        self, restored: torch.Tensor, wanted: torch.Tensor, teacher: Flow, score: Flow
    ) -> Terms:
        """The distillation loss, and that of the score network."""
        first, last = INDICES
        options: dict[str, Any] = {"device": restored.device}
        places = [torch.randint(first, last + 1, (len(restored),), **options) for _ in range(2)]
        terms: Terms = {}
        if wants(self.weights, "tsd"):
            points = POINTS if self.dasm else 1
            bias = int(torch.randint(BIASES[0], BIASES[1] + 1, ())) if self.dasm else 0
            start = Start(places[0], torch.randn_like(restored), points, bias)
            direction = gradient(restored, wanted, teacher, score, start)
            terms["tsd"] = distillation_loss(restored, direction.total)
        if wants(self.weights, "score"):
            normal = torch.randn(len(restored), **options)
            noise = torch.randn_like(restored)
            terms["score"] = score_loss(restored, score, places[1], noise, normal)
        return terms
