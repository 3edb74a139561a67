"""LDM for super-resolution (arXiv 2112.10752): an epsilon-UNet on the VQ autoencoder's latents.

It is the base of the reference-guided LDM (Keldysh Institute preprint 2025-18), and one of the
models that AdaDiffSR is compared with. The state begins as noise; the UNet sees the small image
beside it (compress/process/ldm_chain.py).
"""

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UNet2DModel
from pydantic import Field
from torch import nn

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.core.tensors import read_tensors
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
from compress.model.source import Source
from compress.model.sr_model import MARGIN, SRModel, Tiling
from compress.networks.noise_maps import NoiseMaps
from compress.networks.pixel_denoiser import PixelDenoiser, PixelLatent, renamed
from compress.networks.released_file import fill, released_state
from compress.networks.residual_shift import CodeDecoder
from compress.networks.vq_autoencoder import VQAutoencoder, VQConfig
from compress.process.colour import ColourFix
from compress.process.ldm_chain import STEPS, ddim_chain
from compress.process.linear_steps import LinearSteps
from compress.process.noise import draws

CHANNELS = 3  # of the latent, and of the image beside it
# CompVis' bsr_sr config [V]: 113,622,563 parameters.
FULL_UNET: dict[str, Any] = {
    "block_out_channels": (160, 320, 320, 640),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
    "attention_head_dim": 32,
}
# A fifth of the widths, and one level and one block less.
NANO_UNET: dict[str, Any] = {
    "block_out_channels": (32, 64, 128),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "attention_head_dim": 32,
    "norm_num_groups": 16,
}
NANO_VQ = VQConfig(
    channels=8, multipliers=(2, 3, 6), blocks=1, codes=1024, groups=8, attention=False
)
TILE, OVERLAP = 128, 32  # latent pixels
UNET_FILE = "the UNet's diffusion_pytorch_model of ldm-super-resolution-4x-openimages"
VQ_FILE = "autoencoder_vq_f4.pth, or LDM's first stage under its names"
# What the autoencoder's file has and nothing at inference reads.
OF_ENCODER = ("encoder.", "quant_conv.")


class LDMSource(Source):
    """LDM-SR: noise to the latent of the enlarged image in many steps."""

    family: Literal["ldm"] = Field("ldm", description="The name of this family.")
    size: Literal["nano", "full"] = Field(
        "nano",
        description="`full` reads the published files; `nano` has the same parts, small.",
    )
    weights: str | None = Field(None, description="For `nano`, the weight file.")
    unet: str | None = Field(None, description="For `full`, the UNet's file in diffusers' layout.")
    vq: str | None = Field(None, description="For `full`, the file autoencoder_vq_f4.pth.")
    steps: int = Field(STEPS, ge=1, le=1000, description="Calls of the UNet.")
    eta: float = Field(
        0.0, ge=0, le=1, description="Fresh noise of a step: 0 as DDIM, 1 as much as DDPM."
    )
    colour_fix: ColourFix = Field("none", description="How the image is corrected by the input.")

    def process(self) -> LinearSteps:
        """The chain of steps."""
        return ddim_chain(self.steps, self.eta)

    def build(self) -> SRModel:
        """The structure, on the meta device; no weight is read."""
        nano = self.size == "nano"
        process = self.process()
        config = NANO_UNET if nano else FULL_UNET
        noises = tuple(draws(process.inputs))
        with torch.device("meta"):
            unet = UNet2DModel(in_channels=2 * CHANNELS, out_channels=CHANNELS, **config)
            networks: dict[str, nn.Module | None] = {
                "noise": NoiseMaps(len(noises), CHANNELS, ratio=1.0),
                "encoder": PixelLatent(),
                "denoiser": PixelDenoiser(unet, process.timesteps[0]),
                "decoder": CodeDecoder(VQAutoencoder(NANO_VQ if nano else VQConfig())),
            }
        step = (STATE, LATENT, *told(process.steps))
        calls = (
            Call("noise", (LR,), noises),
            Call("encoder", (LR,), (LATENT,)),
            Call("denoiser", step, (PREDICTION,), each_step=True),
            Call("decoder", (CLEAN_LATENT,), (IMAGE,)),
        )
        model = SRModel(
            networks,
            process,
            wiring=Wiring(calls, map_ratios(1.0, **dict.fromkeys(noises, 1.0))),
            colour_fix=self.colour_fix,
            multiple=2 ** (len(config["block_out_channels"]) - 1),
            tiling=Tiling(tile=TILE, overlap=OVERLAP, margin=MARGIN),
        )
        return model.eval()

    def load(self, model: SRModel) -> None:
        """Read the values into what `build` returned.

        Raises:
            UserError: A file is not named, is missing, or holds other tensors than the model.
        """
        if self.size == "nano":
            file = self._named("weights", "the weight file of a nano")
            if not Path(file).is_file():
                raise UserError(f"source.weights: {file} does not exist; give a nano's weight file")
            read_tensors(model, Path(file))
        else:
            self._load_full(model)
        model.eval().requires_grad_(False)

    def _load_full(self, model: SRModel) -> None:
        unet = self._named("unet", UNET_FILE)
        vq = self._named("vq", VQ_FILE)
        state = renamed(released_state(unet, "source.unet", UNET_FILE))
        fill([model.component("denoiser", "LDM").unet], state, f"source.unet: {unet}", UNET_FILE)
        state = released_state(vq, "source.vq", VQ_FILE)
        decoder = {name: x for name, x in state.items() if not name.startswith(OF_ENCODER)}
        fill([model.component("decoder", "LDM")], decoder, f"source.vq: {vq}", VQ_FILE)
        model.component("noise", "LDM").reset_parameters()

    def _named(self, key: str, wanted: str) -> str:
        path: str | None = getattr(self, key)
        if path is None:
            raise UserError(
                f"source.{key}: size '{self.size}' needs {wanted}; set source.{key} to its path "
                "(--plan needs none)"
            )
        return path

    def data_key(self) -> str:
        """Identity of the weight files, part of cache keys."""
        return files_key([file for file in (self.weights, self.unet, self.vq) if file])
