"""What a recipe says of one stage of training, whichever stage it is."""

from typing import Literal

from pydantic import Field

from compress.core.config import Strict

Loss = Literal[
    "l1",
    "mse",
    "frequency",
    "texture",
    "blocks",
    "lpips",
    "kl",
    "gan",
    "vq",
    "teacher",
    "inverse",
    "truth",
    "latent",
    "nll",
    "distill",
]
Freezable = Literal["encoder", "decoder"]
Learning = Literal["joint", "frozen"]
# The losses that compare images.
ON_IMAGES: tuple[Loss, ...] = ("l1", "mse", "frequency", "texture", "lpips", "gan")


class StageSettings(Strict):
    """One stage of a training recipe. Which stages and losses there are, recipe.py checks."""

    stage: str = Field(description="The name of the stage.")
    steps: int = Field(gt=0, description="Optimiser steps.")
    batch: int = Field(gt=0, description="Crops in a batch.")
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
            "Whether the encoder learns as well, in the stages edge_joint, edge_one_step and "
            "end_to_end."
        ),
    )
    decoder: Learning = Field(
        "joint", description="Whether the decoder learns as well, in the stage end_to_end."
    )
    gan_lr: float = Field(1e-4, description="Learning rate of the discriminator of the loss gan.")
    ema: float = Field(0.999, ge=0, lt=1, description="Decay of the averaged weights.")
    blend: float = Field(
        1.0,
        gt=0,
        le=1,
        description=(
            "How much of the result is trained; the rest is the weights the stage began with."
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
    def frozen(self) -> list[Freezable]:
        """The parts of the model that are held still."""
        parts: list[Freezable] = []
        if self.encoder == "frozen":
            parts.append("encoder")
        if self.decoder == "frozen":
            parts.append("decoder")
        return parts
