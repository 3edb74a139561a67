"""Where the training of a control network begins: it adds nothing to the UNet at first."""

from collections.abc import Iterable
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from compress.core.errors import UserError
from compress.networks.control import ControlNetwork, JoinedControl

COPIED = ("time_embedding", "down_blocks", "mid_block")  # of a UNet


@torch.no_grad()
def start_from_unet(control: ControlNetwork, unet: UNet2DConditionModel) -> None:
    """Begin a training as ControlNet does: as the UNet's encoder, whose outputs count nothing.

    Args:
        control: What it has besides the UNet's layers becomes 0: the 1x1 convolutions, and the
            weights of the condition.
        unet: Of the same widths. Its tensors are copied.

    Raises:
        UserError: The UNet has other widths.
    """
    for name in COPIED:
        own = control.get_submodule(name)
        try:
            own.load_state_dict(unet.get_submodule(name).state_dict())
        except RuntimeError:
            raise UserError(
                f"control network: its {name} has other layers than the UNet's; build it from the "
                "UNet's config"
            ) from None
    _silence(control)
    if not isinstance(control, JoinedControl):
        if control.condition_layer is not None:
            _zero(control.get_submodule(control.condition_layer).parameters())
        control.conv_in.load_state_dict(unet.conv_in.state_dict())
        return
    _zero(control.conv_in.parameters())
    control.conv_in.weight[:, : unet.conv_in.in_channels] = unet.conv_in.weight
    control.conv_in.bias.copy_(unet.conv_in.bias)


def _zero(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.zero_()


@torch.no_grad()
def begin_control(hint: nn.Module, control: ControlNetwork, unet: Any) -> None:
    """Begin the training of a control network whose hint is split off.

    One of the UNet's widths begins as the UNet's encoder. Another one keeps its random values, but
    for what it adds.

    Args:
        hint: Makes the hint of the condition. Its last convolution becomes 0 beside a copy of the
            UNet's encoder.
        control: Takes the hint.
        unet: The UNet that it steers.
    """
    if _shapes(control) == _shapes(unet):
        *_, last = (module for module in hint.modules() if isinstance(module, nn.Conv2d))
        _zero(last.parameters())
        start_from_unet(control, unet)
    else:
        _silence(control)


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    """Shapes of what a control network copies of its UNet, by names."""
    return {
        f"{part}.{name}": tensor.shape
        for part in COPIED
        for name, tensor in network.get_submodule(part).state_dict().items()
    }


def _silence(control: ControlNetwork) -> None:
    """Let all that a control network adds be 0."""
    for module in (control.controlnet_down_blocks, control.controlnet_mid_block):
        _zero(module.parameters())
