"""AddSR (arXiv 2404.01717): SeeSR distilled to one to four steps.

SD 2-base with image attention, a control network that sees pixels, and DAPE's image tokens. The
prompt is constant here: the tags that the authors put before it need the tagger.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from pydantic import Field
from torch import nn

from compress.families.stable_diffusion import StableDiffusionSource
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
from compress.networks.control import control_parts, split_hint
from compress.networks.control_start import begin_control
from compress.networks.controlled import POSTERIOR_NOISE
from compress.networks.image_prompt import (
    PromptedControl,
    PromptedDenoiser,
    add_image_attention,
    load_prompted,
    silence_images,
)
from compress.networks.latent_diffusion import ImageEncoder, VAEDecoder
from compress.networks.nano import CONTROL_TEXT, SCALE_TEXT, UNET_TEXT, ControlWidths
from compress.networks.noise_maps import NoiseMaps
from compress.networks.resizing import Enlarged, Refined, Squeezed
from compress.networks.sd21_checkpoint import load_vae_and_text
from compress.networks.visual_tokens import VisualTokens, load_visual_tokens
from compress.process.colour import ColourFix
from compress.process.epsilon_chains import ADDSR_TIMESTEPS
from compress.process.linear_steps import LinearSteps
from compress.process.noise import draws
from compress.process.resample import SCALE
from compress.process.self_refined import (
    CONDITION,
    DECODED,
    HINT,
    REFINED_CONDITION,
    REFINED_INPUT,
    VISUAL_INPUT,
    self_refined,
)
from compress.process.self_refined import TOKENS as IMAGE_TOKENS

PROMPT = "clean, high-resolution, 8k, extremely detailed, best quality, sharp"
HINT_CHANNELS = (16, 32, 96, 256)  # of the convolutions that make a hint of pixels
NANO_HINT = (8, 12, 16, 24)
NANO_TOKEN = 32  # width of an image token
NANO_SWIN: dict[str, Any] = {
    "image_size": 96,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1],
    "num_heads": [2, 4],
    "window_size": 6,
}


class AddSRSource(ControlWidths, StableDiffusionSource):
    """AddSR: SD 2-base with image attention, a control network, and DAPE's image tokens."""

    title: ClassVar[str] = "AddSR"
    files: ClassVar[dict[str, str]] = {
        "weights": "the weight file of a nano, which recipes/train/addsr_nano.yaml trains",
        "base": "Stable Diffusion 2-base, a folder or a hub id",
        "unet": "the weight file in AddSR's unet/",
        "controlnet": "the weight file in AddSR's controlnet/",
        "ram": "ram_swin_large_14m.pth",
        "dape": "DAPE.pth",
    }

    family: Literal["addsr"] = Field("addsr", description="The name of this family.")
    size: Literal["nano", "full"] = Field(
        "nano",
        description="`full` reads the published files; `nano` has the same parts, small.",
    )
    weights: str | None = Field(
        None, description="For `nano`, another weight file than the embedded one."
    )
    base: str | None = Field(
        None,
        description="For `full`, Stable Diffusion 2-base, of which the VAE and the text encoder "
        "are read: a folder in diffusers' layout, or a hub id.",
    )
    unet: str | None = Field(None, description="For `full`, the weight file in AddSR's unet/.")
    controlnet: str | None = Field(
        None, description="For `full`, the weight file in AddSR's controlnet/."
    )
    ram: str | None = Field(None, description="For `full`, the file ram_swin_large_14m.pth.")
    dape: str | None = Field(None, description="For `full`, the file DAPE.pth.")
    steps: int = Field(4, ge=1, le=4, description="Steps, at 999, 749, 499 and 249.")
    psr_weight: float = Field(
        0.4,
        ge=0,
        le=1,
        description="From the second step on, the share of the image that the step before made "
        "in what the networks see; the rest is the input.",
    )
    start_from: Literal["lr", "noise"] = Field(
        "lr",
        description="What the chain begins at: the latent of the input with noise, or noise alone.",
    )
    image_heads: int | None = Field(
        1,
        gt=0,
        le=64,
        description="For `nano`, heads of the attention on image tokens; null: those of the "
        "attention on the text.",
    )
    prompt: str = Field(PROMPT, description="For `full`, the constant prompt.")
    sample: bool = Field(
        False,
        description="Whether the latent of the input is drawn from its Gaussian, with fixed noise, "
        "as published; else it is the mean.",
    )
    unet_channels: tuple[int, int, int, int] = Field((128, 64, 32, 32), description=UNET_TEXT)
    latent_scale: float = Field(128.0, gt=0, le=4096, description=SCALE_TEXT)
    control_channels: tuple[int, int, int, int] | None = Field(
        (32, 32, 32, 32), description=CONTROL_TEXT
    )
    colour_fix: ColourFix = Field("adain", description="How the image is corrected by the input.")

    def build(self) -> SRModel:
        """The structure, on the meta device; no weight is read."""
        text, unet, vae, context = self.parts()
        tokens = self._tokens()
        width = tokens.image_proj.out_features
        heads = self.image_heads if self.is_nano() else None
        with torch.device("meta"):
            parts_of_control = control_parts(
                unet.config,
                unet.config["in_channels"],
                self.control_widths(),
                conditioning_embedding_out_channels=(
                    NANO_HINT if self.is_nano() else HINT_CHANNELS
                ),
            )
            control = PromptedControl(parts_of_control, ADDSR_TIMESTEPS[0], context)
            add_image_attention(unet, width, heads)
            add_image_attention(control, width, heads)
            noise = NoiseMaps(self.steps + self.sample, unet.config["in_channels"])
        return addsr_model(
            {"text_encoder": text, "noise": noise},
            Networks(unet, vae, control, tokens),
            self_refined(ADDSR_TIMESTEPS[: self.steps], self.start_from),
            self.psr_weight,
            posterior=self.sample,
            colour_fix=self.colour_fix,
        )

    def _tokens(self) -> VisualTokens:
        """The network of image tokens, on the meta device."""
        from transformers.models.swin import SwinConfig  # takes a second

        with torch.device("meta"):
            if self.is_nano():
                return VisualTokens(SwinConfig(**NANO_SWIN), NANO_TOKEN)
            return VisualTokens()

    def begin(self, model: SRModel) -> None:
        """See `StableDiffusionSource`: control network and image attention add nothing."""
        unet = model.component("denoiser", "AddSR").unet
        control = model.component("control", "AddSR")
        begin_control(model.component("hint", "AddSR"), control, unet)
        silence_images(unet)
        silence_images(control)

    def load_full(self, model: SRModel) -> None:
        """See `StableDiffusionSource`."""
        base = self.named("base")
        unet = self.named("unet")
        controlnet = self.named("controlnet")
        ram = self.named("ram")
        dape = self.named("dape")
        load_vae_and_text(model, base, self.prompt)
        network: UNet2DConditionModel = model.component("denoiser", "AddSR").unet
        load_prompted(network, unet, "source.unet", "AddSR's UNet")
        with torch.device("meta"):
            parts = control_parts(
                network.config,
                network.config["in_channels"],
                conditioning_embedding_out_channels=HINT_CHANNELS,
            )
            control = PromptedControl(parts, ADDSR_TIMESTEPS[0])
            add_image_attention(control)
        load_prompted(control, controlnet, "source.controlnet", "AddSR's control network")
        model.hint, model.control = split_hint(control)
        load_visual_tokens(model.component("tokens", "AddSR"), ram, dape, "source.ram and .dape")
        model.component("noise", "AddSR").reset_parameters()


