"""DoSSR (arXiv 2409.17778): a diffusion that shifts from HR to LR, solved from its middle.

A preprocessor cleans and enlarges the input. Its latent, noised half-way, is the start; a control
network sees it beside each state (compress/process/shift_solver.py).
"""

from typing import ClassVar, Literal

import torch
from diffusers import UNet2DConditionModel
from pydantic import Field, model_validator
from torch import nn

from compress.families.stable_diffusion import StableDiffusionSource
from compress.model.sr_model import SRModel
from compress.networks.control import (
    ControlledDenoiser,
    JoinedControl,
    control_parts,
    split_hint,
)
from compress.networks.control_start import begin_control
from compress.networks.controlled import controlled_model, set_prompt
from compress.networks.latent_diffusion import ImageEncoder, VAEDecoder
from compress.networks.ldm_checkpoint import (
    AUTOENCODER,
    BEHIND_TEXT,
    CONDITION,
    CONTROL,
    PREPROCESSOR,
    UNET,
    load_parts,
    same_part,
    text_part,
    unet_part,
    vae_part,
)
from compress.networks.nano import CONTROL_TEXT, SCALE_TEXT, UNET_TEXT, ControlWidths
from compress.networks.noise_maps import NoiseMaps
from compress.networks.recolouring import Recoloured
from compress.networks.released_file import released_state
from compress.networks.rrdbnet import PUBLISHED, RRDBConfig, RRDBNet
from compress.process.colour import ColourFix
from compress.process.noise import draws
from compress.process.shift_solver import START, shift_solver

CHECKPOINT = "DoSSR's dossr_default.ckpt or dossr_onestep.ckpt"
# "clean, high-resolution, 8k" in CLIP's vocabulary.
PROMPT = (3772, 267, 1400, 268, 9977, 267, 279, 330)
NANO_RRDB = RRDBConfig(channels=16, blocks=2, growth=8)


class DoSSRSource(ControlWidths, StableDiffusionSource):
    """DoSSR: a preprocessor, a control network and SD 2.1-base."""

    title: ClassVar[str] = "DoSSR"
    files: ClassVar[dict[str, str]] = {
        "weights": "the weight file of a nano, which recipes/train/dossr_nano.yaml trains",
        "checkpoint": CHECKPOINT,
    }

    family: Literal["dossr"] = Field("dossr", description="The name of this family.")
    size: Literal["nano", "full"] = Field(
        "nano",
        description="`full` reads the published file; `nano` has the same parts, small.",
    )
    weights: str | None = Field(
        None, description="For `nano`, another weight file than the embedded one."
    )
    checkpoint: str | None = Field(
        None,
        description="For `full`, the file dossr_default.ckpt (5 steps) or dossr_onestep.ckpt "
        "(1 step).",
    )
    steps: int | None = Field(
        None,
        ge=1,
        le=50,
        description="Calls of the networks; null: 5 for `full`, and 1 for `nano`, whose embedded "
        "weights have learnt one.",
    )
    order: Literal[1, 2, 3] = Field(3, description="Of the solver.")
    sample: bool = Field(
        False,
        description="Whether the latent of the input is drawn from its Gaussian, with fixed noise, "
        "as published; else it is the mean.",
    )
    unet_channels: tuple[int, int, int, int] = Field((128, 64, 32, 32), description=UNET_TEXT)
    latent_scale: float = Field(16.0, gt=0, le=4096, description=SCALE_TEXT)
    control_channels: tuple[int, int, int, int] | None = Field(
        (32, 32, 32, 32), description=CONTROL_TEXT
    )
    colour_fix: ColourFix = Field("wavelet", description="How the image is corrected.")
    colour_reference: Literal["input", "preprocessor"] = Field(
        "input",
        description="By what it is corrected: the input, by the host; or the preprocessor's image, "
        "as published, by a component of the model, for `colour_fix: wavelet`.",
    )

    @model_validator(mode="after")
    def _one_correction(self) -> "DoSSRSource":
        if self.colour_reference == "preprocessor" and self.colour_fix != "wavelet":
            raise ValueError(
                "colour_reference 'preprocessor' is for colour_fix 'wavelet', whose reach tiles "
                "cover; set it, or colour_reference: input"
            )
        return self

    def build(self) -> SRModel:
        """The structure, on the meta device; no weight is read."""
        text, unet, vae, context = self.parts()
        condition_vae = self.parts().vae
        config = NANO_RRDB if self.is_nano() else PUBLISHED
        process = shift_solver(self.steps or (1 if self.is_nano() else 5), self.order)
        hint, control = split_hint(_control(unet, context, self.control_widths()))
        with torch.device("meta"):
            networks: dict[str, nn.Module | None] = {
                "text_encoder": text,
                "noise": NoiseMaps(
                    len(draws(process.inputs)) + self.sample, unet.config["in_channels"]
                ),
                "preprocessor": RRDBNet(config),
                "condition_encoder": ImageEncoder(condition_vae),
                "encoder": ImageEncoder(vae),
                "hint": hint,
                "control": control,
                "denoiser": ControlledDenoiser(unet, START, context),
                "decoder": VAEDecoder(vae),
            }
        if self.colour_reference == "preprocessor":
            networks["colour"] = Recoloured()
        colour_fix = "none" if "colour" in networks else self.colour_fix
        return controlled_model(networks, process, posterior=self.sample, colour_fix=colour_fix)

    def begin(self, model: SRModel) -> None:
        """See `StableDiffusionSource`: the control network adds nothing."""
        unet = model.component("denoiser", "DoSSR").unet
        begin_control(model.component("hint", "DoSSR"), model.component("control", "DoSSR"), unet)

    def load_full(self, model: SRModel) -> None:
        """See `StableDiffusionSource`."""
        path = self.named("checkpoint")
        unet = model.component("denoiser", "DoSSR").unet
        control = _control(unet)
        text = model.component("text_encoder", "DoSSR")
        preprocessor = model.component("preprocessor", "DoSSR")
        condition = model.component("condition_encoder", "DoSSR")
        parts = [
            unet_part(UNET, unet),
            unet_part(CONTROL, control),
            vae_part(AUTOENCODER, model.encoder),
            vae_part(AUTOENCODER, model.decoder),
            vae_part(CONDITION, condition),
            text_part(text.text_model),
            same_part(PREPROCESSOR, preprocessor),
        ]
        key = "source.checkpoint"
        state = released_state(path, key, CHECKPOINT)
        load_parts(parts, state, f"{key}: {path}", CHECKPOINT, BEHIND_TEXT)
        set_prompt(text, PROMPT)
        model.hint, model.control = split_hint(control)
        model.component("noise", "DoSSR").reset_parameters()


def _control(
    unet: UNet2DConditionModel,
    context: nn.Parameter | None = None,
    widths: tuple[int, ...] | None = None,
) -> JoinedControl:
    """The control network beside a UNet, on the meta device; `widths` are its own."""
    channels = unet.config["in_channels"]
    with torch.device("meta"):
        return JoinedControl(control_parts(unet.config, 2 * channels, widths), START, context)
