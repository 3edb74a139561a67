"""What recipes say of a training pass: the sections that both the pass and its training read."""

import fnmatch
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from compress.core.config import Strict
from compress.core.errors import UserError, nearest
from compress.data.config import Photographs
from compress.model.passes import Pass
from compress.model.sr_model import SRModel
from compress.networks.osediff_file import LORA_ALPHA

Loss = Literal[
    "feature",
    "latent",
    "l1",
    "mse",
    "frequency",
    "texture",
    "lpips",
    "ea_lpips",
    "ea_dists",
    "gan",
    "vsd",
    "tsm",
]
Precision = Literal["fp32", "bf16", "fp16"]
LpipsNet = Literal["squeeze", "alex", "vgg"]
# What a discriminator of each kind looks at.
JUDGED = {"unet_lora": "features", "noise_aware": "latent", "patch": "image"}
ON_LATENTS = ("latent", "vsd", "tsm")
BLENDED_LORA = "blend keeps a part of whole weights, and lora trains pairs; leave one out"
# What AdcSR trains: the decoder alone, then the UNet with the decoder's middle block.
TRAINED = {"decoder": ("decoder.*",), "student": ("denoiser.*", "decoder.decoder.mid_block.*")}
# Widths and blocks from the latent on, and whether the last doubling is a pixel shuffle. The first
# two are [REC], the reconstruction that compress/networks/edge.py describes.
SIZES = {
    "default": ((320, 160, 64, 24), (4, 3, 2, 1), False),
    "lite": ((512, 64, 32, 16), (1, 2, 2, 1), False),
    "nano": ((96, 48, 24), (2, 2, 1), True),
    "taesd": ((64, 64, 64, 64), (3, 3, 3, 1), False),  # as published
}
# A perceptual loss -> the key of a recipe that names the file of its weights.
METRIC_FILES = {"lpips": "lpips_weights", "ea_lpips": "lpips_weights", "ea_dists": "dists_weights"}
# What a loss needs to be computed: the loss -> another key of the section.
_NEEDS = METRIC_FILES | {"vsd": "prior", "tsm": "prior"}


class LoRA(Strict):
    """LoRA on what a recipe trains. DFOSD's is of rank 16 and alpha 16."""

    rank: int = Field(16, gt=0, le=4096, description="Rank of the pairs.")
    alpha: float = Field(
        16.0, gt=0, le=4096, description="Alpha of the pairs, which count alpha / rank."
    )


class Discriminator(Strict):
    """The network that tells images or features of the teacher from those of the student."""

    kind: Literal["unet_lora", "noise_aware", "patch"] = Field(
        "unet_lora",
        description=(
            "What judges: `unet_lora` the source's UNet, on features (AdcSR); `noise_aware` its "
            "encoder, on noised latents (DFOSD); `patch` a small network, on images (pix2pix)."
        ),
    )
    rank: int = Field(4, gt=0, description="Rank of the LoRA that the UNet learns with.")
    alpha: float = Field(
        LORA_ALPHA, gt=0, description="Alpha of that LoRA, which counts alpha / rank."
    )
    lr: float = Field(1e-6, gt=0, description="Learning rate of the discriminator.")


class Prior(Strict):
    """The diffusion model whose scores the losses `vsd` and `tsm` use."""

    base: str = Field(
        description=(
            "SD 2.1-base, as a folder in diffusers' layout or a hub id; or `source` for the "
            "recipe's own source, which must then predict noise at every timestep."
        )
    )
    prompt: str = Field("", description="The text that the scores are guided to.")
    negative_prompt: str = Field(
        (
            "painting, oil painting, illustration, drawing, art, sketch, cartoon, low quality, "
            "blurring"
        ),
        description="The text that the scores are guided away from.",
    )
    rank: int = Field(4, gt=0, description="Rank of the LoRA of the copy that follows the student.")
    alpha: float = Field(
        LORA_ALPHA, gt=0, description="Alpha of that LoRA, which counts alpha / rank."
    )
    lr: float = Field(5e-5, gt=0, description="Learning rate of that copy.")