class Networks(NamedTuple):
    """What AddSR's model is made of; each may be on the meta device."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    control: PromptedControl
    tokens: VisualTokens


def addsr_model(
    others: Mapping[str, nn.Module | None],
    parts: Networks,
    process: LinearSteps,
    weight: float = 0.4,
    posterior: bool = False,
    colour_fix: str = "adain",
) -> SRModel:
    """The model of AddSR's networks.

    Args:
        others: `noise`, and `text_encoder` where the networks hold no context.
        parts: The networks, with image attention.
        process: The chain of steps.
        weight: Share of the image that a step made in what the next one sees.
        posterior: Whether the encoder samples its posterior, with the last of the noise.
        colour_fix: A key of `compress.process.colour.FIXES`.
    """
    hint, control = split_hint(parts.control)
    denoiser = PromptedDenoiser(parts.unet, control.timestep, control.context)
    residuals = denoiser.ratios()
    sampled = (POSTERIOR_NOISE,) * posterior
    drawn = (*draws(process.inputs), *sampled)
    step = told(process.steps)
    prompts = ("context", IMAGE_TOKENS)
    again = (DECODED, CONDITION), (REFINED_CONDITION, REFINED_INPUT)
    refine = (Call("refine", *again, between=True),) if process.between else ()
    calls = (
        Call("text_encoder", (), ("context",)),
        Call("noise", (LR,), drawn),
        Call("squeeze", (LR,), (VISUAL_INPUT,)),
        Call("tokens", (VISUAL_INPUT,), (IMAGE_TOKENS,)),
        Call("enlarge", (LR,), (CONDITION,)),
        Call("encoder", (CONDITION, *sampled), (LATENT,)),
        Call("hint", (CONDITION,), (HINT,)),
        Call("control", (STATE, HINT, *prompts, *step), tuple(residuals), each_step=True),
        Call("denoiser", (STATE, *prompts, *residuals, *step), (PREDICTION,), each_step=True),
        *refine,
        Call("decoder", (CLEAN_LATENT,), (IMAGE,)),
    )
    halves = dict.fromkeys((*drawn, HINT), 0.5)
    whole = dict.fromkeys((CONDITION, DECODED, REFINED_CONDITION), float(SCALE))
    ratios = map_ratios(0.5, **halves, **whole, **residuals)
    networks = {
        **others,
        **({"refine": Refined(weight, parts.tokens.size)} if refine else {}),
        "squeeze": Squeezed(parts.tokens.size),
        "tokens": parts.tokens,
        "enlarge": Enlarged(),
        "encoder": ImageEncoder(parts.vae),
        "hint": hint,
        "control": control,
        "denoiser": denoiser,
        "decoder": VAEDecoder(parts.vae),
    }
    return SRModel(
        networks,
        process,
        wiring=Wiring(calls, ratios),
        colour_fix=colour_fix,
        tiling=Tiling(colour_fix="wavelet", margin=MARGIN),
    ).eval()
