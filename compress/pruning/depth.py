"""Whole blocks of a UNet: which there are, what stands in for a dropped one, and how near that comes.

A block M is a residual block, an attention (Transformer2DModel), the middle block, or the deepest levels with their
way down, middle and up. Its stand-in M_P is the identity, or a 1x1 convolution where the numbers of channels differ.
A residual block on the way down is replaced in its place, so it still emits its skip connection; a level goes with the
skips that it makes and takes.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from compress.core.errors import UserError
from compress.pruning.observe import RIDGE

MIDDLE = "mid_block"


class Shortcut(nn.Module):
    """M_P: [B, in_channels, h, w] -> [B, out_channels, h, w], whatever else the block was given. `conv_shortcut` is a
    1x1 convolution or None. In the place of an attention the result comes as a tuple of one, as there."""

    def __init__(
        self, in_channels: int, out_channels: int, conv: nn.Conv2d | None, in_tuple: bool = False
    ):
        super().__init__()
        self.in_channels, self.out_channels, self.in_tuple = in_channels, out_channels, in_tuple
        self.conv_shortcut = conv

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor | tuple[torch.Tensor]:
        y = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return (y,) if self.in_tuple else y


class MiddleShortcut(nn.Module):
    """A middle block that is one `Shortcut`, under the attributes that other passes read of a middle block."""

    has_cross_attention = (
        True  # so that a UNet hands over the same arguments as to what it stands for
    )

    def __init__(self, shortcut: Shortcut):
        super().__init__()
        self.resnets = nn.ModuleList([shortcut])
        self.attentions = nn.ModuleList()

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        return self.resnets[0](x)


class DeepLevels(nn.Module):
    """The deepest levels of a UNet as one block: from the last residual block above them to the first on the way up.

    `enter` are the downsamplers of the block above, `down` and `up` as many blocks each, in the order they run.
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
        self.enter, self.middle = enter, middle
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)

    def forward(
        self,
        x: torch.Tensor,
        temb: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        context = {"encoder_hidden_states": encoder_hidden_states}
        for layer in self.enter:
            x = layer(x)
        skips = [x]
        for block in self.down:
            x, emitted = block(x, temb, **context)
            skips += emitted
        x = self.middle(
            x, temb, **(context if getattr(self.middle, "has_cross_attention", False) else {})
        )
        for block in self.up:
            count = len(block.resnets)
            x = block(x, tuple(skips[-count:]), temb, **context)
            del skips[-count:]
        return x


def fold_levels(unet: UNet2DConditionModel, count: int) -> None:
    """Make the `count` deepest levels the UNet's middle block. Its function stays."""
    if not count:
        return
    blocks = len(unet.down_blocks)
    if count >= blocks:
        raise UserError(
            f"pass 'depth_prune': levels {count} of {blocks}; at least one must stay, so choose 0 to "
            f"{blocks - 1}"
        )
    above = unet.down_blocks[blocks - count - 1]
    unet.mid_block = DeepLevels(
        above.downsamplers, unet.down_blocks[-count:], unet.mid_block, unet.up_blocks[:count]
    )
    above.downsamplers = None
    unet.down_blocks, unet.up_blocks = unet.down_blocks[:-count], unet.up_blocks[count:]
    unet.num_upsamplers -= count


def candidates(unet: UNet2DConditionModel) -> dict[str, nn.Module]:
    """Name -> block of all that can be dropped one by one, in the order of the modules."""
    return {
        name: module
        for name, module in unet.named_modules()
        if name == MIDDLE
        and not isinstance(module, MiddleShortcut)
        or isinstance(module, Transformer2DModel)
        or isinstance(module, ResnetBlock2D)
        and module.upsample is None
        and module.downsample is None
    }


def _outer_channels(block: nn.Module) -> tuple[int, int]:
    """Channels that the middle block or `DeepLevels` takes and puts out."""
    if not isinstance(block, DeepLevels):
        return block.resnets[0].in_channels, block.resnets[-1].out_channels
    last = block.up[-1]
    upsamplers = last.upsamplers or ()
    return (
        block.enter[0].conv.in_channels,
        upsamplers[-1].out_channels if len(upsamplers) else last.resnets[-1].out_channels,
    )


@torch.no_grad()
def shortcut(block: nn.Module, name: str) -> nn.Module:
    """The stand-in of `block`: a residual block's own 1x1 convolution, if it has one; for levels whose channels differ
    one that passes on the channels that both have."""
    if isinstance(block, Transformer2DModel):
        return Shortcut(block.in_channels, block.in_channels, None, in_tuple=True)
    if isinstance(block, ResnetBlock2D):
        conv = block.conv_shortcut
        if conv is not None and type(conv) is not nn.Conv2d:
            raise UserError(
                f"pass 'depth_prune': the shortcut of {name} is a {type(conv).__name__}, not a plain "
                "convolution; list depth_prune before the passes that replace layers"
            )
        return Shortcut(block.in_channels, block.out_channels, copy.deepcopy(conv))
    inputs, outputs = _outer_channels(block)
    if inputs == outputs:
        return MiddleShortcut(Shortcut(inputs, outputs, None))
    like = next(block.parameters())
    conv = nn.Conv2d(inputs, outputs, 1, device=like.device, dtype=like.dtype)
    nn.init.dirac_(conv.weight)
    nn.init.zeros_(conv.bias)
    return MiddleShortcut(Shortcut(inputs, outputs, conv.requires_grad_(like.requires_grad)))


def plain(module: nn.Module) -> Shortcut:
    """The `Shortcut` of a stand-in."""
    return module.resnets[0] if isinstance(module, MiddleShortcut) else module


def tensor(output: torch.Tensor | tuple) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


class BlockMoments:
    """Sums of products of a block's input and output over all positions, and from them the best 1x1 convolution."""

    def __init__(self) -> None:
        self.inputs, self.products, self.outputs, self.square = 0, 0, 0, 0

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Of x [B, C, h, w] and y [B, O, h, w]."""
        x, y = (
            m.detach().double().transpose(0, 1).flatten(1) for m in (x, y)
        )  # [C, positions], [O, positions]
        x = torch.cat([x, x.new_ones(1, x.shape[1])])
        self.inputs, self.products = self.inputs + x @ x.T, self.products + x @ y.T
        self.outputs, self.square = self.outputs + y.sum(1), self.square + y.square().sum()

    def least_squares(self) -> torch.Tensor:
        """[C + 1, O]: weights, and the constant last, of the least mean square error (ridge as in channels/observe)."""
        ridge = (
            RIDGE
            * self.inputs.diagonal().mean()
            * torch.eye(len(self.inputs), dtype=self.inputs.dtype, device=self.inputs.device)
        )
        return torch.linalg.solve(self.inputs + ridge, self.products)

    def error(self, weight: torch.Tensor) -> float:
        """Mean square error of the linear map `weight` [C + 1, O] over the variance of y: 0 is perfect, 1 its mean."""
        count = self.inputs[-1, -1]
        residual = (
            self.square
            - 2 * (weight * self.products).sum()
            + (weight * (self.inputs @ weight)).sum()
        )
        variance = self.square - (self.outputs.square() / count).sum()
        return (residual / variance.clamp_min(1e-30)).item()


@contextmanager
def observing(blocks: dict[str, nn.Module]) -> Iterator[dict[str, BlockMoments]]:
    """Moments of what flows through `blocks` (name -> block) inside."""
    moments = {name: BlockMoments() for name in blocks}
    handles = [
        block.register_forward_hook(
            lambda _, args, out, m=moments[name]: m.add(args[0], tensor(out))
        )
        for name, block in blocks.items()
    ]
    try:
        yield moments
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def fit_shortcut(light: Shortcut, moments: BlockMoments) -> float:
    """Set a 1x1 convolution to the least-squares one; returns `BlockMoments.error` of the stand-in."""
    conv = light.conv_shortcut
    if conv is None:
        eye = torch.eye(light.in_channels, dtype=moments.inputs.dtype, device=moments.inputs.device)
        return moments.error(torch.cat([eye, torch.zeros_like(eye[:1])]))
    weight = moments.least_squares()
    conv.weight.copy_(weight[:-1].T[..., None, None])
    conv.bias.copy_(weight[-1])
    return moments.error(weight)


@contextmanager
def skipping(block: nn.Module, name: str) -> Iterator[None]:
    """Let `block` put out what its stand-in does, as it is before any fit."""
    light = shortcut(block, name)
    handle = block.register_forward_hook(
        lambda _, args, kwargs, out: light(*args, **kwargs), with_kwargs=True
    )
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def importances(
    unet: UNet2DConditionModel, run: Callable[[], list[torch.Tensor]]
) -> dict[str, float]:
    """Name -> mean square change of what `run` returns when that candidate alone is skipped."""
    whole, found = run(), {}
    for name, block in candidates(unet).items():
        with skipping(block, name):
            errors = [(a - b).square().mean() for a, b in zip(run(), whole, strict=True)]
        found[name] = torch.stack(errors).mean().item()
    return found