class DistillConfig(Pass):
    """The keys of the pass `distill`, which compress/passes/distill.py explains."""

    model_config = ConfigDict(populate_by_name=True)

    pass_: Literal["distill"] = Field(
        default="distill", alias="pass", description="The name of the pass."
    )
    stage: Literal["decoder", "student"] = Field(
        description=(
            "`decoder` trains the decoder on latents of the teacher; `student` trains what runs "
            "from the low-resolution image on."
        )
    )
    target: Literal["teacher", "hr"] = Field(
        "teacher",
        description="What images are compared with: the teacher's image, or the photograph (`hr`).",
    )
    losses: dict[Loss, float] = Field(
        min_length=1,
        description=(
            "Factors of the losses. On features: feature (L1 to the teacher's). On latents: latent "
            "(L1), vsd, tsm. On images: l1, mse, frequency (L1 of the Fourier transform), texture "
            "(the strength of detail, wherever it lies), lpips, ea_lpips, ea_dists. gan uses the "
            "discriminator."
        ),
    )
    train: tuple[str, ...] | None = Field(
        None,
        description="Patterns of the names of parameters that learn; by default AdcSR's.",
    )
    lora: LoRA | None = Field(
        None,
        description=(
            "LoRA in the place of whole weights: of what learns, the plain convolutions and linear "
            "layers get pairs, which are merged at the end. null trains in full."
        ),
    )
    data: Photographs = Field(Photographs(), description="The photographs to train on.")
    steps: int = Field(gt=0, description="Optimiser steps.")
    batch: int = Field(16, gt=0, description="Crops in a batch.")
    accumulate: int = Field(1, gt=0, description="Batches in an optimiser step.")
    crop: int = Field(
        128, gt=0, multiple_of=64, description="Side of the square crops of photographs in pixels."
    )
    lr: float = Field(4e-4, gt=0, description="Learning rate at its highest.")
    ema: float = Field(0.995, ge=0, lt=1, description="Decay of the averaged weights.")
    blend: float = Field(
        1.0,
        gt=0,
        le=2,
        description=(
            "How much of the result is trained; the rest is the weights before the pass. Above 1 "
            "the weights go on beyond the end, on the straight line from the beginning."
        ),
    )
    soften: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="How far the last convolution moves towards bicubic enlargement at the end.",
    )
    precision: Precision = Field("bf16", description="Number format of the arithmetic.")
    recompute: bool = Field(
        False,
        description=(
            "Whether activations are computed again for the gradient, instead of kept (gradient "
            "checkpointing): less memory, more time, the same result."
        ),
    )
    shard: bool = Field(
        False,
        description=(
            "Whether several processes spread weights, gradients and averages over themselves "
            "(FSDP 2), for a model that one device's memory does not hold."
        ),
    )
    discriminator: Discriminator = Field(
        Discriminator(), description="What judges the student, for the loss gan."
    )
    prior: Prior | None = Field(
        None, description="The diffusion model of the losses vsd and tsm; they need one."
    )
    lpips_weights: str | None = Field(
        None, description="File with the weights of LPIPS under pyiqa's names, for the loss lpips."
    )
    lpips_net: LpipsNet = Field("squeeze", description="The network of the loss lpips.")
    dists_weights: str | None = Field(
        None,
        description="File with the weights of DISTS under pyiqa's names, for the loss ea_dists.",
    )
    samples_every: int = Field(250, gt=0, description="Steps between two sample pictures.")
    checkpoint_every: int = Field(100, gt=0, description="Steps between two checkpoints.")

    @model_validator(mode="after")
    def _complete(self) -> "DistillConfig":
        weights: dict[str, float] = dict(self.losses.items())
        for loss, need in _NEEDS.items():
            if weights.get(loss) and getattr(self, need) is None:
                raise ValueError(f"the loss {loss} needs {need}; set it, or leave the loss out")
        if self.lora is not None and self.blend != 1:
            raise ValueError(BLENDED_LORA)
        bad = sorted(set(weights) & {"feature", *ON_LATENTS})
        if self.stage == "decoder" and bad:
            raise ValueError(
                f"{', '.join(bad)} cannot be a loss of stage decoder, which is trained on images; "
                "choose among l1, mse, frequency, texture, lpips, ea_lpips, ea_dists and gan"
            )
        return self

    @property
    def judged(self) -> str | None:
        """What the discriminator looks at: features, latent or image; None without one."""
        if self.losses.get("gan"):
            return JUDGED[self.discriminator.kind]
        return None

    def trained_names(self, model: SRModel) -> list[str]:
        """Names of the parameters of `model` that learn.

        Raises:
            UserError: A pattern matches none.
        """
        names = [name for name, _ in model.named_parameters()]
        chosen: dict[str, None] = {}
        for pattern in self.train or TRAINED[self.stage]:
            matched = fnmatch.filter(names, pattern)
            if not matched:
                raise UserError(
                    f"pass 'distill': train pattern '{pattern[:100]}' matches no parameter"
                    f"{nearest(pattern, names)}; they are named like '{names[0]}', * stands for "
                    "any part"
                )
            chosen |= dict.fromkeys(matched)
        return list(chosen)


