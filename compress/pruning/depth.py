"""Whole blocks of a UNet or of SD 3's transformer: which there are, and what stands in for one.

A block M is a residual block, an attention (Transformer2DModel), the middle block, or the deepest
levels with their way down, middle and up. Its *stand-in* M_P is the identity, or a 1x1 convolution
where the numbers of channels differ. A residual block on the way down is replaced in its place, so
it still emits its skip connection. A level goes with the skips that it makes and takes. A joint
block of SD 3's transformer passes both streams on.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from compress.core.errors import UserError
from compress.networks.mmdit import MMDiT
from compress.networks.mmdit_block import JointBlock

MIDDLE = "mid_block"


class Shortcut(nn.Module):
    """M_P: [B, in_channels, h, w] -> [B, out_channels, h, w], whatever else the block was given.

    Args:
        in_channels: That come.
        out_channels: That leave.
        conv: A 1x1 convolution, or None for the identity.
        in_tuple: Whether the result comes as a tuple of one, as an attention's does.
    """

    def __init__(
        self, in_channels: int, out_channels: int, conv: nn.Conv2d | None, in_tuple: bool = False
    ):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.in_tuple = in_tuple
        self.conv_shortcut = conv

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor | tuple[torch.Tensor]:
        """Pass `x` on; the further arguments are ignored."""
        y = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return (y,) if self.in_tuple else y


class MiddleShortcut(nn.Module):
    """A middle block that is one `Shortcut`.

    It has the attributes that other passes read of a middle block.
    """

    # So that a UNet hands over the same arguments as to what it stands for.
    has_cross_attention = True

    def __init__(self, shortcut: Shortcut):
        super().__init__()
        self.resnets = nn.ModuleList([shortcut])
        self.attentions = nn.ModuleList()

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """Pass `x` on; the further arguments are ignored."""
        return self.resnets[0](x)


class JointShortcut(Shortcut):
    """The stand-in of a joint block: both streams pass.

    Args:
        width: Channels of a token.
    """

    def __init__(self, width: int):
        super().__init__(width, width, None)

    def forward(self, x: torch.Tensor, *args, **kwargs) -> Any:
        """(image, text, ...) -> (image, text)."""
        return x, args[0] if args else None


class DeepLevels(nn.Module):
    """The deepest levels of a UNet as one block.

    It goes from the last residual block above them to the first on the way up.

    Args:
        enter: The downsamplers of the block above.
        down: Blocks in the order they run.
        middle: The middle block.
        up: As many blocks as `down`, in the order they run.
    """

    has_cross_attention = True

    def __init__(
        self,
        enter: nn.ModuleList,
        down: Iterable[nn.Module],
        middle: nn.Module,
        up: Iterable[nn.Module],
    ):
        super().__init__()
        self.enter = enter
        self.middle = middle
        self.down = nn.ModuleList(down)
        self.up = nn.ModuleList(up)

    def forward(
        self,
        x: torch.Tensor,
        temb: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """Run the levels with the arguments of a UNet's middle block."""
        context = {"encoder_hidden_states": encoder_hidden_states}
        for layer in self.enter:
            x = layer(x)
        skips = [x]
        for block in self.down:
            x, emitted = block(x, temb, **context)
            skips += emitted
        takes_context = getattr(self.middle, "has_cross_attention", False)
        x = self.middle(x, temb, **(context if takes_context else {}))
        up: Iterable[Any] = self.up
        for block in up:
            count = len(block.resnets)
            x = block(x, tuple(skips[-count:]), temb, **context)
            del skips[-count:]
        return x

    def outer_channels(self) -> tuple[int, int]:
        """Channels that come and that leave."""
        first: Any = self.enter[0]
        last: Any = self.up[-1]
        upsamplers = list(last.upsamplers or [])
        final = upsamplers[-1] if upsamplers else last.resnets[-1]
        return first.conv.in_channels, final.out_channels


