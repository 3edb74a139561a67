"""Training of control networks: CCSR's first stage, DoSSR's shift; and CCSR's decoder.

In both the control network learns. The UNet is held still as published; `denoiser: joint` trains it
as well. The losses on latents are in the units of the latent, so that `latent_scale` squared goes
into a mean square.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from compress.networks.latent_diffusion import VAEDecoder
from compress.process.linear_steps import LinearSteps
from compress.process.one_step import alphas_cumprod
from compress.stages.base import Batch, Stage, StageRun
from compress.stages.clean import CleanLatents
from compress.stages.images import ImageStage, Setting
from compress.stages.settings import ON_IMAGES, ON_SD, Loss
from compress.training.adversarial import HINGE
from compress.training.controlled import Draws, Steps, shifted, truncated_terms
from compress.training.networks import expect
from compress.training.terms import Terms

CONTROL = ("hint", "control")


class ControlStage(ImageStage):
    """Base of the stages that train a control network on latents.

    Attributes:
        condition: The value of the model that the control network's hint is made of.
    """

    takes_teacher = True
    takes_lora = ("control", "denoiser")
    condition: ClassVar[str]

    def __init__(self, setting: Setting, run: StageRun):
        """Train the control network of `setting.model`, with the UNet where the recipe says so."""
        super().__init__(setting)
        self.clean_latents = CleanLatents(run)
        self.locked = run.settings.denoiser == "frozen"
        self.trained = CONTROL if self.locked else (*CONTROL, "denoiser")
        text = self.model.context()
        self.register_buffer("text", text, persistent=False)
        self.text: torch.Tensor | None

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """The stage, and its batches."""
        return cls(Setting.of(run), run), run.samples()

    @torch.no_grad()
    def seen(self, lr: torch.Tensor) -> dict[str, Any]:
        """The model's values before its steps, of low-resolution images [B, 3, h, w]."""
        return self.model.values_before("hint", self.model.given(lr))

    def steps(self, condition: torch.Tensor) -> Steps:
        """What a training step calls, for a condition [B, C, h, w]."""
        hint = self.model.get_submodule("hint")(condition)
        control = self.model.get_submodule("control")
        return Steps(control, self.model.denoiser, hint, self.text, self.gradient_stops)

    @property
    def gradient_stops(self) -> bool:
        """Whether gradients go around the UNet's encoder: not where it learns."""
        return self.locked


class CCSR(ControlStage):
    """CCSR's control network learns at the truncated timesteps; `truncated_terms` has its losses.

    Version 1's has `noise` and, in turn with it, `first`, `jump` and `jump_noise`; version 2's has
    the first three at once.
    """

    name = "ccsr"
    families = ("ccsr",)
    losses: ClassVar[tuple[Loss, ...]] = ("noise", "first", "jump", "jump_noise")
    condition = "latent"

    def __init__(self, setting: Setting, run: StageRun):
        """As the base; where the chain begins is in the recipe."""
        super().__init__(setting, run)
        self.from_lr = run.settings.start_from == "lr"

    @property
    def gradient_stops(self) -> bool:
        """Version 1 alone runs the UNet's encoder without gradient."""
        return self.locked and self.model.process.inputs[0] != "latent"

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        """The clean latent of the photograph, and the terms."""
        lr, target = self.pair(batch, index)
        condition = self.seen(lr)[self.condition]
        latent = self.clean_latents(target)
        begin = condition.float() if self.from_lr else latent
        steps = self.steps(condition)
        return latent, truncated_terms(steps, latent, begin, Draws.like(latent), self.weights)


class DoSSR(ControlStage):
    """DoSSR's control network learns on the way from HR to LR: `shift` is |x0 - z_0|, mean.

    The timestep is drawn from all; from 500 on the mean is the latent of the input. With
    `timesteps: chain` it is one of those that the model's chain has.
    """

    name = "dossr"
    families = ("dossr",)
    losses: ClassVar[tuple[Loss, ...]] = ("shift",)
    condition = "condition"

    def __init__(self, setting: Setting, run: StageRun):
        """As the base; which timesteps are drawn is in the recipe."""
        super().__init__(setting, run)
        self.timesteps = list(range(len(alphas_cumprod())))
        if run.settings.timesteps == "chain":
            self.timesteps = list(expect(self.model.process, LinearSteps).timesteps)

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        """The clean latent that is predicted, and the term."""
        lr, target = self.pair(batch, index)
        condition = self.seen(lr)[self.condition].float()
        clean = self.clean_latents(target)
        choice = torch.randint(len(self.timesteps), (len(clean),))
        timesteps = torch.tensor(self.timesteps)[choice].to(clean.device)
        state = shifted(clean, condition, torch.randn_like(clean), timesteps)
        found = self.steps(condition).clean(state, timesteps).float()
        return found, {"shift": F.l1_loss(found, clean)}


class Preprocessor(ImageStage):
    """The preprocessor learns to clean and enlarge images, as Real-ESRNet does (2107.10833)."""

    name = "preprocessor"
    families = ("dossr",)
    takes_teacher = True
    trained = ("preprocessor",)

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """The stage, and its batches."""
        return cls(Setting.of(run)), run.samples()

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        """The preprocessor's image, not clamped."""
        lr, target = self.pair(batch, index)
        network: Any = self.model.get_submodule("preprocessor")
        image = network.unclamped(lr)
        return image, self.terms(image, target)


class Decoder(ImageStage):
    """CCSR's second stage: the decoder learns on the latents of a chain that is held still.

    Version 1 has l1, lpips and a GAN that is balanced with them (`gan_balance`, factor 0.5);
    version 2 mse, lpips and 0.05 of a GAN after 100 steps. The discriminator is of patches, and
    learns by a hinge loss.
    """

    name = "decoder"
    families = ("osediff", *ON_SD)
    losses = ON_IMAGES
    takes_teacher = True
    form = HINGE
    balances = True
    trained = ("decoder.decoder",)

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """The stage, and its batches."""
        return cls(Setting.of(run)), run.samples()

    def last_layer(self) -> nn.Parameter:
        """The weight of the decoder's last convolution."""
        decoder = expect(self.model.decoder, VAEDecoder).decoder
        weight: nn.Parameter = decoder.conv_out.weight
        return weight

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor, Terms]:
        """The image of the latents that the model makes."""
        lr, target = self.pair(batch, index)
        with torch.no_grad():
            latent = self.model.values_before("decoder", self.model.given(lr))["clean_latent"]
        image = self.model.decoder(latent)
        return image, self.terms(image, target)
