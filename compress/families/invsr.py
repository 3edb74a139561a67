"""InvSR (arXiv 2412.09013): SD-Turbo as it is, started from a noise that a network predicts.

A small network predicts from the LR image the noise that makes the LR latent a good start, and one
to five plain steps follow.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from compress.core.errors import UserError
from compress.families.stable_diffusion import GuidedSource
from compress.model.calls import (
    CLEAN_LATENT,
    IMAGE,
    LATENT,
    LR,
    PREDICTION,
    STATE,
    Call,
    Wiring,
    map_ratios,
    told,
)
from compress.model.sr_model import MARGIN, SRModel, Tiling
from compress.networks.latent_diffusion import (
    SampledEncoder,
    UNetDenoiser,
    VAEDecoder,
    VAEEncoder,
)
from compress.networks.nano import SCALE_TEXT, UNET_TEXT
from compress.networks.noise_maps import NoiseMaps
from compress.networks.noise_predictor import (
    PUBLISHED,
    NoisePredictor,
    PredictorConfig,
    load_noise_predictor,
)
from compress.networks.sd21_checkpoint import load_sd21
from compress.process.colour import ColourFix
from compress.process.epsilon_chains import (
    INVSR_TIMESTEPS,
    check_timesteps,
    contexts,
    guided,
    inversion,
)

POSITIVE = (
    "Cinematic, high-contrast, photo-realistic, 8k, ultra HD, meticulous detailing, hyper "
    "sharpness, perfect without deformations"
)
NEGATIVE = (
    "Low quality, blurring, jpeg artifacts, deformed, over-smooth, cartoon, noisy,painting, "
    "drawing, sketch, oil painting"
)
FIRST_LOGVAR = -10.0  # of the predictor where a nano's training begins
START_NOISE, DRAWN = "start_noise", ("predictor_noise", "posterior_noise")


class InvSRSource(GuidedSource):
    """InvSR: a noise predictor, and SD-Turbo's UNet and VAE."""

    title: ClassVar[str] = "InvSR"
    files: ClassVar[dict[str, str]] = {
        "weights": "the weight file of a nano, which recipes/train/invsr_nano.yaml trains",
        "base": "SD-Turbo, a folder or a hub id",
        "predictor": "noise_predictor_sd_turbo_v5.pth",
    }

    family: Literal["invsr"] = Field("invsr", description="The name of this family.")
    size: Literal["nano", "full"] = Field(
        "nano",
        description="`full` reads SD-Turbo from `base` and the predictor from `predictor`; `nano` "
        "has the same parts, small.",
    )
    weights: str | None = Field(
        None, description="For `nano`, another weight file than the embedded one."
    )
    base: str | None = Field(
        None, description="For `full`, SD-Turbo: a folder in diffusers' layout, or a hub id."
    )
    predictor: str | None = Field(
        None, description="For `full`, the file noise_predictor_sd_turbo_v5.pth."
    )
    steps: int = Field(1, ge=1, le=5, description="Steps, at the timesteps of the paper.")
    timesteps: tuple[int, ...] | None = Field(
        None,
        description="Timesteps from 1 to 1000, descending, in the place of those that `steps` "
        "chooses.",
    )
    prompt: str = Field(POSITIVE, description="For `full`, the constant prompt.")
    negative_prompt: str = Field(
        NEGATIVE, description="For `full`, the prompt that guidance leads away from."
    )
    guidance: float = Field(
        1.0,
        ge=1,
        le=100,
        description="Factor of classifier-free guidance. Above 1 the UNet runs on two prompts.",
    )
    sample: bool = Field(
        False,
        description="Whether the start noise and the latent are drawn from their Gaussians, with "
        "fixed noise, as published; else they are the means.",
    )
    unet_channels: tuple[int, int, int, int] = Field((144, 64, 32, 32), description=UNET_TEXT)
    latent_scale: float = Field(0.2, gt=0, le=4096, description=SCALE_TEXT)
    colour_fix: ColourFix = Field("none", description="How the image is corrected by the input.")

    @field_validator("timesteps")
    @classmethod
    def _descending(cls, timesteps: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if timesteps is not None:
            try:
                check_timesteps([t - 1 for t in timesteps], shown=timesteps)
            except UserError as error:
                raise ValueError(str(error)) from None
        return timesteps

    @model_validator(mode="after")
    def _of_one_size(self) -> "InvSRSource":
        if self.size == "nano" and self.guidance != 1:
            raise ValueError("guidance is for size 'full'; the nano has one prompt, leave it out")
        return self

    def listed(self) -> tuple[int, ...]:
        """The timesteps, counted from 1."""
        return self.timesteps or INVSR_TIMESTEPS[self.steps]

    def build(self) -> SRModel:
        """The structure, on the meta device; no weight is read."""
        text, unet, vae, context = self.parts(len(self.prompts()))
        config = nano_predictor(self.latent_channels) if self.is_nano() else PUBLISHED
        first = float(self.listed()[0] - 1)
        with torch.device("meta"):
            networks: dict[str, nn.Module | None] = {
                "text_encoder": text,
                "noise": NoiseMaps(len(DRAWN), config.latent_channels) if self.sample else None,
                "noise_predictor": NoisePredictor(config, first),
                "encoder": SampledEncoder(vae) if self.sample else VAEEncoder(vae),
                "denoiser": UNetDenoiser(unet, int(first), context),
                "decoder": VAEDecoder(vae),
            }
        return invsr_model(networks, self.listed(), self.guidance, self.colour_fix)

    @torch.no_grad()
    def begin(self, model: SRModel) -> None:
        """See `StableDiffusionSource`: the predicted noise is 0, and hardly varies."""
        predictor = model.component("noise_predictor", "InvSR")
        last: nn.Conv2d = predictor.encoder.conv_out
        half = last.out_channels // 2
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        if last.bias is not None:
            last.bias[half:] = FIRST_LOGVAR

    def load_full(self, model: SRModel) -> None:
        """See `StableDiffusionSource`."""
        base, predictor = self.named("base"), self.named("predictor")
        load_sd21(model, base, None, *self.prompts())
        load_noise_predictor(
            model.component("noise_predictor", "InvSR"), predictor, "source.predictor"
        )
        if self.sample:
            model.component("noise", "InvSR").reset_parameters()


def nano_predictor(latent_channels: int) -> PredictorConfig:
    """The nano's predictor: without the first level's attention, the dearest layers by far."""
    return PredictorConfig(
        channels=(32, 64),
        layers=1,
        attention=(False, True),
        head_channels=16,
        time_channels=64,
        groups=8,
        latent_channels=latent_channels,
    )


def invsr_model(
    networks: Mapping[str, nn.Module | None],
    listed: tuple[int, ...],
    guidance: float = 1.0,
    colour_fix: str = "none",
) -> SRModel:
    """The model of InvSR's parts.

    Args:
        networks: `noise_predictor`, `encoder`, `denoiser`, `decoder`, and where they are needed
            `text_encoder` and `noise`.
        listed: Timesteps, counted from 1.
        guidance: Above 1 the text encoder has two contexts.
        colour_fix: A key of `compress.process.colour.FIXES`.
    """
    process = guided(inversion(listed), guidance)
    drawn = DRAWN if networks.get("noise") is not None else ()
    calls = (
        Call("text_encoder", (), contexts(process)),
        Call("noise", (LR,), DRAWN),
        Call("noise_predictor", (LR, *drawn[:1]), (START_NOISE,)),
        Call("encoder", (LR, *drawn[1:]), (LATENT,)),
        Call("denoiser", (STATE, "context", *told(process.steps)), (PREDICTION,), each_step=True),
        Call("decoder", (CLEAN_LATENT,), (IMAGE,)),
    )
    ratios = map_ratios(0.5, **dict.fromkeys((START_NOISE, *DRAWN), 0.5))
    return SRModel(
        networks,
        process,
        wiring=Wiring(calls, ratios),
        colour_fix=colour_fix,
        tiling=Tiling(colour_fix="wavelet", margin=MARGIN),
    ).eval()
