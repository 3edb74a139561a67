"""DFOSD's training (arXiv 2410.04224): one step without a teacher, judged on noised latents.

    L_G = losses on images + factor * softplus(-D(F(z_H)))

z_H is the clean latent that the model makes, F adds noise of a random level, D is the encoder and
the middle of a copy of the UNet that learns by LoRA (`NoiseAwareDiscriminator`). The paper has MSE
of images in [-1, 1], four times that of images in [0, 1] here, and EA-DISTS. The VAE is held still;
the UNet and its prompt learn, the UNet by LoRA of rank 16 and alpha 16.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader

from compress.process.one_step import alphas_cumprod
from compress.stages.base import Batch, Stage, StageRun
from compress.stages.clean import CleanLatents
from compress.stages.images import ImageStage, Setting
from compress.training.adversarial import SOFTPLUS, Judged
from compress.training.discriminator import NoiseAwareDiscriminator, told_of_pair
from compress.training.hidden import Hidden
from compress.training.terms import Terms, wants


class DFOSD(ImageStage):
    """The UNet learns from photographs and a noise-aware discriminator of latents."""

    name = "dfosd"
    families = ("dfosd", "osediff")
    takes_lora = ("denoiser",)
    form = SOFTPLUS
    trained = ("denoiser",)
    in_full = ("denoiser.context",)

    def __init__(self, setting: Setting, clean: CleanLatents):
        """Copy the discriminator from the UNet as it is.

        Args:
            setting: What the stage computes with.
            clean: Makes the latents that are real.
        """
        super().__init__(setting)
        self.clean_latents = clean
        self.judge: Hidden[NoiseAwareDiscriminator] | None = None
        if wants(self.weights, "gan"):
            judge = NoiseAwareDiscriminator(self.model.denoiser, None, alphas_cumprod())
            self.judge = Hidden(judge)

    @classmethod
    def prepare(cls, run: StageRun) -> tuple[Stage, DataLoader]:
        """The stage, and its batches."""
        return cls(Setting.of(run), CleanLatents(run)), run.batches()

    def critic(self) -> tuple[nn.Module, list[nn.Parameter]]:
        """The noise-aware discriminator; its LoRA and its head learn."""
        if self.judge is None:
            raise ValueError("the loss gan has a factor of 0")
        return self.judge.module, self.judge.module.trainable_parameters()

    def forward(self, batch: Batch, index: int) -> tuple[torch.Tensor | Judged, Terms]:
        """The latents that are judged, or without a discriminator the image."""
        lr, hr = self.pair(batch, index)
        with torch.no_grad():
            latent = self.model.encoder(lr)
        restored = self.model.clean_latent(latent)
        image = self.model.decoder(restored)
        terms = self.terms(image, hr)
        if self.judge is None:
            return image, terms
        told = told_of_pair(self.judge.module, len(hr))
        return Judged(self.clean_latents(hr), restored.float(), told), terms
