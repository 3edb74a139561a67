"""The keys of the pass `reference_adapter`, which the pass and its training read."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from compress.data.config import Photographs
from compress.model.passes import Pass
from compress.training.config import LpipsNet, Precision

MOST = 64  # references


class ReferenceAdapterConfig(Pass):
    """The keys of the pass `reference_adapter`."""

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["reference_adapter"] = Field(
        default="reference_adapter", alias="pass", description="Names the pass."
    )
    levels: tuple[Annotated[int, Field(ge=0, le=7)], ...] = Field(
        (1, 2, 3),
        min_length=1,
        max_length=8,
        description="Levels of the UNet's decoder that look at references, in rising order; 0 is "
        "the largest map, which costs most.",
    )
    references: int = Field(
        4, ge=1, le=MOST, description="Places for references: as many as a run may have."
    )
    size: int = Field(
        256,
        gt=0,
        le=4096,
        multiple_of=64,
        description="Side of a reference in pixels: a square of a photograph at full resolution.",
    )
    weights: str | None = Field(
        None,
        description="A model of the same source with a trained adapter, of which this one takes "
        "the values: its run directory or model.safetensors.",
    )
    steps: int = Field(
        0, ge=0, description="Optimiser steps of the adapter; 0 leaves it adding nothing."
    )
    losses: dict[Literal["l1", "mse", "frequency", "lpips"], float] = Field(
        {"l1": 1.0},
        min_length=1,
        description="Factors of the losses, which compare with the photograph.",
    )
    foreign: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of crops whose references are of another photograph, so that these do "
        "no harm.",
    )
    data: Photographs = Field(Photographs(), description="The photographs to train on.")
    batch: int = Field(4, gt=0, description="Crops in a batch.")
    crop: int = Field(
        128, gt=0, multiple_of=64, description="Side of the square crops of photographs in pixels."
    )
    lr: float = Field(5e-5, gt=0, description="Learning rate at its highest.")
    ema: float = Field(0.995, ge=0, lt=1, description="Decay of the averaged weights.")
    precision: Precision = Field("fp32", description="Number format of the arithmetic.")
    lpips_weights: str | None = Field(
        None, description="File with the weights of LPIPS under pyiqa's names, for the loss lpips."
    )
    lpips_net: LpipsNet = Field("squeeze", description="The network of the loss lpips.")
    checkpoint_every: int = Field(100, gt=0, description="Steps between two checkpoints.")

    @field_validator("levels")
    @classmethod
    def _rising(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if list(levels) != sorted(set(levels)):
            raise ValueError(f"levels {list(levels)} must rise, each once")
        return levels

    @model_validator(mode="after")
    def _complete(self) -> "ReferenceAdapterConfig":
        if self.losses.get("lpips") and self.lpips_weights is None:
            raise ValueError("the loss lpips needs lpips_weights; set it, or leave the loss out")
        if self.weights and self.steps:
            raise ValueError("give `weights` of a trained adapter or `steps` of a training")
        return self
