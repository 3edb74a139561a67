"""ResShift (arXiv 2307.12348), SinSR (2311.14760), its one-step student, and our nano model of the same shape."""

from pathlib import Path
from typing import Literal

import torch
from torch import nn

from compress.core.errors import UserError
from compress.core.identity import files_key
from compress.core.tensors import State, check_fit, named_tensors, read_pickle, read_tensors
from compress.model.source import Source
from compress.model.sr_model import MARGIN, SRModel, Tiling
from compress.networks.residual_shift import CodeDecoder, PairDenoiser, PairEncoder
from compress.networks.swin_unet import SwinUNet, SwinUNetConfig
from compress.networks.vq_autoencoder import VQAutoencoder, VQConfig
from compress.process.colour import ColourFix
from compress.process.residual_sampler import ResidualSampler
from compress.process.residual_shift import ResidualShift

ASSET = Path(__file__).parent.parent / "assets" / "sinsr_nano.safetensors"

# A quarter of the levels' widths, one level less, so that small images need little padding; attention from the second
# level on, where a map has a quarter of the positions; none over the whole map, which would be most of the MACs.
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

LEVELS = ("state_dict", "ema", "params_ema", "params")


def released_state(path: str, key: str, wanted: str) -> State:
    """The tensors of a released checkpoint under the network's own names. `key` is the recipe's, `wanted` the file's.

    They lie at the top or under one of LEVELS, and their names may begin with prefixes that training leaves (compress.core.tensors.plain_name).
    """
    content = read_pickle(path, key, wanted)
    for _ in LEVELS:  # and no more: a pickled mapping may hold itself
        level = next(
            (k for k in LEVELS if isinstance(content, dict) and isinstance(content.get(k), dict)),
            None,
        )
        content = content if level is None else content[level]
    state = named_tensors(content, f"{key}: {path}", wanted)
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


class ResShiftSource(Source):
    """`model: sinsr` takes one step, `resshift` takes `steps`. `size: nano` comes with the package (the student; its
    teacher is a file of the training); `size: full` reads the released `unet` and `vq`."""

    family: Literal["resshift"] = "resshift"
    model: Literal["sinsr", "resshift"] = "sinsr"
    size: Literal["nano", "full"] = "nano"
    weights: str | None = None  # nano: another weight file than the embedded one
    unet: str | None = None  # full: SinSR_v1.pth, or one of ResShift's
    vq: str | None = None  # full: autoencoder_vq_f4.pth
    steps: Literal[4, 15] = (
        15  # of the schedule: 15 for SinSR and ResShift v1 and v2, 4 for ResShift v3
    )
    sampler: Literal["stochastic", "deterministic"] = (
        "stochastic"  # resshift: ResShift's own, or SinSR's teacher
    )
    colour_fix: ColourFix | None = (
        None  # None: none, as released, and wavelet for nano, whose codes have few colours
    )

    def build(self) -> SRModel:
        """The structure, on the meta device; no weight is read."""
        schedule = ResidualShift.v1() if self.steps == 15 else ResidualShift.v3()
        nano = self.size == "nano"
        with torch.device("meta"):
            unet = SwinUNet(NANO_UNET if nano else SwinUNetConfig())
            vq = VQAutoencoder(NANO_VQ if nano else VQConfig())
            process = ResidualSampler(
                schedule, "one_step" if self.model == "sinsr" else self.sampler
            )
        multiple, fix = unet.config.multiple, self.colour_fix or ("wavelet" if nano else "none")
        model = SRModel(
            PairEncoder(vq),
            PairDenoiser(unet, schedule.timesteps[schedule.last]),
            CodeDecoder(vq),
            process,
            colour_fix=fix,
            multiple=multiple,
            latent_ratio=1.0,
            tiling=Tiling(tile=128, overlap=multiple, margin=MARGIN if nano else 0),
        )
        return model.eval()

    def load(self, model: SRModel) -> None:
        """Read the values into what `build` returned."""
        if self.size == "full":
            self._load_released(model)
        else:
            file = Path(self.weights) if self.weights else ASSET
            if not file.is_file():
                raise UserError(
                    f"source.weights: {file} does not exist; give a weight file that recipes/train/"
                    "sinsr_nano.yaml wrote"
                    + (", or leave it out for the embedded weights" * bool(self.weights))
                )
            read_tensors(model, file)
        model.eval().requires_grad_(False)

    def _load_released(self, model: SRModel) -> None:
        network = "SinSR_v1.pth" if self.model == "sinsr" else "ResShift's UNet"
        files = (("unet", network), ("vq", "autoencoder_vq_f4.pth"))
        for key, wanted in files:
            if getattr(self, key) is None:
                raise UserError(
                    f"source.{key}: size 'full' needs {wanted}; set source.{key} to its path (--plan needs "
                    "none)"
                )
        parts = {
            "unet": nn.ModuleList([model.denoiser.unet]),
            "vq": nn.ModuleList([model.encoder, model.decoder]),
        }
        for key, wanted in files:
            file, state = (
                getattr(self, key),
                released_state(getattr(self, key), f"source.{key}", wanted),
            )
            expected = {
                name: tensor for part in parts[key] for name, tensor in part.state_dict().items()
            }
            check_fit(expected, state, f"source.{key}: {file}", wanted)
            for part in parts[key]:
                part.load_state_dict({name: state[name] for name in part.state_dict()}, assign=True)
        model.process.reset_parameters()

    def data_key(self) -> str:
        """Identity of the weight files, part of cache keys."""
        return files_key([f for f in (self.weights, self.unet, self.vq) if f] or [ASSET])
