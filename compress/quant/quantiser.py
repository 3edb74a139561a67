"""A tensor's quantiser: one range, or one for each step of a chain."""

import copy
from collections.abc import Iterator

import torch
from torch import nn

from compress.model.steps import present_step
from compress.quant import operators as ops
from compress.quant.affine import Grid

CONTAINER_BITS = (8, 16)  # widths whose codes fill their container


def grid_problem(
    grid: Grid, scale: torch.Tensor, zero_point: torch.Tensor, scale_name: str, zero_name: str
) -> tuple[str, str] | None:
    """Say which of a scale and a zero point cannot be one on `grid`, and why.

    Args:
        grid: The codes.
        scale: Any shape.
        zero_point: Any shape.
        scale_name: The tensor's name, for the answer.
        zero_name: The tensor's name, for the answer.

    Returns:
        (a tensor's name, what is wrong with it), or None where both are possible.
    """
    if not (scale > 0).all():
        return scale_name, f"holds {scale.min().item():g}, and a scale is above 0"
    if (zero_point < grid.qmin).any() or (zero_point > grid.qmax).any():
        reason = f"is out of range; zero points of this layer lie in {grid.qmin} to {grid.qmax}"
        return zero_name, reason
    return None


class TensorQuantiser(nn.Module):
    """A static, per-tensor, asymmetric quantiser: float of any shape -> the same, on the grid.

    Codes of 6 and 4 bits live in a container of 8 bits. The value is clamped to the grid first,
    because the exported QuantizeLinear saturates at the container's limits and knows no narrower
    ones.

    Args:
        bits: Of the codes.
        pinned: For what lies in [0, 1] by its formula (softmax, sigmoid). The range is then 0 to
            1 - 2^-bits and is not learned.
        signed: Whether codes are signed.

    Attributes:
        fit: While a pass learns the range, a module that takes over the forward (quant/fit.py).
    """

    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, bits: int, pinned: bool = False, signed: bool = False):
        super().__init__()
        self.grid = Grid(bits, signed=signed)
        self.pinned = pinned
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int64))
        self.fit: nn.Module | None = None

    def value_problem(self) -> tuple[str, str] | None:
        """A tensor's name and what is wrong with its value, of a model read from a file."""
        return grid_problem(self.grid, self.scale, self.zero_point, "scale", "zero_point")

    def quantisers(self) -> "Iterator[TensorQuantiser]":
        """Itself: see `ByStep`."""
        yield self

    def set(self, scale: torch.Tensor, zero_point: torch.Tensor) -> None:
        """Write the range: scalars, a float scale above 0 and an integer zero point."""
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)

    def forward(self, x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
        """Round `x` to the grid and multiply by `gain`.

        The gain goes into the scale that codes are read with and costs nothing.
        """
        if self.fit is not None:
            return self.fit(x, self) * gain
        grid = self.grid
        if grid.bits not in CONTAINER_BITS:
            # min and max with tensors: clamp with numbers would need the values at export time.
            x = torch.maximum(x, (grid.qmin - self.zero_point) * self.scale)
            x = torch.minimum(x, (grid.qmax - self.zero_point) * self.scale)
        container = Grid(8 if grid.bits <= 8 else 16, signed=grid.signed)
        limits = (self.zero_point, container.qmin, container.qmax, container.dtype)
        codes = ops.quantize_per_tensor(x, self.scale, *limits)
        read_scale = self.scale if gain == 1.0 else self.scale * gain
        return ops.dequantize_per_tensor(codes, read_scale, *limits)


class ByStep(nn.Module):
    """The quantisers of one tensor, one for each step of a chain; that of the present step acts.

    A network that runs at several steps shows tensors of other sizes at each: where the noise
    falls, a latent may grow a hundredfold. One range for all would leave the smallest step a few
    codes.

    Args:
        quantiser: Is copied.
        steps: How many there are.
    """

    def __init__(self, quantiser: TensorQuantiser, steps: int):
        super().__init__()
        self.steps = nn.ModuleList(copy.deepcopy(quantiser) for _ in range(steps))

    def quantisers(self) -> Iterator[TensorQuantiser]:
        """Those of all steps, in their order."""
        for step in self.steps:
            if isinstance(step, TensorQuantiser):
                yield step

    def forward(self, x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
        """See `TensorQuantiser`."""
        result: torch.Tensor = self.steps[present_step()](x, gain)
        return result
