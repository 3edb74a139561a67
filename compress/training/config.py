"""What recipes say of a training pass: the sections that both the pass and its training read."""

import fnmatch
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from compress.core.config import Strict
from compress.core.errors import UserError, nearest
from compress.data.config import Photographs
from compress.model.passes import Pass
from compress.model.sr_model import SRModel
from compress.training.student import JUDGED, ON_LATENTS

Loss = Literal["feature", "latent", "l1", "mse", "lpips", "ea_dists", "gan", "vsd", "tsm"]
# AdcSR: the decoder alone, then the UNet with the decoder's middle block.
TRAINED = {"decoder": ("decoder.*",), "student": ("denoiser.*", "decoder.decoder.mid_block.*")}
# Widths and blocks from the latent on, and whether the last doubling is a pixel shuffle. The first two are [REC].
SIZES = {
    "default": ((320, 160, 64, 24), (4, 3, 2, 1), False),
    "lite": ((512, 64, 32, 16), (1, 2, 2, 1), False),
    "nano": ((96, 48, 24), (2, 2, 1), True),
}


class Discriminator(Strict):
    """`unet_lora` judges features (AdcSR), `noise_aware` latents (DFOSD), `patch` images (pix2pix)."""

    kind: Literal["unet_lora", "noise_aware", "patch"] = "unet_lora"
    rank: int = Field(4, gt=0)
    lr: float = Field(1e-6, gt=0)


class Prior(Strict):
    """The diffusion model whose scores `vsd` and `tsm` use: SD 2.1-base, a folder in diffusers' layout or a hub id.
    `source` takes the recipe's own source, which must then predict noise at every timestep."""

    base: str
    prompt: str = ""
    negative_prompt: str = (
        "painting, oil painting, illustration, drawing, art, sketch, cartoon, low quality, blurring"
    )
    rank: int = Field(4, gt=0)
    lr: float = Field(5e-5, gt=0)


class DistillConfig(Pass):
    """The keys of the pass `distill`, which compress/passes/distill.py explains."""

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
    def _complete(self) -> "DistillConfig":
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


class DecoderLightConfig(Pass):
    """The keys of the pass `decoder_light`, which compress/passes/decoder_light.py explains."""

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["decoder_light"] = Field(default="decoder_light", alias="pass")
    size: Literal["default", "lite", "nano"] | None = None
    widths: tuple[Annotated[int, Field(gt=0, le=8192)], ...] = Field(min_length=1, max_length=16)
    blocks: tuple[Annotated[int, Field(ge=0, le=64)], ...] = Field(min_length=1, max_length=16)
    shuffle: bool = False
    losses: dict[Literal["feature", "l1", "mse", "lpips"], float] = Field(
        {"feature": 0.1, "l1": 1.0}, min_length=1
    )
    data: Photographs = Photographs()
    steps: int = Field(ge=0)
    batch: int = Field(16, gt=0)
    crop: int = Field(128, gt=0, multiple_of=64)
    lr: float = Field(1e-3, gt=0)
    ema: float = Field(0.995, ge=0, lt=1)
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    lpips_weights: str | None = None
    lpips_net: Literal["squeeze", "alex", "vgg"] = "squeeze"
    checkpoint_every: int = Field(100, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, data: dict) -> dict:
        """Write the size out, so that a saved model keeps its structure if SIZES should ever change."""
        if isinstance(data, dict) and isinstance(data.get("size"), str) and data["size"] in SIZES:
            return dict(zip(("widths", "blocks", "shuffle"), SIZES[data["size"]])) | data
        return data

    @model_validator(mode="after")
    def _complete(self) -> "DecoderLightConfig":
        if len(self.widths) != len(self.blocks):
            raise ValueError(
                f"widths {list(self.widths)} and blocks {list(self.blocks)} must name the same levels"
            )
        if self.losses.get("lpips") and self.lpips_weights is None:
            raise ValueError("the loss lpips needs lpips_weights; set it, or leave the loss out")
        return self
