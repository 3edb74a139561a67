"""Read AdcSR's published weights (Guaishou74851/AdcSR): `net_params_200.pkl` and `halfDecoder.ckpt`.

The first holds the pruned UNet, every tensor but those of `conv_in` under two names, and the decoder's middle block.
The second is a training checkpoint of the whole half-size decoder; the levels after its middle block are used. Shapes
come from the model that is filled.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from compress.core.errors import UserError
from compress.core.tensors import (
    State,
    check_fit,
    few,
    kind_of,
    kinds_in,
    named_tensors,
    read_pickle,
)
from compress.model.sr_model import SRModel

NET, DECODER = "AdcSR's net_params_200.pkl", "AdcSR's halfDecoder.ckpt"
UNET, MIDDLE = "body.1.", "body.2."  # the parts of the published module behind its PixelUnshuffle
_REPEATED = re.compile(r"body\.1\.body\.(\d+)\.(.+)")
# A decoder of CompVis' latent-diffusion -> diffusers; their levels count from the image, diffusers' from the latent.
_LDM_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}


def state_of(entries: Any, where: str, wanted: str) -> State:
    """The tensors of a file, with or without a level "state_dict" above them."""
    state = entries.get("state_dict", entries) if isinstance(entries, dict) else entries
    if not isinstance(state, dict):
        raise UserError(f"{where}: holds {kind_of(state)} instead of named tensors; give {wanted}")
    # A training checkpoint holds counters and settings beside its tensors.
    tensors = {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
    if not tensors:
        raise UserError(f"{where}: holds {kinds_in(state)} and no tensor; give {wanted}")
    return named_tensors(tensors, where, wanted)


def renamed(state: State, rename: Callable[[str], str | None], where: str) -> State:
    """`state` under the names that `rename` gives, without those it gives None for.

    Raises UserError where two entries of one name differ.
    """
    found: dict[str, tuple[str, torch.Tensor]] = {}
    unequal = []
    for name, tensor in state.items():
        if (new := rename(name)) is None:
            continue
        first, value = found.setdefault(new, (name, tensor))
        if value.dtype != tensor.dtype or not torch.equal(value, tensor):
            unequal.append(f"{first} and {name}")
    if unequal:
        raise UserError(
            f"{where}: {len(unequal)} pairs of entries name one tensor and differ ({few(unequal)}); the "
            "file is inconsistent, fetch it again"
        )
    return {name: tensor for name, (_, tensor) in found.items()}


def execution_order(unet: UNet2DConditionModel) -> list[str]:
    """What AdcSR's second list of the UNet's parts, `body`, holds at each index."""
    return [
        *(f"down_blocks.{i}" for i in range(len(unet.down_blocks))),
        "mid_block",
        *(f"up_blocks.{i}" for i in range(len(unet.up_blocks))),
        "conv_norm_out",
        "conv_act",
        "conv_out",
    ]


def network_tensors(model: SRModel, state: State, where: str = NET) -> State:
    """The UNet and the decoder's middle block of `model` from `net_params`, named as in `model`, in float32.

    Raises UserError for entries that are missing, unexpected, of another shape, or in conflict with their alias.
    """
    parts = execution_order(model.denoiser.unet)

    def rename(name: str) -> str:
        name = name.removeprefix("module.")
        match = _REPEATED.fullmatch(name)
        known = match and int(match[1]) < len(parts)
        return f"{UNET}{parts[int(match[1])]}.{match[2]}" if known else name

    places = {f"{UNET}{name}": f"denoiser.unet.{name}" for name in model.denoiser.unet.state_dict()}
    places |= {
        f"{MIDDLE}{name}": f"decoder.decoder.mid_block.{name}"
        for name in model.decoder.decoder.mid_block.state_dict()
    }
    own = model.state_dict()
    found = renamed(state, rename, where)
    check_fit({name: own[place] for name, place in places.items()}, found, where, NET)
    return {places[name]: tensor.float() for name, tensor in found.items()}


def diffusers_name(name: str, levels: int) -> str:
    """A decoder's tensor as diffusers calls it, from that or from the name in latent-diffusion."""
    name = re.sub(r"^mid\.block_(\d+)\.", lambda m: f"mid_block.resnets.{int(m[1]) - 1}.", name)
    name = re.sub(
        r"^mid\.attn_1\.(\w+)\.",
        lambda m: f"mid_block.attentions.0.{_LDM_ATTENTION.get(m[1], m[1])}.",
        name,
    )
    name = re.sub(
        r"^up\.(\d+)\.block\.", lambda m: f"up_blocks.{levels - 1 - int(m[1])}.resnets.", name
    )
    name = re.sub(
        r"^up\.(\d+)\.upsample\.",
        lambda m: f"up_blocks.{levels - 1 - int(m[1])}.upsamplers.0.",
        name,
    )
    return re.sub(r"^norm_out\.", "conv_norm_out.", name).replace(
        ".nin_shortcut.", ".conv_shortcut."
    )


def _float(tensor: torch.Tensor) -> torch.Tensor:
    """In float32, if it is floating point; what is not stays, to be refused by its name."""
    return tensor.float() if tensor.is_floating_point() else tensor


def half_decoder(state: State, levels: int, where: str = DECODER) -> State:
    """The decoder in `halfDecoder.ckpt`, all of it, under diffusers' names in float32; `levels` is its depth."""
    found = renamed(
        state, lambda name: diffusers_name(name.partition("decoder.")[2], levels) or None, where
    )
    return {
        name: _float(tensor.flatten(1) if ".attentions." in name and tensor.ndim == 4 else tensor)
        for name, tensor in found.items()
    }


def decoder_tensors(model: SRModel, state: State, where: str = DECODER) -> State:
    """What follows the middle block in the decoder of `model`, named as in `model`, in float32.

    Raises UserError for entries that are missing, unexpected or of another shape.
    """
    decoder = model.decoder.decoder
    elsewhere = ("conv_in.", "mid_block.")  # replaced by the UNet's conv_out; in net_params
    found = {
        f"decoder.{name}": tensor
        for name, tensor in half_decoder(state, len(decoder.up_blocks), where).items()
        if not name.startswith(elsewhere)
    }
    expected = {
        f"decoder.{name}": tensor
        for name, tensor in decoder.state_dict().items()
        if not name.startswith(elsewhere)
    }
    check_fit(expected, found, where, DECODER)
    return {f"decoder.{name}": tensor for name, tensor in found.items()}


def load_adcsr(model: SRModel, net: str, decoder: str) -> None:
    """Fill a model from `AdcSRSource(size="sd21").build()` with the two published files, given as paths.

    Raises UserError for a wrong or incomplete file, naming the first keys that do not fit.
    """
    state = {}
    for key, path, wanted, tensors in (
        ("net", net, NET, network_tensors),
        ("decoder", decoder, DECODER, decoder_tensors),
    ):
        where = f"{key}: {path}"
        state |= tensors(model, state_of(read_pickle(path, key, wanted), where, wanted), where)
    model.load_state_dict(state, strict=True, assign=True)