def fold_levels(unet: UNet2DConditionModel, count: int) -> None:
    """Make the `count` deepest levels the UNet's middle block. Its function stays.

    Raises:
        UserError: No level would stay.
    """
    if not count:
        return
    blocks = len(unet.down_blocks)
    if count >= blocks:
        raise UserError(
            f"pass 'depth_prune': levels {count} of {blocks}; at least one must stay, so choose 0 "
            f"to {blocks - 1}"
        )
    above: Any = unet.down_blocks[blocks - count - 1]
    unet.mid_block = DeepLevels(
        above.downsamplers, unet.down_blocks[-count:], unet.mid_block, unet.up_blocks[:count]
    )
    above.downsamplers = None
    unet.down_blocks = unet.down_blocks[:-count]
    unet.up_blocks = unet.up_blocks[count:]
    unet.num_upsamplers -= count


def network_with_blocks(denoiser: nn.Module) -> tuple[str, Any] | None:
    """(its name in the denoiser, the network) whose blocks can be dropped; None without one."""
    for name, kind in (("unet", UNet2DConditionModel), ("transformer", MMDiT)):
        network = getattr(denoiser, name, None)
        if isinstance(network, kind):
            return name, network
    return None


def candidates(network: nn.Module) -> dict[str, nn.Module]:
    """Name -> block of all that can be dropped one by one, in the order of the modules."""
    return {name: module for name, module in network.named_modules() if _is_candidate(name, module)}


def _is_candidate(name: str, module: nn.Module) -> bool:
    if name == MIDDLE:
        return not isinstance(module, MiddleShortcut)
    if isinstance(module, ResnetBlock2D):
        return module.upsample is None and module.downsample is None
    return isinstance(module, (Transformer2DModel, JointBlock))


def _outer_channels(block: Any) -> tuple[int, int]:
    """Channels that a middle block or `DeepLevels` takes and puts out."""
    if isinstance(block, DeepLevels):
        return block.outer_channels()
    return block.resnets[0].in_channels, block.resnets[-1].out_channels


@torch.no_grad()
def shortcut(block: nn.Module, name: str) -> Shortcut | MiddleShortcut:
    """Make the stand-in of a block.

    A residual block's own 1x1 convolution is taken, if it has one. Levels whose channels differ get
    one that passes on the channels that both have.

    Args:
        block: From `candidates`.
        name: Its name, for messages.

    Raises:
        UserError: The block's shortcut is no plain convolution any more.
    """
    if isinstance(block, JointBlock):
        return JointShortcut(block.ff.net[2].out_features)
    if isinstance(block, Transformer2DModel):
        return Shortcut(block.in_channels, block.in_channels, None, in_tuple=True)
    if isinstance(block, ResnetBlock2D):
        conv = block.conv_shortcut
        if conv is not None and type(conv) is not nn.Conv2d:
            raise UserError(
                f"pass 'depth_prune': the shortcut of {name} is a {type(conv).__name__}, not a "
                "plain convolution; list depth_prune before the passes that replace layers"
            )
        return Shortcut(block.in_channels, block.out_channels, copy.deepcopy(conv))
    inputs, outputs = _outer_channels(block)
    if inputs == outputs:
        return MiddleShortcut(Shortcut(inputs, outputs, None))
    like = next(block.parameters())
    conv = nn.Conv2d(inputs, outputs, 1, device=like.device, dtype=like.dtype)
    nn.init.dirac_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return MiddleShortcut(Shortcut(inputs, outputs, conv.requires_grad_(like.requires_grad)))


def drop_block(network: nn.Module, name: str) -> None:
    """Put the stand-in of a block in its place.

    Where the last joint block goes, the one before it becomes the last: its text stream makes no
    tokens any more.

    Raises:
        UserError: As `shortcut` does.
    """
    network.set_submodule(name, shortcut(network.get_submodule(name), name))
    if isinstance(network, MMDiT):
        network.end_text()


def plain(module: nn.Module) -> Shortcut:
    """The `Shortcut` of a stand-in.

    Raises:
        TypeError: `module` is no stand-in.
    """
    inner = module.resnets[0] if isinstance(module, MiddleShortcut) else module
    if not isinstance(inner, Shortcut):
        raise TypeError(f"a {type(inner).__name__} stands in for no block")
    return inner


def tensor_of(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """A block's result, which an attention gives as a tuple of one."""
    if isinstance(output, tuple):
        return output[0]
    return output
