"""CCSR (arXiv 2401.00877) and CCSR-v2: SD 2.1-base steered by a control network on latents.

A jump from the noisiest timestep, a few steps down, and the clean latent goes to a decoder that was
trained for detail (compress/process/truncated_chains.py).
"""

from pathlib import Path
from typing import ClassVar, Literal

import torch
from diffusers import UNet2DConditionModel
from pydantic import Field, model_validator
from torch import nn

from compress.core.errors import UserError
from compress.families.released import ASSETS
from compress.families.stable_diffusion import GuidedSource
from compress.model.sr_model import SRModel
from compress.networks.control import (
    AddedControl,
    ControlledDenoiser,
    ControlNetwork,
    JoinedControl,
    control_parts,
    split_hint,
)
from compress.networks.control_file import load_control
from compress.networks.control_start import begin_control
from compress.networks.controlled import controlled_model, set_prompt
from compress.networks.latent_diffusion import SampledEncoder, VAEDecoder, VAEEncoder
from compress.networks.ldm_checkpoint import (
    AUTOENCODER,
    BEHIND_TEXT,
    CONDITION,
    CONTROL,
    LOSS,
    UNET,
    load_parts,
    text_part,
    unet_part,
    vae_part,
)
from compress.networks.nano import CONTROL_TEXT, SCALE_TEXT, UNET_TEXT, ControlWidths
from compress.networks.noise_maps import NoiseMaps
from compress.networks.released_file import fill, released_state
from compress.networks.sd21_checkpoint import load_sd21
from compress.process.colour import ColourFix
from compress.process.epsilon_chains import LAST, guided
from compress.process.linear_steps import LinearSteps
from compress.process.noise import draws
from compress.process.truncated_chains import leading_chain, spaced_chain

CHECKPOINT = "CCSR's real-world_ccsr.ckpt"
DECODER = "the VAE's diffusion_pytorch_model.safetensors"
# What version 1's file has and nothing at inference reads.
UNUSED = (LOSS, f"{AUTOENCODER}encoder.", f"{AUTOENCODER}quant_conv.", *BEHIND_TEXT)
POSITIVE = "clean, high-resolution, 8k"
NEGATIVE = "blurry, dotted, noise, raster lines, unclear, lowres, over-smoothed"
# steps, t_max and t_min as each version was published.
CHAINS = {1: (45, 0.6667, 0.3333), 2: (1, 0.6667, 0.0)}


