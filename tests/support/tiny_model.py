"""A very small model of the nano's module types, in float and quantised, and its source."""

from copy import deepcopy
from typing import Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from compress.data.config import Calibration
from compress.model.passes import FitContext
from compress.model.source import Source
from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import UNetDenoiser, VAEDecoder, VAEEncoder
from compress.passes.quantize import Quantize
from compress.process.one_step import OneStep


class TinySource(Source):
    """The tiny model as a source, for what needs one: recipes, headers, runs."""

    family: Literal["tiny"] = "tiny"

    def build(self) -> SRModel:
        with torch.device("meta"):
            return structure()

    def load(self, model: SRModel) -> None:
        model.load_state_dict(tiny().state_dict(), assign=True)
        model.eval().requires_grad_(False)

    def data_key(self) -> str:
        return ""


def tiny(seed: int = 0, colour_fix: str = "adain") -> SRModel:
    """Random weights."""
    torch.manual_seed(seed)
    return structure(colour_fix).requires_grad_(False)


def structure(colour_fix: str = "adain") -> SRModel:
    """As few blocks as the classes allow: a graph costs by its nodes, whatever they compute.

    At t = 500, where an error of the prediction is not magnified 15 times.
    """
    process = OneStep(timestep=500)
    denoiser = UNetDenoiser(small_unet(), process.timestep, small_context())
    parts = {
        "encoder": VAEEncoder(small_vae(8, 8, 8, 8)),
        "denoiser": denoiser,
        "decoder": VAEDecoder(small_vae(8, 8, 8, 16)),
    }
    return SRModel(parts, process, colour_fix=colour_fix).eval()


def small_unet() -> UNet2DConditionModel:
    """A UNet of one level."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16,),
        down_block_types=("DownBlock2D",),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D",),
        attention_head_dim=2,
        cross_attention_dim=8,
        use_linear_projection=True,
        norm_num_groups=4,
    )


def small_context() -> nn.Parameter:
    """A constant text for it."""
    return nn.Parameter(torch.randn(1, 5, 8))


def small_vae(*widths: int) -> AutoencoderKL:
    """An autoencoder of four levels with these widths."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=widths,
        layers_per_block=0,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )


def quantised(model: SRModel, weights: int = 8, activations: int = 8) -> SRModel:
    """`model` with min-max ranges of two small photographs, converted in place."""
    step = Quantize(
        method="minmax",
        weights=weights,
        activations=activations,
        components=with_weights(model),
        calibration=Calibration(images=2, size=32),
    )
    source = deepcopy(model)
    step.convert(model)
    step.fit(model, FitContext(source=source))
    return model.eval().requires_grad_(False)


def with_weights(model: SRModel) -> tuple[str, ...]:
    """Names of the components that have some."""
    return tuple(name for name, part in model.components() if any(True for _ in part.parameters()))
