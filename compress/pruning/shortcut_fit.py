"""How near a stand-in (depth.py) comes to its block, and the 1x1 convolution that comes nearest."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from compress.pruning.depth import Shortcut, tensor_of
from compress.pruning.ridge import ridge

LEAST_VARIANCE = 1e-30  # of an output that is constant


class BlockMoments:
    """Sums of products of a block's input and output over all positions, in float64.

    Attributes:
        inputs: Sum of [x, 1] [x, 1]^T, [C + 1, C + 1].
        products: Sum of [x, 1] y^T, [C + 1, O].
        outputs: Sum of y, [O].
        square: Sum of all squares of y, a scalar.
    """

    def __init__(self) -> None:
        # A zero takes the shape of what is added first.
        self.inputs = torch.zeros((), dtype=torch.float64)
        self.products = torch.zeros((), dtype=torch.float64)
        self.outputs = torch.zeros((), dtype=torch.float64)
        self.square = torch.zeros((), dtype=torch.float64)

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add the positions of maps [B, C, h, w] and [B, O, h, w], or of tokens [B, n, C]."""
        x, y = _by_channel(x), _by_channel(y)
        x = torch.cat([x, x.new_ones(1, x.shape[1])])
        self.inputs = self.inputs + x @ x.T
        self.products = self.products + x @ y.T
        self.outputs = self.outputs + y.sum(1)
        self.square = self.square + y.square().sum()

    def least_squares(self) -> torch.Tensor:
        """Weights, and the constant last, of the least mean square error, [C + 1, O]."""
        return torch.linalg.solve(self.inputs + ridge(self.inputs), self.products)

    def error(self, weight: torch.Tensor) -> float:
        """Mean square error of a linear map over the variance of y.

        Args:
            weight: [C + 1, O].

        Returns:
            0 for a perfect map, 1 for y's mean.
        """
        count = self.inputs[-1, -1]
        residual = (
            self.square
            - 2 * (weight * self.products).sum()
            + (weight * (self.inputs @ weight)).sum()
        )
        variance = self.square - (self.outputs.square() / count).sum()
        return (residual / variance.clamp_min(LEAST_VARIANCE)).item()


def _by_channel(x: torch.Tensor) -> torch.Tensor:
    """[C, positions] in float64 of a map or of tokens."""
    channels = x.ndim - 1 if x.ndim == 3 else 1
    return x.detach().double().movedim(channels, 0).flatten(1)


@contextmanager
def observing(blocks: dict[str, nn.Module]) -> Iterator[dict[str, BlockMoments]]:
    """Sum up what flows through `blocks` (name -> block) inside; gives name -> moments."""

    def make_hook(moments: BlockMoments) -> Callable:
        def hook(_block: nn.Module, args: tuple, out: torch.Tensor | tuple) -> None:
            moments.add(args[0], tensor_of(out))

        return hook

    all_moments = {name: BlockMoments() for name in blocks}
    handles = []
    for name, block in blocks.items():
        handles.append(block.register_forward_hook(make_hook(all_moments[name])))
    try:
        yield all_moments
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def fit_shortcut(light: Shortcut, moments: BlockMoments) -> float:
    """Set a stand-in's 1x1 convolution, if it has one, to the least-squares one.

    Returns:
        `BlockMoments.error` of the stand-in.
    """
    conv = light.conv_shortcut
    if conv is None:
        eye = torch.eye(light.in_channels, dtype=moments.inputs.dtype, device=moments.inputs.device)
        return moments.error(torch.cat([eye, torch.zeros_like(eye[:1])]))
    weight = moments.least_squares()
    conv.weight.copy_(weight[:-1].T[..., None, None])
    if conv.bias is not None:
        conv.bias.copy_(weight[-1])
    return moments.error(weight)