class CCSRSource(ControlWidths, GuidedSource):
    """CCSR: a control network beside SD 2.1-base, and a decoder trained for detail."""

    title: ClassVar[str] = "CCSR"
    files: ClassVar[dict[str, str]] = {
        "weights": "the weight file of a nano, which recipes/train/ccsr_nano.yaml trains",
        "base": "Stable Diffusion 2.1-base, a folder or a hub id",
        "controlnet": "the control network's safetensors file",
        "vae": "the safetensors file of the trained VAE",
        "checkpoint": "real-world_ccsr.ckpt",
    }

    family: Literal["ccsr"] = Field("ccsr", description="The name of this family.")
    size: Literal["nano", "full"] = Field(
        "nano",
        description="`full` reads the published files; `nano` has the same parts, small.",
    )
    version: Literal[1, 2] = Field(2, description="Of the method: 1 or 2.")
    weights: str | None = Field(
        None, description="For `nano`, another weight file than the embedded one."
    )
    base: str | None = Field(
        None,
        description="For `full` of version 2, Stable Diffusion 2.1-base: a folder in diffusers' "
        "layout, or a hub id.",
    )
    controlnet: str | None = Field(
        None, description="For `full` of version 2, the control network's safetensors file."
    )
    vae: str | None = Field(
        None, description="For `full` of version 2, the safetensors file of the trained VAE."
    )
    checkpoint: str | None = Field(
        None, description="For `full` of version 1, the file real-world_ccsr.ckpt."
    )
    steps: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Timesteps of the schedule; null: 45 for version 1, 1 for version 2.",
    )
    t_max: float | None = Field(
        None, ge=0, le=1, description="Where the jump lands in the schedule; null: 0.6667."
    )
    t_min: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Where the chain ends in the schedule; null: 0.3333 for version 1, 0 for "
        "version 2.",
    )
    start_from: Literal["lr", "noise"] = Field(
        "lr",
        description="For version 2, what the chain begins at: the latent of the input with noise, "
        "or noise alone, as version 1 does.",
    )
    prompt: str = Field(POSITIVE, description="For `full` of version 2, the constant prompt.")
    negative_prompt: str = Field(
        NEGATIVE, description="For `full` of version 2, the prompt that guidance leads away from."
    )
    guidance: float = Field(
        1.0,
        ge=1,
        le=100,
        description="For `full` of version 2, the factor of classifier-free guidance. Above 1 the "
        "steps after the first run on two prompts.",
    )
    sample: bool = Field(
        False,
        description="For version 2, whether the latent of the input is drawn from its Gaussian, "
        "with fixed noise, as published; else it is the mean.",
    )
    unet_channels: tuple[int, int, int, int] = Field((144, 64, 32, 32), description=UNET_TEXT)
    latent_scale: float = Field(128.0, gt=0, le=4096, description=SCALE_TEXT)
    control_channels: tuple[int, int, int, int] | None = Field(
        (32, 32, 32, 32), description=CONTROL_TEXT
    )
    colour_fix: ColourFix = Field("adain", description="How the image is corrected by the input.")

    @model_validator(mode="after")
    def _of_one_version(self) -> "CCSRSource":
        if self.guidance != 1 and (self.size == "nano" or self.version == 1):
            raise ValueError("guidance is for size 'full' of version 2; leave it out")
        if self.sample and self.version == 1:
            raise ValueError("sample is for version 2; version 1 takes the mean, leave it out")
        try:
            self.process()
        except UserError as error:
            raise ValueError(str(error)) from None
        return self

    def process(self) -> LinearSteps:
        """The chain of steps.

        Raises:
            UserError: `steps`, `t_max` and `t_min` leave none.
        """
        own = (self.steps, self.t_max, self.t_min)
        steps, t_max, t_min = (
            published if value is None else value
            for value, published in zip(own, CHAINS[self.version], strict=True)
        )
        if self.version == 1:
            return spaced_chain(int(steps), t_max, t_min)
        return guided(
            leading_chain(int(steps), t_max, t_min, self.start_from), self.guidance, first=1
        )

    def build(self) -> SRModel:
        """The structure, on the meta device; no weight is read."""
        text, unet, vae, context = self.parts(len(self.prompts()))
        process = self.process()
        channels = unet.config["in_channels"]
        hint, control = split_hint(self._control(unet, context))
        with torch.device("meta"):
            networks: dict[str, nn.Module | None] = {
                "text_encoder": text,
                "noise": NoiseMaps(len(draws(process.inputs)) + self.sample, channels),
                "encoder": SampledEncoder(vae) if self.sample else VAEEncoder(vae),
                "hint": hint,
                "control": control,
                "denoiser": ControlledDenoiser(unet, LAST, context),
                "decoder": VAEDecoder(vae),
            }
        return controlled_model(
            networks, process, posterior=self.sample, colour_fix=self.colour_fix
        )

    def _control(
        self, unet: UNet2DConditionModel, context: nn.Parameter | None = None
    ) -> ControlNetwork:
        """The control network beside a UNet, on the meta device."""
        channels = unet.config["in_channels"]
        with torch.device("meta"):
            if self.version == 1:
                parts = control_parts(unet.config, 2 * channels, self.control_widths())
                return JoinedControl(parts, LAST, context)
            parts = control_parts(unet.config, channels, self.control_widths())
            return AddedControl(parts, LAST, context, channels)

    def embedded(self) -> Path:
        """See `ReleasedSource`. The nano that comes with the package is of version 2."""
        return super().embedded() if self.version == 2 else ASSETS / "ccsr_1_nano.safetensors"

    def start(self, model: SRModel) -> None:
        """See `StableDiffusionSource`; without its file the control network begins as the UNet."""
        if self.is_nano() or self.version == 1 or self.controlnet is not None:
            super().start(model)
            return
        load_sd21(model, self.named("base"), None, *self.prompts())
        model.component("noise", "CCSR").reset_parameters()
        self.begin(model)

    def begin(self, model: SRModel) -> None:
        """See `StableDiffusionSource`: the control network adds nothing."""
        unet = model.component("denoiser", "CCSR").unet
        begin_control(model.component("hint", "CCSR"), model.component("control", "CCSR"), unet)

    def load_full(self, model: SRModel) -> None:
        """See `StableDiffusionSource`."""
        control = self._control(model.component("denoiser", "CCSR").unet)
        if self.version == 1:
            self._load_checkpoint(model, control)
        else:
            self._load_folders(model, control)
        model.hint, model.control = split_hint(control)
        model.component("noise", "CCSR").reset_parameters()

    def _load_checkpoint(self, model: SRModel, control: ControlNetwork) -> None:
        """Version 1's one file."""
        path = self.named("checkpoint")
        key = "source.checkpoint"
        text = model.component("text_encoder", "CCSR")
        unet = model.component("denoiser", "CCSR").unet
        parts = [
            unet_part(UNET, unet),
            unet_part(CONTROL, control),
            vae_part(AUTOENCODER, model.decoder),
            vae_part(CONDITION, model.encoder),
            text_part(text.text_model),
        ]
        state = released_state(path, key, CHECKPOINT)
        load_parts(parts, state, f"{key}: {path}", CHECKPOINT, UNUSED)
        set_prompt(text, ())

    def _load_folders(self, model: SRModel, control: ControlNetwork) -> None:
        """Version 2's control network and VAE, beside SD 2.1-base."""
        base = self.named("base")
        controlnet = self.named("controlnet")
        vae = self.named("vae")
        load_sd21(model, base, None, *self.prompts())
        load_control(control, controlnet, "source.controlnet")
        state = released_state(vae, "source.vae", DECODER)
        fill([model.encoder, model.decoder], state, f"source.vae: {vae}", DECODER)
