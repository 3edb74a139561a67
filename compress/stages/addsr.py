"""AddSR's training (arXiv 2404.01717): a student of few steps, a teacher that sees the photograph.

    loss = ta_add + 0.02 * gan

In half of the batches the student runs twice: without gradient at 999, 749 or 499, and then at the
next timestep on what it made. In the others it runs once, at 999. The teacher is a copy of the
student as the stage begins. It sees the student's latent under noise, and the photograph in the
place of the input. `ta_add` weighs a sample by the first timestep of two passes, and a single pass
by 4.6, as the authors' program does; `ta_add_by_step` by the student's last timestep, so that
weights grow with the steps.

As at inference, a second pass sees the student's image blended with the input, in [0, 1]. The
authors' training has neither.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader

from compress.networks.image_prompt import PromptedAttention
from compress.networks.latent_diffusion import VAEEncoder
from compress.process.epsilon_chains import ADDSR_TIMESTEPS
from compress.process.one_step import alphas_cumprod
from compress.stages.base import Batch, Stage, StageRun
from compress.stages.clean import CleanLatents
from compress.stages.images import ImageStage, Setting
from compress.stages.settings import ON_IMAGES
from compress.training.adversarial import HINGE, Judged
from compress.training.controlled import noised
from compress.training.hidden import Hidden
from compress.training.networks import expect
from compress.training.projected import ProjectedJudge
from compress.training.terms import Terms, wants
from compress.training.timestep_adaptive import (
    ALONE,
    STATES,
    Prompted,
    adaptive,
    distances,
    lower,
    signals,
)

PARTS = ("hint", "control", "denoiser", "tokens")  # of the student, which the teacher copies


class Made(NamedTuple):
    """What the student makes of a batch.

    Attributes:
        latent: The clean latent of its last pass.
        first: The timesteps of the authors' weights: of the first of two passes, or ALONE.
        last: The timesteps of the last pass.
        noise: Of both passes, and of the teacher's states.
    """

    latent: torch.Tensor
    first: torch.Tensor
    last: torch.Tensor
    noise: torch.Tensor


class AddSR(ImageStage):
    """Image attention and the hint learn, as published; with `denoiser: joint` all that steers."""

    name = "addsr"
    families = ("addsr",)
    losses = ("ta_add", "ta_add_by_step", *ON_IMAGES)
    takes_teacher = True
    takes_lora = ("control", "denoiser")
    form = HINGE

    def __init__(self, setting: Setting, run: StageRun):
        """Copy the teacher from `setting.model` as it is."""
        super().__init__(setting)
        self.clean_latents = CleanLatents(run)
        self.from_lr = run.settings.start_from == "lr"
        refine: Any = getattr(self.model, "refine", None)  # a model of one step has none
        self.weight: float = 0.0 if refine is None else refine.weight
        self.trained = PARTS if run.settings.denoiser == "joint" else self.published_parts()
        text = self.model.context()
        self.register_buffer("text", text, persistent=False)
        self.text: torch.Tensor | None
        own = {part: self.model.get_submodule(part) for part in PARTS}
        self.taught_by = Hidden(nn.ModuleDict(copy.deepcopy(own)).eval().requires_grad_(False))

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """The stage, and its batches."""
        return cls(Setting.of(run), run), run.samples()

    def published_parts(self) -> tuple[str, ...]:
        """The parts that learn in the authors' training."""
        images = [
            f"{part}.{name}.image"
            for part in ("control", "denoiser")
            for name, module in self.model.get_submodule(part).named_modules()
            if isinstance(module, PromptedAttention)
        ]
        return ("hint", *images)

    def critic(self) -> tuple[nn.Module, list[nn.Parameter]]:
        """A discriminator on the frozen encoder's features; its heads learn."""
        encoder = expect(self.model.encoder, VAEEncoder)
        tokens: Any = self.taught_by.module["tokens"]
        judge = ProjectedJudge(encoder, tokens.image_proj.out_features)
        return judge, judge.trainable_parameters()

    def networks(self, part: Callable[[str], Any]) -> Prompted:
        """The networks of one side, by what gives its parts."""
        hint, control = part("hint"), part("control")

        def steer(state: Any, condition: Any, *others: Any) -> Any:
            return control(state, hint(condition), *others)

        return Prompted(steer, part("denoiser"), self.text)

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor | Judged, Terms]:
        """The images that are judged, or without a discriminator the student's."""
        lr, target = self.pair(batch, index)
        with torch.no_grad():
            enlarged = self.model.get_submodule("enlarge")(lr)
        made = self.student(enlarged, self.clean_latents(target))
        image = self.model.decoder(made.latent)
        terms: Terms = {}
        if wants(self.weights, "ta_add", "ta_add_by_step"):
            terms |= self.distilled(made, 2 * image.float().clamp(0, 1) - 1, target)
        terms |= self.terms(image, target)
        if not wants(self.weights, "gan"):
            return image, terms
        with torch.no_grad():
            tokens: Any = self.taught_by.module["tokens"]
            vector = tokens.refined(enlarged, clamp=True)[:, 0]
        return Judged(target, image.float(), {"condition": vector}), terms

    def student(self, enlarged: torch.Tensor, clean: torch.Tensor) -> Made:
        """One pass or two.

        Args:
            enlarged: The input, [B, 3, H, W] in [0, 1].
            clean: Latents of the photographs, [B, C, h, w].
        """
        networks = self.networks(self.model.get_submodule)
        tokens: Any = self.model.get_submodule("tokens")
        noise = torch.randn_like(clean)
        start = clean
        if self.from_lr:
            with torch.no_grad():
                start = self.model.encoder(enlarged).float()
        count = len(clean)
        choices = torch.tensor(ADDSR_TIMESTEPS[:-1], device=clean.device)
        told, seen, condition = choices[:1].expand(count), tokens.refined(enlarged, True), enlarged
        first = torch.full((count,), ALONE, device=clean.device)
        if torch.rand(()) > 0.5:  # half of the batches
            first = choices[torch.randint(len(choices), (count,), device=clean.device)]
            with torch.no_grad():
                found = networks.clean(noised(start, noise, first), first, condition, seen)
                decoded = self.model.decoder(found).float().clamp(0, 1)
            start, told = (found.float() if self.from_lr else clean), lower(first)
            condition = self.weight * decoded + (1 - self.weight) * enlarged
            seen = tokens.refined(condition)
        latent = networks.clean(noised(start, noise, told), told, condition, seen)
        return Made(latent.float(), first, told, noise)

    def distilled(self, made: Made, image: torch.Tensor, target: torch.Tensor) -> Terms:
        """The distances from the teacher's images, of `image` [B, 3, H, W] in [-1, 1]."""
        with torch.no_grad():
            teacher = self.taught_by.module
            networks = self.networks(teacher.__getitem__)
            tokens: Any = teacher["tokens"]
            seen = tokens.refined(target, True)
            count = len(alphas_cumprod())
            steps = torch.randint(count, (STATES, len(target)), device=target.device)
            images = []
            for timesteps in steps:
                state = noised(made.latent, made.noise, timesteps)
                found = networks.clean(state, timesteps, target, seen)
                images.append(2 * self.model.decoder(found).float().clamp(0, 1) - 1)
            taught = torch.stack(images)
            signal = signals(steps).view(STATES, -1, 1, 1, 1)
        terms: Terms = {}
        for name, timesteps in (("ta_add", made.first), ("ta_add_by_step", made.last)):
            if wants(self.weights, name):
                terms[name] = distances(image, taught, signal, adaptive(timesteps)).mean()
        return terms
