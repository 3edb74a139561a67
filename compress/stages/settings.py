"""What a recipe says of one stage of training, whichever stage it is."""

from typing import Literal

from pydantic import Field

from compress.core.config import Strict
from compress.training.config import LoRA

Loss = Literal[
    "l1",
    "mse",
    "frequency",
    "texture",
    "blocks",
    "lpips",
    "ea_lpips",
    "ea_dists",
    "kl",
    "gan",
    "vq",
    "teacher",
    "inverse",
    "truth",
    "latent",
    "latent_lpips",
    "nll",
    "distill",
    "noise",
    "first",
    "jump",
    "jump_noise",
    "shift",
    "ta_add",
    "ta_add_by_step",
    "velocity",
    "tsd",
    "score",
]
Freezable = Literal["encoder", "decoder"]
Learning = Literal["joint", "frozen"]
# The losses that compare images.
ON_IMAGES: tuple[Loss, ...] = (
    "l1",
    "mse",
    "frequency",
    "texture",
    "lpips",
    "ea_lpips",
    "ea_dists",
    "gan",
)


# The families on Stable Diffusion's UNet that are trained as OSEDiff's nano or from it.
ON_SD = ("dfosd", "invsr", "ccsr", "addsr", "dossr")


class StageSettings(Strict):
    """One stage of a training recipe. Which stages and losses there are, recipe.py checks."""

    stage: str = Field(description="The name of the stage.")
    steps: int = Field(gt=0, description="Optimiser steps.")
    batch: int = Field(gt=0, description="Crops in a batch.")
    accumulate: int = Field(
        1, gt=0, description="Batches in an optimiser step, in each of several processes."
    )
    crop: int = Field(
        gt=0, multiple_of=64, description="Side of the square crops of photographs in pixels."
    )
    lr: float = Field(gt=0, description="Learning rate at its highest.")
    losses: dict[Loss, float] = Field(
        description="Factors of the stage's losses; one that is not named is not computed."
    )
    encoder: Learning = Field(
        "joint",
        description=(
            "Whether the encoder learns as well, in the stages tsdsr, edge_joint, edge_one_step "
            "and end_to_end."
        ),
    )
    decoder: Learning = Field(
        "joint", description="Whether the decoder learns as well, in the stage end_to_end."
    )
    decoder_rate: float = Field(
        1.0,
        gt=0,
        le=1,
        description=(
            "Factor of the decoder's learning rate, in stages where it learns. Below 1 more of the "
            "restoring is left to what runs before it."
        ),
    )
    denoiser: Learning = Field(
        "frozen",
        description=(
            "Whether the UNet learns as well, in the stages ccsr, dossr and addsr, where it is "
            "held still as published."
        ),
    )
    start_from: Literal["hr", "lr"] = Field(
        "hr",
        description=(
            "In the stages ccsr and addsr, what is noised for the first call: the latent of the "
            "photograph, as published, or that of the low-resolution image, as the chain begins."
        ),
    )
    timesteps: Literal["all", "chain"] = Field(
        "all",
        description=(
            "In the stage dossr, the timesteps that are drawn: all 1000, as published, or those of "
            "the model's chain alone."
        ),
    )
    dasm: bool = Field(
        True,
        description=(
            "In the stage tsdsr, whether scores are summed along a path of four points, as in the "
            "paper; false takes one, as the authors' command."
        ),
    )
    lora: LoRA | None = Field(
        None,
        description=(
            "LoRA on the UNet, and on what steers it, in the place of their whole weights; the "
            "pairs are merged at the end of the stage. null trains in full."
        ),
    )
    gan_lr: float = Field(1e-4, description="Learning rate of the discriminator of the loss gan.")
    gan_form: Literal["softplus", "hinge", "paired"] | None = Field(
        None,
        description=(
            "The losses of both sides of the loss gan: softplus, hinge, or paired, which compares "
            "real and made of one scene; null: those of the stage."
        ),
    )
    gan_after: int = Field(
        0,
        ge=0,
        description="Steps in which the discriminator of the loss gan learns before it teaches.",
    )
    gan_balance: bool = Field(
        False,
        description=(
            "Whether the loss gan counts so often that its gradient at the decoder's last layer is "
            "as large as that of the other losses, times its factor."
        ),
    )
    clean: Literal["encoder", "hr_encoder"] = Field(
        "encoder",
        description=(
            "Whose latents of photographs are the clean ones: the model's encoder's, or those of "
            "the encoder that the stage hr_encoder left, for a model whose encoder keeps no detail."
        ),
    )
    ema: float = Field(0.999, ge=0, lt=1, description="Decay of the averaged weights.")
    blend: float = Field(
        1.0,
        gt=0,
        le=2,
        description=(
            "How much of the result is trained; the rest is the weights the stage began with. "
            "Above 1 the weights go on beyond the end, on the straight line from the beginning."
        ),
    )
    soften: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=(
            "How far the last convolution moves towards bicubic enlargement at the end of a stage "
            "that makes images."
        ),
    )

    @property
    def samples(self) -> int:
        """Crops that one process sees in the whole stage."""
        return self.steps * self.accumulate * self.batch

    @property
    def held(self) -> list[str]:
        """The components that are held still."""
        encoders = ["encoder", "condition_encoder"] if self.encoder == "frozen" else []
        return [*encoders, *(["decoder"] if self.decoder == "frozen" else [])]

    @property
    def frozen(self) -> list[Freezable]:
        """The parts of the model that are held still."""
        parts: list[Freezable] = []
        if self.encoder == "frozen":
            parts.append("encoder")
        if self.decoder == "frozen":
            parts.append("decoder")
        return parts
