"""Read published weights into a TSD-SR model: Stable Diffusion 3, LoRA files, and embeddings.

The base is a folder in diffusers' layout, a hub id, or the single file of its release. Both LoRA
files have names that begin with `transformer.`, the VAE's as well. They are merged before any pass
folds what they touch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_vae_checkpoint,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from torch import nn

from compress.core.errors import UserError
from compress.core.tensors import State, check_fit, read_pickle
from compress.model.sr_model import SRModel
from compress.networks.lora_file import merge_lora_file
from compress.networks.mmdit import MMDiT, MMDiTDenoiser
from compress.networks.pretrained import Base
from compress.networks.released_file import in_float32, released_state

SD3 = "Stable Diffusion 3"
PARTS = ("transformer", "vae")  # of a folder in diffusers' layout
LAYOUT = "layout (transformer/, vae/)"
LORA = "TSD-SR's folder checkpoint/tsdsr or checkpoint/tsdsr-mse"
LORA_FILES = {"transformer": "transformer.safetensors", "vae": "vae.safetensors"}
EMBEDDING_FILES = {"context": "prompt_embeds.pt", "pooled": "pool_embeds.pt"}
VAE_PREFIX = "first_stage_model."
TRANSFORMER_PREFIX = "model.diffusion_model."


class Released(NamedTuple):
    """The published files.

    Attributes:
        base: A folder, a hub id, or a single file.
        lora: The folder of TSD-SR's LoRA; None for the base alone.
        embeddings: The folder of its prompt.
        lora_alpha: Of the pairs, which count alpha / rank.
    """

    base: str
    lora: str | None
    embeddings: str
    lora_alpha: float


def load_sd3(model: SRModel, files: Released, transformer: Mapping[str, Any]) -> None:
    """Fill a model of encoder, denoiser and decoder.

    Args:
        model: Its structure is on the meta device.
        files: What is read.
        transformer: The config of diffusers' transformer.

    Raises:
        UserError: A file is missing, damaged or of another architecture.
    """
    encoder, decoder = model.component("encoder", "TSD-SR"), model.component("decoder", "TSD-SR")
    with torch.device("meta"):
        network = SD3Transformer2DModel(**transformer)
    expected = {
        "transformer": network.state_dict(),
        "vae": encoder.state_dict() | decoder.state_dict(),
    }
    states = _base_states(files.base, decoder.scaling_factor)
    for part, state in states.items():
        check_fit(expected[part], state, f"base '{files.base}', {part}", SD3)
        if files.lora is not None:
            states[part] = _merged(state, files, part)
    network.load_state_dict(states["transformer"], assign=True)
    try:
        filled = MMDiT(network)
    except ValueError as error:
        raise UserError(
            f"base '{files.base}', transformer: pos_embed.pos_embed: {error}; give {SD3}"
        ) from None
    denoiser: MMDiTDenoiser = model.component("denoiser", "TSD-SR")
    denoiser.transformer = filled
    vae = states["vae"]
    for half in (encoder, decoder):
        half.load_state_dict({name: vae[name] for name in half.state_dict()}, assign=True)
    _fill_prompt(model.component("text_encoder", "TSD-SR"), files.embeddings)


def _merged(state: State, files: Released, part: str) -> State:
    """A base's tensors with the pairs of its LoRA file."""
    path = Path(str(files.lora)) / LORA_FILES[part]
    if not path.is_file():
        raise UserError(f"source.lora: {path} does not exist; give {LORA}")
    return merge_lora_file(state, str(path), files.lora_alpha, "source.lora", LORA)


def _base_states(base: str, scaling_factor: float) -> dict[str, State]:
    """The tensors of the base's parts, in float32, under diffusers' names."""
    if Path(base).is_file():
        return _from_single_file(base)
    place = Base(base, SD3, LAYOUT)
    place.check_place()
    vae = place.pretrained(AutoencoderKL, "vae")
    found = vae.config["scaling_factor"]
    if found != scaling_factor:
        raise UserError(
            f"base '{base}': its VAE has a scaling factor of {found} instead of {scaling_factor}; "
            f"give {SD3} weights"
        )
    return {
        "transformer": place.pretrained(SD3Transformer2DModel, "transformer").state_dict(),
        "vae": vae.state_dict(),
    }


def _from_single_file(path: str) -> dict[str, State]:
    """The parts of a file in the layout of the release."""
    wanted = f"the single file of {SD3}, such as sd3_medium.safetensors"
    tensors = released_state(path, "source.base", wanted)
    of_transformer = {n: t for n, t in tensors.items() if n.startswith(TRANSFORMER_PREFIX)}
    of_vae = {n: t for n, t in tensors.items() if n.startswith(VAE_PREFIX)}
    if not of_transformer or not of_vae:
        raise UserError(
            f"source.base: {path} has no tensors under {TRANSFORMER_PREFIX} and {VAE_PREFIX}; "
            f"give {wanted}"
        )
    vae_levels = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    config = {"down_block_types": vae_levels[0], "up_block_types": vae_levels[1]}
    try:
        return {
            "transformer": convert_sd3_transformer_checkpoint_to_diffusers(of_transformer),
            "vae": convert_ldm_vae_checkpoint(of_vae, config),
        }
    except (KeyError, IndexError, AttributeError) as error:
        raise UserError(
            f"source.base: {path} lacks tensors of {SD3} ({error}); give {wanted}"
        ) from None


def _fill_prompt(prompt: nn.Module, folder: str) -> None:
    """Read the constant prompt's two bare tensors."""
    own = dict(prompt.named_parameters())
    for name, file in EMBEDDING_FILES.items():
        path = Path(folder) / file
        content = read_pickle(str(path), "source.embeddings", f"TSD-SR's {file}")
        shape = tuple(own[name].shape)
        if not isinstance(content, torch.Tensor) or tuple(content.shape) != shape:
            raise UserError(
                f"source.embeddings: {path} is no tensor of {shape}; give TSD-SR's {file}"
            )
        value = in_float32({name: content})[name]
        if not value.isfinite().all():
            raise UserError(
                f"source.embeddings: {path} holds NaN or infinity; give TSD-SR's {file}"
            )
        setattr(prompt, name, nn.Parameter(value))