def _size_or_widths(schema: dict[str, Any]) -> None:
    """Say in a schema that a size of decoder stands for widths and blocks."""
    written_out = ["widths", "blocks"]
    required = [key for key in schema.get("required", []) if key not in written_out]
    schema.pop("required", None)
    if required:
        schema["required"] = required
    schema["anyOf"] = [{"required": ["size"]}, {"required": written_out}]


class DecoderLightConfig(Pass):
    """The keys of the pass `decoder_light`, which compress/passes/decoder_light.py explains."""

    model_config = ConfigDict(populate_by_name=True, json_schema_extra=_size_or_widths)

    pass_: Literal["decoder_light"] = Field(
        default="decoder_light", alias="pass", description="The name of the pass."
    )
    size: Literal["default", "lite", "nano", "taesd"] | None = Field(
        None, description="A size of decoder, in place of widths, blocks and shuffle."
    )
    kind: Literal["edge", "taesd"] = Field(
        "edge",
        description=(
            "Whose layers: `edge` those of Edge-SD-SR's reconstruction; `taesd` those of a tiny "
            "autoencoder, which has one width."
        ),
    )
    weights: str | None = Field(
        None,
        description=(
            "For kind `taesd`, published values to begin with: taesd_decoder.safetensors, or "
            "diffusers' folder or file of a tiny autoencoder."
        ),
    )
    widths: tuple[Annotated[int, Field(gt=0, le=8192)], ...] = Field(
        min_length=1,
        max_length=16,
        description="Channels of every level, from the latent on; needed without a size.",
    )
    blocks: tuple[Annotated[int, Field(ge=0, le=64)], ...] = Field(
        min_length=1,
        max_length=16,
        description="Residual blocks of every level; needed without a size.",
    )
    shuffle: bool = Field(
        False, description="Whether the last doubling is a pixel shuffle after all convolutions."
    )
    losses: dict[Literal["feature", "l1", "mse", "lpips"], float] = Field(
        {"feature": 0.1, "l1": 1.0},
        min_length=1,
        description=(
            "Factors of the losses: feature is L1 to the old decoder's maps of every size; l1, mse "
            "and lpips compare with its image."
        ),
    )
    data: Photographs = Field(Photographs(), description="The photographs to train on.")
    steps: int = Field(
        ge=0, description="Optimiser steps; 0 leaves the values of `weights`, or random ones."
    )
    batch: int = Field(16, gt=0, description="Crops in a batch.")
    crop: int = Field(
        128, gt=0, multiple_of=64, description="Side of the square crops of photographs in pixels."
    )
    lr: float = Field(1e-3, gt=0, description="Learning rate at its highest.")
    ema: float = Field(0.995, ge=0, lt=1, description="Decay of the averaged weights.")
    precision: Precision = Field("bf16", description="Number format of the arithmetic.")
    lpips_weights: str | None = Field(
        None, description="File with the weights of LPIPS under pyiqa's names, for the loss lpips."
    )
    lpips_net: LpipsNet = Field("squeeze", description="The network of the loss lpips.")
    checkpoint_every: int = Field(100, gt=0, description="Steps between two checkpoints.")

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, data: Any) -> Any:
        """Write the size out: a saved model keeps its structure if SIZES should ever change."""
        if not isinstance(data, dict):
            return data
        size = data.get("size")
        if not isinstance(size, str) or size not in SIZES:
            return data
        widths, blocks, shuffle = SIZES[size]
        kind = "taesd" if size == "taesd" else "edge"
        return {"kind": kind, "widths": widths, "blocks": blocks, "shuffle": shuffle, **data}

    @model_validator(mode="after")
    def _complete(self) -> "DecoderLightConfig":
        if len(self.widths) != len(self.blocks):
            raise ValueError(
                f"widths {list(self.widths)} and blocks {list(self.blocks)} must name the same "
                "levels"
            )
        if self.kind == "taesd" and (self.shuffle or len(set(self.widths)) > 1):
            raise ValueError("kind 'taesd' has one width on all levels, and no shuffle")
        if self.kind != "taesd" and self.weights is not None:
            raise ValueError("weights are a tiny autoencoder's; set kind: taesd, or leave them out")
        if self.losses.get("lpips") and self.lpips_weights is None:
            raise ValueError("the loss lpips needs lpips_weights; set it, or leave the loss out")
        return self
