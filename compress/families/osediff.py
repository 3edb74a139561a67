"""OSEDiff (arXiv 2406.08177): SD 2.1-base with LoRA, one step at t = 999; and our nano model.

The nano model has the same shape.
"""

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.core.tensors import read_tensors
from compress.model.source import ReplacedPart, Source
from compress.model.sr_model import MARGIN, SRModel, Tiling
from compress.networks.latent_diffusion import UNetDenoiser, VAEDecoder, VAEEncoder
from compress.networks.nano import NANO_UNET, NanoWidths
from compress.networks.osediff_file import LORA_ALPHA
from compress.networks.sd21 import TIMESTEP, TOKENS, build_sd21
from compress.networks.sd21_checkpoint import PARTS, load_sd21
from compress.process.colour import ColourFix
from compress.process.one_step import OneStep

ASSET = Path(__file__).parent.parent / "assets" / "osediff_nano.safetensors"


class OSEDiffSource(NanoWidths, Source):
    """OSEDiff, and the nano model, which comes with the package.

    A nano of other widths or latent channels than the embedded one has to be trained first
    (compress.train).
    """

    family: Literal["osediff"] = Field("osediff", description="The name of this family.")
    size: Literal["nano", "sd21"] = Field(
        "nano",
        description="`nano` comes with the package; `sd21` reads SD 2.1-base from `base` and "
        "OSEDiff from `lora`.",
    )
    weights: str | None = Field(
        None, description="For `nano`, another weight file than the embedded one."
    )
    base: str | None = Field(
        None,
        description="For `sd21`, Stable Diffusion 2.1-base: a folder in diffusers' layout, or a "
        "hub id.",
    )
    lora: str | None = Field(
        None, description="For `sd21`, the file osediff.pkl, in either published format."
    )
    lora_alpha: float = Field(
        LORA_ALPHA,
        gt=0,
        le=4096,
        description="For `sd21`, the alpha of the LoRA in `lora`, which that file does not store: "
        "its pairs count alpha / rank, which is 8 / 4 = 2 in OSEDiff.",
    )
    prompt: str = Field(
        "", description="For `sd21`, the one prompt that replaces the tagger's words."
    )
    colour_fix: ColourFix = Field("adain", description="How the image is corrected by the input.")

    @model_validator(mode="after")
    def _alpha_of_a_lora(self) -> "OSEDiffSource":
        # Not whether it is set: a stored header names all fields.
        if self.size == "nano" and self.lora_alpha != LORA_ALPHA:
            raise ValueError("lora_alpha is of size 'sd21'; nano has no LoRA, leave it out")
        return self

    def build(self) -> SRModel:
        """The structure, on the meta device; no weight is read."""
        if self.size == "sd21":
            return build_sd21(self.colour_fix)
        with torch.device("meta"):
            unet, vae = self.nano_unet(), self.nano_vae()
            context = nn.Parameter(torch.empty(1, TOKENS, NANO_UNET["cross_attention_dim"]))
        process = OneStep(timestep=TIMESTEP)
        # The nano encoder is trained to emit the signal inside z_t (stages/latents.py says why).
        model = SRModel(
            {
                "encoder": VAEEncoder(vae, process.signal),
                "denoiser": UNetDenoiser(unet, process.timestep, context),
                "decoder": VAEDecoder(vae),
            },
            process,
            colour_fix=self.colour_fix,
            tiling=Tiling(colour_fix="wavelet", margin=MARGIN),
        )
        return model.eval()

    def load(self, model: SRModel) -> None:
        """Read the values into what `build` returned.

        Raises:
            UserError: A file is not named, is missing, or holds other tensors than the model.
        """
        if self.size == "sd21":
            if self.base is None:
                raise UserError(
                    "source.base: size 'sd21' needs Stable Diffusion 2.1-base; set source.base to "
                    "a folder in diffusers' layout or a hub id (--plan needs none)"
                )
            load_sd21(model, self.base, self.lora, self.prompt, lora_alpha=self.lora_alpha)
        else:
            file = Path(self.weights) if self.weights else ASSET
            if not file.is_file():
                raise UserError(
                    f"source.weights: {file} does not exist; leave it out for the embedded weights"
                )
            read_tensors(model, file)
        model.eval().requires_grad_(False)

    def replaced(self) -> ReplacedPart | None:
        """The tagger whose words `prompt` replaces.

        None for the nano model, which was trained without one.
        """
        if self.size == "nano":
            return None
        # Brings transformers with it, which is slow to import.
        from compress.networks.dape import SIZE, Tagger

        with torch.device("meta"):
            module = Tagger()
            example = torch.empty(1, 3, SIZE, SIZE)
        return ReplacedPart("tagger", "DAPE", "one constant prompt", "OSEDiff", module, example)

    def data_key(self) -> str:
        """Identity of the weight files, part of cache keys."""
        named: list[str | Path] = []
        if self.base:
            named += [Path(self.base) / part for part in PARTS]
        named += [file for file in (self.weights, self.lora) if file]
        return files_key(named or [ASSET])
