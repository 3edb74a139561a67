"""The UNet of Stable Diffusion that Edge-SD-SR inherits from: reading and trimming it."""

import pickle

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn

from compress.core.errors import UserError
from compress.core.tensors import few
from compress.core.weight_file import is_finite
from compress.networks.pretrained import from_hub, without_old_options
from compress.networks.variants import variant_of

EITHER = "give Stable Diffusion 1.5 or 2.1"
MOST_REASON = 160  # characters of a library's message in a sentence
UNREADABLE = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    SafetensorError,
    pickle.UnpicklingError,
)


def read_unet(base: str) -> UNet2DConditionModel:
    """The UNet under `base`, in float32.

    Args:
        base: A folder in diffusers' layout, or a hub id.

    Raises:
        UserError: It cannot be read, lacks weights, or holds values that are not finite.
    """
    try:
        place, options = from_hub(base, "unet")
        with without_old_options():
            unet, report = UNet2DConditionModel.from_pretrained(
                place,
                **options,
                torch_dtype=torch.float32,
                output_loading_info=True,
                variant=variant_of(base, "unet"),
            )
    except UNREADABLE as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"source.base '{base}': cannot read unet/ ({lines[0][:MOST_REASON]}); give a folder of "
            "Stable Diffusion 1.5 or 2.1 in diffusers' layout, or the id of a hub repository that "
            "can be reached"
        ) from None
    absent = report["missing_keys"]
    if absent:
        raise UserError(
            f"source.base '{base}': unet/ lacks {len(absent)} weights ({few(absent)}); fetch it "
            "again"
        )
    for name, tensor in unet.state_dict().items():
        if not is_finite(tensor):
            raise UserError(
                f"source.base '{base}': unet/, {name} holds NaN or infinity; fetch it again"
            )
    return unet


def trim(unet: nn.Module, small: nn.Module, where: str) -> None:
    """Leave of `unet`'s blocks those that `small` has, in place.

    Args:
        unet: The base.
        small: The small UNet.
        where: What begins the sentence of an error.

    Raises:
        UserError: `unet` has another number of levels, or too few blocks.
    """
    for side in ("down_blocks", "up_blocks"):
        blocks = list(unet.get_submodule(side).children())
        likes = list(small.get_submodule(side).children())
        if len(blocks) != len(likes):
            raise UserError(
                f"{where}: its UNet has {len(blocks)} levels instead of {len(likes)}; {EITHER}"
            )
        for block, like in zip(blocks, likes, strict=True):
            _trim_level(block, like, side == "up_blocks", where)


def _trim_level(block: nn.Module, like: nn.Module, up: bool, where: str) -> None:
    resnets = list(block.get_submodule("resnets").children())
    count = len(list(like.get_submodule("resnets").children()))
    if len(resnets) < count:
        raise UserError(
            f"{where}: a level of its UNet has {len(resnets)} residual blocks of the {count} that "
            f"are needed; {EITHER}"
        )
    rows = list(range(count))
    if up:
        rows[-1] = len(resnets) - 1
    block.resnets = nn.ModuleList(resnets[row] for row in rows)
    attentions = getattr(block, "attentions", None)
    if attentions is None:
        return
    if getattr(like, "attentions", None) is None:
        block.register_module("attentions", None)
    else:
        block.attentions = nn.ModuleList(attentions[row] for row in rows)
