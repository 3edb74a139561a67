"""Distillation: train a compressed model after its teacher, the source (AdcSR, arXiv 2411.13383, and others)."""

import fnmatch
import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compress.core.errors import UserError, nearest
from compress.core.identity import files_key
from compress.data.folder import data_hash, find_images
from compress.model.passes import FitContext, Pass
from compress.model.sr_model import SRModel
from compress.networks.sd21_checkpoint import PARTS
from compress.training.student import JUDGED, ON_LATENTS

Loss = Literal["feature", "latent", "l1", "mse", "lpips", "ea_dists", "gan", "vsd", "tsm"]
# AdcSR: the decoder alone, then the UNet with the decoder's middle block.
TRAINED = {"decoder": ("decoder.*",), "student": ("denoiser.*", "decoder.decoder.mid_block.*")}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Photographs(_Strict):
    """`folders` of photographs; `embedded` stands for the few that come with scikit-image."""

    folders: tuple[str, ...] = Field(("embedded",), min_length=1)
    degradation: Literal["mild", "realesrgan"] = "mild"


class Discriminator(_Strict):
    """`unet_lora` judges features (AdcSR), `noise_aware` latents (DFOSD), `patch` images (pix2pix)."""

    kind: Literal["unet_lora", "noise_aware", "patch"] = "unet_lora"
    rank: int = Field(4, gt=0)
    lr: float = Field(1e-6, gt=0)


class Prior(_Strict):
    """The diffusion model whose scores `vsd` and `tsm` use: SD 2.1-base, a folder in diffusers' layout or a hub id.
    `source` takes the recipe's own source, which must then predict noise at every timestep."""

    base: str
    prompt: str = ""
    negative_prompt: str = (
        "painting, oil painting, illustration, drawing, art, sketch, cartoon, low quality, blurring"
    )
    rank: int = Field(4, gt=0)
    lr: float = Field(5e-5, gt=0)


class Distill(Pass):
    """`stage: decoder` trains the decoder on latents of the teacher, `stage: student` what runs from the LR image on.

    `losses` weighs, on features: feature (L1 to the teacher's), gan; on latents: latent (L1), vsd, tsm; on images:
    l1, mse, lpips, ea_dists against `target`, the teacher's image or the HR photograph. `gan` uses `discriminator`,
    `vsd` and `tsm` a `prior`. `train` are patterns of parameter names, by default those that AdcSR trains. `steps`
    counts optimiser steps, each of `accumulate` batches. A killed run resumes from its last checkpoint.
    """

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["distill"] = Field(default="distill", alias="pass")
    stage: Literal["decoder", "student"]
    target: Literal["teacher", "hr"] = "teacher"
    losses: dict[Loss, float] = Field(min_length=1)
    train: tuple[str, ...] | None = None
    data: Photographs = Photographs()
    steps: int = Field(gt=0)
    batch: int = Field(16, gt=0)
    accumulate: int = Field(1, gt=0)
    crop: int = Field(128, gt=0, multiple_of=64)
    lr: float = Field(4e-4, gt=0)
    ema: float = Field(0.995, ge=0, lt=1)
    # As a training stage's: what of the result is trained, and how far its last convolution then moves to bicubic.
    blend: float = Field(1.0, gt=0, le=1)
    soften: float = Field(0.0, ge=0, lt=1)
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    discriminator: Discriminator = Discriminator()
    prior: Prior | None = None
    lpips_weights: str | None = None
    lpips_net: Literal["squeeze", "alex", "vgg"] = "squeeze"
    dists_weights: str | None = None
    samples_every: int = Field(250, gt=0)
    checkpoint_every: int = Field(100, gt=0)

    @model_validator(mode="after")
    def _complete(self) -> "Distill":
        needs = {
            "lpips": "lpips_weights",
            "ea_dists": "dists_weights",
            "vsd": "prior",
            "tsm": "prior",
        }
        for loss, need in needs.items():
            if self.losses.get(loss) and getattr(self, need) is None:
                raise ValueError(f"the loss {loss} needs {need}; set it, or leave the loss out")
        if self.stage == "decoder" and (bad := sorted(set(self.losses) & {"feature", *ON_LATENTS})):
            raise ValueError(
                f"{', '.join(bad)} cannot be a loss of stage decoder, which is trained on images; choose "
                "among l1, mse, lpips, ea_dists and gan"
            )
        return self

    @property
    def judged(self) -> str | None:
        """What the discriminator looks at, None without one."""
        return JUDGED[self.discriminator.kind] if self.losses.get("gan") else None

    def trained_names(self, model: SRModel) -> list[str]:
        """Names of the parameters that learn. Raises UserError for a pattern that matches none."""
        names = [name for name, _ in model.named_parameters()]
        chosen: dict[str, None] = {}
        for pattern in self.train or TRAINED[self.stage]:
            found = fnmatch.filter(names, pattern)
            if not found:
                raise UserError(
                    f"pass 'distill': train pattern '{pattern[:100]}' matches no parameter"
                    f"{nearest(pattern, names)}; they are named like '{names[0]}', * stands for any part"
                )
            chosen |= dict.fromkeys(found)
        return list(chosen)

    def convert(self, model: SRModel) -> None:
        """The structure stays; what does not fit it shows here, before any weight is read."""
        self.trained_names(model)
        if not hasattr(model.decoder, "features"):
            raise UserError(
                f"pass 'distill': needs an autoencoder's decoder, not a {type(model.decoder).__name__}"
            )
        # A light decoder is one network, an autoencoder's lies inside its component.
        joined = not hasattr(getattr(model.decoder, "decoder", model.decoder).conv_in, "weight")
        if joined and self.stage == "decoder":
            raise UserError(
                "pass 'distill': the decoder takes no latents after decoder_join; list stage decoder "
                "before it"
            )
        on_latents = sorted({x for x in ON_LATENTS if self.losses.get(x)}) + ["gan"] * (
            self.judged == "latent"
        )
        if joined and on_latents:
            raise UserError(
                f"pass 'distill': {', '.join(on_latents)} compare latents, which a joined decoder does not "
                "have; leave them out, or distil before decoder_join"
            )

    def fit(self, model: SRModel, context: FitContext) -> dict:
        from compress.training.distillation import distill

        return distill(self, model, context)

    def data_key(self) -> str:
        base = [Path(self.prior.base) / part for part in PARTS] if self.prior else []
        files = [*base, *(f for f in (self.lpips_weights, self.dists_weights) if f)]
        return json.dumps([data_hash(find_images(self.data.folders)), files_key(files)])
