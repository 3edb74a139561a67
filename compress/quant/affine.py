"""Uniform affine quantisation as pure functions.

Codes follow the convention of ONNX and torchao: q = clamp(round(x / scale) + zero_point, qmin, qmax),
x ~ (q - zero_point) * scale, ties to even. (PassionSR's code *adds* a zero point of the opposite sign.)
"""

from dataclasses import dataclass

import torch

from compress.core.errors import UserError

BITS = (4, 6, 8, 16)
REDUCED = 64  # 2 * 255 * 64 = 32,640: two products of a byte with such a weight still fit 16 bits


@dataclass(frozen=True)
class Grid:
    """The integers of a quantiser: unsigned for activations; symmetric around 0, or signed, for weights.

    `reduced` leaves a signed grid of 8 bits the codes from -64 to 64, onnxruntime's reduced range.
    """

    bits: int
    symmetric: bool = False
    signed: bool = False
    reduced: bool = False

    def __post_init__(self):
        if self.bits not in BITS:
            raise UserError(
                f"{self.bits} bits are not supported; choose one of {', '.join(map(str, BITS))}"
            )
        if self.reduced and not (self.signed and self.bits == 8):
            raise UserError(
                "a reduced range is one of signed 8-bit codes; narrower codes fit into it, wider ones do not"
            )

    @property
    def qmin(self) -> int:
        if self.reduced:
            return -REDUCED
        # A symmetric grid leaves out its lowest code, so that -x has a code whenever x has.
        return -(2 ** (self.bits - 1)) + int(self.symmetric) if self.signed else 0

    @property
    def qmax(self) -> int:
        if self.reduced:
            return REDUCED
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    @property
    def dtype(self) -> torch.dtype:
        """The container: the narrowest integer type that holds the codes."""
        if self.bits <= 8:
            return torch.int8 if self.signed else torch.uint8
        return torch.int16 if self.signed else torch.uint16


class _Round(torch.autograd.Function):
    """Rounding with the straight-through gradient."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


round_ste = _Round.apply


def qparams(
    low: torch.Tensor, high: torch.Tensor, grid: Grid, zero_in_range: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and (float, integral) zero point of the range [low, high], with gradients to both ends.

    A range is widened to contain 0, which zero padding and ReLU-like zeros need to be exact; PassionSR's is not
    (`zero_in_range=False`). A symmetric grid uses max(-low, high).
    """
    tiny = torch.finfo(low.dtype).tiny * 2.0**24
    if grid.symmetric:
        scale = torch.maximum(-low, high) / grid.qmax
        return scale.clamp(min=tiny), torch.zeros_like(scale)
    if zero_in_range:
        low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / (grid.qmax - grid.qmin)).clamp(min=tiny)
    return scale, grid.qmin - round_ste(low / scale)


def codes(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, grid: Grid
) -> torch.Tensor:
    """Integer codes as floats, differentiable: rounding passes the gradient, the clamp blocks it."""
    return torch.clamp(round_ste(x / scale) + zero_point, grid.qmin, grid.qmax)


def fake_quantize(
    x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, grid: Grid, zero_in_range: bool = True
) -> torch.Tensor:
    """Quantise and dequantise `x` with the learnable boundaries `low`, `high` (PassionSR's LBQ, section 3.2).

    Boundaries broadcast against `x`: scalars for a tensor, [out, 1, ...] for weights per output channel.
    """
    scale, zero_point = qparams(low, high, grid, zero_in_range)
    return (codes(x, scale, zero_point, grid) - zero_point) * scale


def per_channel(values: torch.Tensor, ndim: int) -> torch.Tensor:
    """[C] -> [C, 1, ...] with `ndim` dimensions, to broadcast over a weight's first axis."""
    return values.view(-1, *[1] * (ndim - 1))


def quantize_weight(
    weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes in the grid's container, scale [out] and int64 zero point [out] of a weight [out, ...].

    By the same division as `fake_quantize`: a reciprocal, as torchao's primitive has it, rounds ties the other way, and
    weights that were trained in bfloat16 have many.
    """
    scale, zero_point = qparams(low, high, grid)
    stored = codes(weight, *(per_channel(v, weight.ndim) for v in (scale, zero_point)), grid)
    return stored.to(grid.dtype), scale, zero_point.to(torch.int64)


def best_shrink(
    x: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    grid: Grid,
    steps: int = 20,
    floor: float = 0.2,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors in [floor, 1] for `low` and `high` [rows] that give `x` [rows, samples] the least square error.

    The start from which learning of boundaries goes on: at the published learning rate it supplies most of the
    gain. The ends are searched in turn, because an activation's long tail lies on one side; a symmetric grid has
    one factor.
    """
    factors = [torch.ones_like(low), torch.ones_like(high)]
    least = (fake_quantize(x, low[:, None], high[:, None], grid) - x).square().mean(1)
    for ends in [(0, 1)] if grid.symmetric else [(1,), (0,), (1,)]:
        for factor in torch.linspace(1.0, floor, steps).tolist():
            tried = [
                torch.full_like(f, factor) if end in ends else f for end, f in enumerate(factors)
            ]
            error = (
                (fake_quantize(x, (low * tried[0])[:, None], (high * tried[1])[:, None], grid) - x)
                .square()
                .mean(1)
            )
            better = error < least
            least = torch.where(better, error, least)
            factors = [
                torch.where(better, new, old) for new, old in zip(tried, factors, strict=True)
            ]
    return factors[0], factors[1]
