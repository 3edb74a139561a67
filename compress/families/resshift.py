"""ResShift (arXiv 2307.12348); SinSR (2311.14760), its one-step student; and our nano model.

The nano model has the shape of SinSR.
"""

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.core.tensors import read_tensors
from compress.model.source import Source
from compress.model.sr_model import MARGIN, SRModel, Tiling
from compress.networks.released_file import fill, released_state
from compress.networks.residual_shift import CodeDecoder, PairDenoiser, PairEncoder
from compress.networks.swin_layer import SwinUNetConfig
from compress.networks.swin_unet import SwinUNet
from compress.networks.vq_autoencoder import VQAutoencoder, VQConfig
from compress.process.colour import ColourFix
from compress.process.residual_sampler import ResidualSampler, Sampler
from compress.process.residual_shift import ResidualShift

ASSET = Path(__file__).parent.parent / "assets" / "sinsr_nano.safetensors"

# A quarter of the levels' widths, and one level less, so that small images need little padding.
# Attention from the second level on, where a map has a quarter of the positions. None over the
# whole map, which would be most of the MACs.
NANO_UNET = SwinUNetConfig(
    channels=32,
    multipliers=(1, 2, 4),
    blocks=1,
    size=32,
    attention=(16, 8),
    embed=64,
    head_channels=16,
    mlp_ratio=2,
    mask="swin",
    groups=16,
)
NANO_VQ = VQConfig(
    channels=8, multipliers=(2, 3, 6), blocks=1, codes=1024, groups=8, attention=False
)

TILE = 128  # latent pixels


class ResShiftSource(Source):
    """ResShift and SinSR; the nano model is a SinSR, whose teacher is a file of the training."""

    family: Literal["resshift"] = Field("resshift", description="The name of this family.")
    model: Literal["sinsr", "resshift"] = Field(
        "sinsr", description="`sinsr` takes one step, `resshift` takes `steps`."
    )
    size: Literal["nano", "full"] = Field(
        "nano",
        description="`nano` comes with the package; `full` reads the released `unet` and `vq`.",
    )
    weights: str | None = Field(
        None, description="For `nano`, another weight file than the embedded one."
    )
    unet: str | None = Field(
        None, description="For `full`, the file SinSR_v1.pth, or one of ResShift's."
    )
    vq: str | None = Field(None, description="For `full`, the file autoencoder_vq_f4.pth.")
    steps: Literal[4, 15] = Field(
        15,
        description="Steps of the schedule: 15 for SinSR and ResShift v1 and v2, 4 for v3.",
    )
    sampler: Literal["stochastic", "deterministic"] = Field(
        "stochastic",
        description="For `resshift`, its own sampler (stochastic) or that of SinSR's teacher.",
    )
    colour_fix: ColourFix | None = Field(
        None,
        description="How the image is corrected by the input; null is none, as released, and "
        "wavelet for `nano`, whose codes have few colours.",
    )

    def build(self) -> SRModel:
        """The structure, on the meta device; no weight is read."""
        schedule = ResidualShift.v1() if self.steps == 15 else ResidualShift.v3()
        nano = self.size == "nano"
        unet_config = NANO_UNET if nano else SwinUNetConfig()
        vq_config = NANO_VQ if nano else VQConfig()
        sampler: Sampler = "one_step" if self.model == "sinsr" else self.sampler
        with torch.device("meta"):
            unet = SwinUNet(unet_config)
            vq = VQAutoencoder(vq_config)
            process = ResidualSampler(schedule, sampler)
        own_fix: ColourFix = "wavelet" if nano else "none"
        multiple = unet_config.multiple
        model = SRModel(
            {
                "encoder": PairEncoder(vq),
                "denoiser": PairDenoiser(unet, schedule.timesteps[schedule.last]),
                "decoder": CodeDecoder(vq),
            },
            process,
            colour_fix=self.colour_fix or own_fix,
            multiple=multiple,
            latent_ratio=1.0,
            tiling=Tiling(tile=TILE, overlap=multiple, margin=MARGIN if nano else 0),
        )
        return model.eval()

    def load(self, model: SRModel) -> None:
        """Read the values into what `build` returned.

        Raises:
            UserError: A file is not named, is missing, or holds other tensors than the model.
        """
        if self.size == "full":
            self._load_released(model)
        else:
            self._load_nano(model)
        model.eval().requires_grad_(False)

    def _load_nano(self, model: SRModel) -> None:
        file = Path(self.weights) if self.weights else ASSET
        if not file.is_file():
            remedy = "give a weight file that recipes/train/sinsr_nano.yaml wrote"
            if self.weights:
                remedy += ", or leave it out for the embedded weights"
            raise UserError(f"source.weights: {file} does not exist; {remedy}")
        read_tensors(model, file)

    def _load_released(self, model: SRModel) -> None:
        network = "SinSR_v1.pth" if self.model == "sinsr" else "ResShift's UNet"
        autoencoder = "autoencoder_vq_f4.pth"
        unet_file = _named("unet", self.unet, network)
        vq_file = _named("vq", self.vq, autoencoder)
        _load_parts("unet", unet_file, network, [model.denoiser.get_submodule("unet")])
        _load_parts("vq", vq_file, autoencoder, [model.encoder, model.decoder])
        if not isinstance(model.process, ResidualSampler):
            raise TypeError("only a model as `build` made it can be loaded")
        model.process.reset_parameters()

    def data_key(self) -> str:
        """Identity of the weight files, part of cache keys."""
        named = [file for file in (self.weights, self.unet, self.vq) if file]
        return files_key(named or [ASSET])


def _named(key: str, path: str | None, wanted: str) -> str:
    """The path of a released file. Raises UserError where the recipe does not name it."""
    if path is None:
        raise UserError(
            f"source.{key}: size 'full' needs {wanted}; set source.{key} to its path (--plan needs "
            "none)"
        )
    return path


def _load_parts(key: str, file: str, wanted: str, parts: list[nn.Module]) -> None:
    """Fill modules, which share one released file, with its tensors."""
    state = released_state(file, f"source.{key}", wanted)
    fill(parts, state, f"source.{key}: {file}", wanted)
