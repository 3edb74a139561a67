"""Read AdcSR's published weights: `net_params_200.pkl` and `halfDecoder.ckpt`.

They are of Guaishou74851/AdcSR. The first holds the pruned UNet, every tensor but those of
`conv_in` under two names, and the decoder's middle block. The second is a training checkpoint of
the whole half-size decoder; the levels after its middle block are used. Shapes come from the model
that is filled.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

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
# A decoder of CompVis' latent-diffusion -> diffusers; their levels count from the image, diffusers'
# from the latent.
_LDM_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}
_LDM_LEVEL = {"block": "resnets", "upsample": "upsamplers.0"}


def state_of(entries: Any, where: str, wanted: str) -> State:
    """The tensors of a file, with or without a level "state_dict" above them.

    Args:
        entries: What the file held.
        where: What begins the sentence of an error.
        wanted: The file to give instead.

    Raises:
        UserError: It holds no tensors.
    """
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

    Raises:
        UserError: Two entries of one name differ.
    """
    tensors: State = {}
    first_names: dict[str, str] = {}
    unequal = []
    for name, tensor in state.items():
        new = rename(name)
        if new is None:
            continue
        first = first_names.setdefault(new, name)
        value = tensors.setdefault(new, tensor)
        if value.dtype != tensor.dtype or not torch.equal(value, tensor):
            unequal.append(f"{first} and {name}")
    if unequal:
        raise UserError(
            f"{where}: {len(unequal)} pairs of entries name one tensor and differ "
            f"({few(unequal)}); the file is inconsistent, fetch it again"
        )
    return tensors


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
    """The UNet and the decoder's middle block, named as in `model`, in float32.

    Args:
        model: What is going to be filled.
        state: From `net_params_200.pkl`.
        where: What begins the sentence of an error.

    Raises:
        UserError: Entries are missing, unexpected, of another shape, or in conflict with their
            alias.
    """
    unet: Any = model.denoiser.get_submodule("unet")
    parts = execution_order(unet)

    def rename(name: str) -> str:
        plain = name.removeprefix("module.")
        match = _REPEATED.fullmatch(plain)
        if match is None or int(match[1]) >= len(parts):
            return plain
        return f"{UNET}{parts[int(match[1])]}.{match[2]}"

    places = {f"{UNET}{name}": f"denoiser.unet.{name}" for name in unet.state_dict()}
    middle = model.decoder.get_submodule("decoder.mid_block")
    for name in middle.state_dict():
        places[f"{MIDDLE}{name}"] = f"decoder.decoder.mid_block.{name}"
    own = model.state_dict()
    tensors = renamed(state, rename, where)
    check_fit({name: own[place] for name, place in places.items()}, tensors, where, NET)
    return {places[name]: tensor.float() for name, tensor in tensors.items()}


def diffusers_name(name: str, levels: int) -> str:
    """A decoder's tensor as diffusers calls it.

    Args:
        name: That, or the name in latent-diffusion.
        levels: How many the decoder has.
    """

    def resnet(match: re.Match[str]) -> str:
        return f"mid_block.resnets.{int(match[1]) - 1}."

    def attention(match: re.Match[str]) -> str:
        return f"mid_block.attentions.0.{_LDM_ATTENTION.get(match[1], match[1])}."

    def level(match: re.Match[str]) -> str:
        return f"up_blocks.{levels - 1 - int(match[1])}.{_LDM_LEVEL[match[2]]}."

    name = re.sub(r"^mid\.block_(\d+)\.", resnet, name)
    name = re.sub(r"^mid\.attn_1\.(\w+)\.", attention, name)
    name = re.sub(r"^up\.(\d+)\.(block|upsample)\.", level, name)
    name = re.sub(r"^norm_out\.", "conv_norm_out.", name)
    return name.replace(".nin_shortcut.", ".conv_shortcut.")


def _float(tensor: torch.Tensor) -> torch.Tensor:
    """In float32, if it is floating point; what is not stays, to be refused by its name."""
    if tensor.is_floating_point():
        return tensor.float()
    return tensor


def half_decoder(state: State, levels: int, where: str = DECODER) -> State:
    """The decoder in `halfDecoder.ckpt`, all of it, under diffusers' names in float32.

    Args:
        state: From the file.
        levels: How many the decoder has.
        where: What begins the sentence of an error.
    """

    def rename(name: str) -> str | None:
        return diffusers_name(name.partition("decoder.")[2], levels) or None

    tensors: State = {}
    for name, tensor in renamed(state, rename, where).items():
        is_projection = ".attentions." in name and tensor.ndim == 4
        tensors[name] = _float(tensor.flatten(1) if is_projection else tensor)
    return tensors


def decoder_tensors(model: SRModel, state: State, where: str = DECODER) -> State:
    """What follows the middle block in the decoder, named as in `model`, in float32.

    Args:
        model: What is going to be filled.
        state: From `halfDecoder.ckpt`.
        where: What begins the sentence of an error.

    Raises:
        UserError: Entries are missing, unexpected or of another shape.
    """
    decoder: Any = model.decoder.get_submodule("decoder")
    tensors = _behind_middle(half_decoder(state, len(decoder.up_blocks), where))
    check_fit(_behind_middle(decoder.state_dict()), tensors, where, DECODER)
    return {f"decoder.{name}": tensor for name, tensor in tensors.items()}


def _behind_middle(state: State) -> State:
    """Those of a decoder's tensors that net_params does not hold, with "decoder." before them.

    The UNet's `conv_out` stands in the place of `conv_in`.
    """
    return {
        f"decoder.{name}": tensor
        for name, tensor in state.items()
        if not name.startswith(("conv_in.", "mid_block."))
    }


def load_adcsr(model: SRModel, net: str, decoder: str) -> None:
    """Fill a model from `AdcSRSource(size="sd21").build()` with the two published files.

    Args:
        model: Its structure is on the meta device.
        net: Path of `net_params_200.pkl`.
        decoder: Path of `halfDecoder.ckpt`.

    Raises:
        UserError: A file is wrong or incomplete; the first keys that do not fit are told.
    """
    where = f"net: {net}"
    entries = state_of(read_pickle(net, "net", NET), where, NET)
    state = network_tensors(model, entries, where)
    where = f"decoder: {decoder}"
    entries = state_of(read_pickle(decoder, "decoder", DECODER), where, DECODER)
    state |= decoder_tensors(model, entries, where)
    model.load_state_dict(state, strict=True, assign=True)
