"""DFOSD, also D3SR (arXiv 2410.04224): one step from an early timestep, with a learnt prompt.

SD 2.1-base with LoRA on its UNet. Neither code nor weights are published. What the paper leaves
open is chosen here: the timestep is 399, the prompt has the shape of CLIP's, the latent is the
posterior's mean.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from compress.core.errors import UserError
from compress.families.stable_diffusion import StableDiffusionSource
from compress.model.sr_model import MARGIN, SRModel, Tiling
from compress.networks.latent_diffusion import UNetDenoiser, VAEDecoder, VAEEncoder
from compress.networks.lora_file import LORA, merge_lora_file
from compress.networks.nano import UNET_TEXT
from compress.networks.released_file import released_state
from compress.networks.sd21 import TOKENS, sd21_parts
from compress.networks.sd21_checkpoint import load_sd21, read_text
from compress.process.colour import ColourFix
from compress.process.one_step import OneStep

TIMESTEP = 399
LORA_ALPHA = 16.0  # at rank 16
PROMPT = "a file with the one tensor 'prompt', [1, 77, 1024]"


class DFOSDSource(StableDiffusionSource):
    """DFOSD: OSEDiff's parts, an earlier timestep, and a prompt that is learnt."""

    title: ClassVar[str] = "DFOSD"
    files: ClassVar[dict[str, str]] = {
        "weights": "the weight file of a nano, which recipes/train/dfosd_nano.yaml trains",
        "base": "Stable Diffusion 2.1-base, a folder or a hub id",
        "lora": LORA,
        "learned_prompt": PROMPT,
    }

    family: Literal["dfosd"] = Field("dfosd", description="The name of this family.")
    size: Literal["nano", "full"] = Field(
        "nano",
        description="`full` reads SD 2.1-base from `base` and what was trained from `lora` and "
        "`learned_prompt`; `nano` has the same parts, small.",
    )
    weights: str | None = Field(
        None, description="For `nano`, another weight file than the embedded one."
    )
    base: str | None = Field(
        None,
        description="For `full`, Stable Diffusion 2.1-base: a folder in diffusers' layout, or a "
        "hub id.",
    )
    lora: str | None = Field(
        None, description="For `full`, the UNet's LoRA, in PEFT's or diffusers' names."
    )
    lora_alpha: float = Field(
        LORA_ALPHA,
        gt=0,
        le=4096,
        description="For `full`, the alpha of that LoRA: its pairs count alpha / rank.",
    )
    learned_prompt: str | None = Field(
        None,
        description="For `full`, a safetensors file with the tensor `prompt`, [1, 77, 1024]; null: "
        "the embedding of the empty prompt, where its training starts.",
    )
    timestep: int = Field(TIMESTEP, ge=0, le=999, description="The timestep of the one step.")
    unet_channels: tuple[int, int, int, int] = Field((144, 64, 32, 32), description=UNET_TEXT)
    colour_fix: ColourFix = Field("adain", description="How the image is corrected by the input.")

    def build(self) -> SRModel:
        """The structure, on the meta device; no weight is read."""
        process = OneStep(timestep=self.timestep)
        parts = self.parts()
        unet, vae = parts.unet, parts.vae
        width = unet.config["cross_attention_dim"]
        # The nano encoder emits the signal inside z_t (stages/latents.py says why).
        signal = process.signal if self.is_nano() else 1.0
        context = nn.Parameter(torch.empty(1, TOKENS, width, device="meta"))
        return SRModel(
            {
                "encoder": VAEEncoder(vae, signal),
                "denoiser": UNetDenoiser(unet, process.timestep, context),
                "decoder": VAEDecoder(vae),
            },
            process,
            colour_fix=self.colour_fix,
            tiling=Tiling(colour_fix="wavelet", margin=MARGIN),
        ).eval()

    def load_full(self, model: SRModel) -> None:
        """See `StableDiffusionSource`."""
        base = self.named("base")
        load_sd21(model, base, None)
        denoiser = model.component("denoiser", "DFOSD")
        if self.lora is not None:
            own = denoiser.unet.state_dict()
            merged = merge_lora_file(own, self.lora, self.lora_alpha, "source.lora")
            denoiser.unet.load_state_dict(merged, assign=True)
        denoiser.context = nn.Parameter(self._prompt(base, denoiser.context))

    def _prompt(self, base: str, like: torch.Tensor) -> torch.Tensor:
        """The learnt prompt, or that of the empty text."""
        if self.learned_prompt is None:
            return read_text(sd21_parts().text_encoder, base, [""])().detach()
        key = "source.learned_prompt"
        state = released_state(self.learned_prompt, key, PROMPT)
        if set(state) != {"prompt"} or state["prompt"].shape != like.shape:
            raise UserError(
                f"{key}: {self.learned_prompt} holds other tensors than 'prompt' of "
                f"{tuple(like.shape)}; give {PROMPT}"
            )
        return state["prompt"]
