"""TAESD and its like: an autoencoder for Stable Diffusion's latents, 1.2M parameters a half (MIT).

The blocks are those of diffusers' `AutoencoderTiny`, and so are the names of their tensors. The
latent is the scaled one that a UNet sees, which other models' decoders divide first.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.models.autoencoders.vae import DecoderTiny, EncoderTiny
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from compress.core.errors import UserError, first_line
from compress.core.tensors import check_fit
from compress.process.resample import upsample

WIDTH = 64
BLOCKS = (3, 3, 3, 1)  # of the decoder's levels, from the latent on
ENCODER_BLOCKS = BLOCKS[::-1]
RGB = 3
IN_FOLDER = "diffusion_pytorch_model.safetensors"
RANGE = 3.0  # a latent is bent into -3 to 3
# How many places the layers of a published file stand behind diffusers' own: its decoder begins
# with the bending, which has no weights.
SHIFT = {"decoder": 1, "encoder": 0}


class TinyDecoder(nn.Module):
    """Scaled latent [B, `in_channels`, h, w] -> image [B, 3, 8h, 8w] in about [0, 1].

    Args:
        width: Channels of all levels.
        blocks: Blocks of each level, from the latent on; each level doubles the resolution of the
            one before.
        in_channels: Of the latent.
    """

    def __init__(self, width: int = WIDTH, blocks: Sequence[int] = BLOCKS, in_channels: int = 4):
        super().__init__()
        widths = (width,) * len(blocks)
        self.in_channels = in_channels
        self.scale = 2 ** (len(blocks) - 1)
        self.layers = DecoderTiny(
            in_channels, RGB, tuple(blocks), widths, 2, "relu", "nearest"
        ).layers

    @property
    def level_ends(self) -> list[nn.Module]:
        """The last layers of each level, before the resolution changes or the image is made."""
        layers = list(self.layers)
        changes = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Upsample)]
        return [layers[i - 1] for i in (*changes, len(layers) - 1)]

    def _ends_first_level(self) -> int:
        layers = list(self.layers)
        changes = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Upsample)]
        return changes[0] if changes else len(layers) - 1

    def features(self, latent: torch.Tensor) -> torch.Tensor:
        """What the level at latent resolution puts out, [B, width, h, w]."""
        return self.layers[: self._ends_first_level()](torch.tanh(latent / RANGE) * RANGE)

    def tail(self, features: torch.Tensor) -> torch.Tensor:
        """The image from those features."""
        return self.layers[self._ends_first_level() :](features)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.layers(torch.tanh(latent / RANGE) * RANGE)


class TinyEncoder(nn.Module):
    """Image [B, 3, H, W] in [0, 1] -> scaled latent.

    Args:
        factor: Pixels of the image by those of the latent: 8, or 2 for a low-resolution image,
            which is enlarged first.
        latent_channels: Of the latent.

    Raises:
        UserError: The factor is another.
    """

    def __init__(self, factor: int, latent_channels: int = 4):
        super().__init__()
        if factor not in (2, 8):
            raise UserError(
                f"a tiny encoder makes latents 8 times smaller than the image or, of one that it "
                f"enlarges, 2 times, not {factor} times"
            )
        self.enlarges = factor == 2
        widths = (WIDTH,) * len(ENCODER_BLOCKS)
        self.layers = EncoderTiny(RGB, latent_channels, ENCODER_BLOCKS, widths, "relu").layers

    def clean(self, image: torch.Tensor) -> torch.Tensor:
        """The latent [B, C, H/8, W/8] of an image [B, 3, H, W] in [0, 1]."""
        return self.layers(image)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.clean(upsample(image) if self.enlarges else image)


def read_tiny(half: TinyDecoder | TinyEncoder, path: str, where: str) -> None:
    """Read a published half of a tiny autoencoder, in place.

    Args:
        half: May be on the meta device.
        path: `taesd_decoder.safetensors`, `taesd_encoder.safetensors`, or diffusers' folder or
            file of both, such as a copy of `madebyollin/taesd`.
        where: What begins the sentence of an error.

    Raises:
        UserError: The file is missing, or holds other tensors.
    """
    file = Path(path)
    file = file / IN_FOLDER if file.is_dir() else file
    if not file.is_file():
        raise UserError(f"{where}: {file} does not exist; give a file of a tiny autoencoder")
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{where}: {file} is not a readable safetensors file ({first_line(error)})"
        ) from None
    name = "decoder" if isinstance(half, TinyDecoder) else "encoder"
    found = _renamed(tensors, name)
    expected = half.state_dict()
    check_fit(expected, found, f"{where}: {file}", f"a tiny autoencoder's {name}")
    state = {key: value.to(expected[key].dtype) for key, value in found.items()}
    device = next(half.parameters()).device
    if device.type != "meta":
        state = {key: value.to(device) for key, value in state.items()}
    half.load_state_dict(state, strict=True, assign=True)
    half.eval().requires_grad_(False)


def _renamed(tensors: dict[str, torch.Tensor], half: str) -> dict[str, torch.Tensor]:
    """The tensors of a half under our names, from diffusers' or the authors'."""
    start = f"{half}.layers."
    if any(key.startswith(start) for key in tensors):
        part = {key: value for key, value in tensors.items() if key.startswith(start)}
        return {key.removeprefix(f"{half}."): value for key, value in part.items()}
    renamed = {}
    for key, value in tensors.items():
        number, _, rest = key.partition(".")
        place = int(number) - SHIFT[half] if number.isdecimal() else number
        renamed[f"layers.{place}.{rest}"] = value
    return renamed
