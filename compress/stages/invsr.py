"""InvSR's training (arXiv 2412.09013): a network learns the noise that a frozen UNet starts from.

    loss = latent + 2 * latent_lpips + 0.1 * gan

`latent` is the mean square of the clean latent, by one call of the UNet, from that of the
photograph. The discriminator judges latents, is told text and timestep, and learns by a hinge loss.
The timestep is drawn from those of the model's chain; the paper has 250, 200, 150 and 100.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from compress.networks.latent_diffusion import SampledEncoder
from compress.networks.latent_judge import LARGEST, LatentJudge, judge_sizes
from compress.networks.noise_predictor import NoisePredictor
from compress.process.linear_steps import LinearSteps
from compress.stages.base import Batch, Stage, StageRun
from compress.stages.clean import CleanLatents
from compress.stages.images import ImageStage, Setting
from compress.stages.settings import ON_IMAGES
from compress.training import losses
from compress.training.adversarial import HINGE, Judged
from compress.training.inversion import clean_of, noised_start
from compress.training.networks import expect
from compress.training.terms import Terms, wants


class InvSR(ImageStage):
    """The noise predictor learns; UNet, encoder and decoder are held still."""

    name = "invsr"
    families = ("invsr",)
    losses = ("latent", "latent_lpips", *ON_IMAGES)
    takes_teacher = True
    form = HINGE
    trained = ("noise_predictor",)

    def __init__(self, setting: Setting, clean: CleanLatents, lpips_weights: str | None = None):
        """Train the predictor of `setting.model`.

        Args:
            setting: What the stage computes with.
            clean: Makes the latents to predict.
            lpips_weights: The file of the loss latent_lpips, where that is wanted.
        """
        super().__init__(setting)
        self.latent_lpips: nn.Module | None = None
        if lpips_weights is not None and wants(self.weights, "latent_lpips"):
            self.latent_lpips = losses.latent_lpips(lpips_weights, self.channels)
        self.clean_latents = clean
        self.timesteps = expect(self.model.process, LinearSteps).timesteps
        text = self.model.context()
        own: Any = self.model.denoiser
        self.register_buffer("text", own.context if text is None else text, persistent=False)
        self.text: torch.Tensor

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """The stage, and its batches."""
        stage = cls(Setting.of(run), CleanLatents(run), run.latent_lpips_weights)
        return stage, run.samples()

    def critic(self) -> tuple[nn.Module, list[nn.Parameter]]:
        """A new discriminator, of which all learns."""
        judge = LatentJudge(judge_sizes(self.channels, self.text.shape[-1]))
        return judge, list(judge.parameters())

    @property
    def predictor(self) -> NoisePredictor:
        """What learns."""
        return expect(self.model.get_submodule("noise_predictor"), NoisePredictor)

    @property
    def channels(self) -> int:
        """Of the latent."""
        outputs: Any = self.predictor.encoder.conv_out.out_channels
        return int(outputs) // 2

    @torch.no_grad()
    def start(self, lr: torch.Tensor) -> torch.Tensor:
        """The latent of a low-resolution image; a sample where the model samples."""
        encoder = self.model.encoder
        if not isinstance(encoder, SampledEncoder):
            latent: torch.Tensor = encoder(lr)
            return latent
        mean = encoder(lr)
        return encoder(lr, torch.randn_like(mean))

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor | Judged, Terms]:
        """The latents that are judged, or without a discriminator the clean latent."""
        lr, target = self.pair(batch, index)
        latent = self.start(lr)
        choice = torch.randint(len(self.timesteps), (len(lr),))
        timesteps = torch.tensor(self.timesteps)[choice].to(lr.device)
        state = noised_start(self.predictor, lr, latent, torch.randn_like(latent), timesteps)
        restored = clean_of(self.model.denoiser, state, timesteps, self.text).float()
        wanted = self.clean_latents(target)
        terms: Terms = {}
        if wants(self.weights, "latent"):
            terms["latent"] = F.mse_loss(restored, wanted)
        if self.latent_lpips is not None:
            terms["latent_lpips"] = self.latent_lpips(restored, wanted).mean()
        if wants(self.weights, *(loss for loss in ON_IMAGES if loss != "gan")):
            terms |= self.terms(self.model.decoder(restored), target)
        if not wants(self.weights, "gan"):
            return restored, terms
        told = {"context": self.text, "timestep": timesteps}
        return Judged(wanted, restored.clamp(-LARGEST, LARGEST), told), terms
