"""Uniform affine quantisation as pure functions.

Codes follow the convention of ONNX and torchao: q = clamp(round(x / scale) + zero_point, qmin,
qmax) and x ~ (q - zero_point) * scale. Ties are rounded to even. PassionSR's code *adds* a zero
point of the opposite sign.

A *grid* is the set of integer codes that a quantiser may use.
"""

from dataclasses import dataclass

import torch

from compress.core.errors import UserError

BITS = (4, 6, 8, 16)
REDUCED = 64  # 2 * 255 * 64 = 32,640: two products of a byte with such a weight still fit 16 bits
# The least scale is this many times the least normal number of the type, so that its inverse
# is finite.
SCALE_ABOVE_TINY = 2.0**24
TRIED_AT_ONCE = 2**16  # values that a search rounds in one call, so that they stay in the cache
VALUES_AT_ONCE = 2**17  # of the rows that are searched or rounded, one block after another


@dataclass(frozen=True)
class Grid:
    """The integer codes of a quantiser: unsigned for activations, signed for weights.

    Attributes:
        bits: One of `BITS`.
        symmetric: Whether the codes lie symmetrically around 0.
        signed: Whether there are negative codes.
        reduced: Whether a signed grid of 8 bits has the codes from -64 to 64 only, which is
            onnxruntime's reduced range.

    Raises:
        UserError: `bits` is none of `BITS`, or `reduced` is set for another than signed 8 bits.
    """

    bits: int
    symmetric: bool = False
    signed: bool = False
    reduced: bool = False

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise UserError(
                f"{self.bits} bits are not supported; choose one of {', '.join(map(str, BITS))}"
            )
        if self.reduced and not (self.signed and self.bits == 8):
            raise UserError(
                "a reduced range is one of signed 8-bit codes; narrower codes fit into it, "
                "wider ones do not"
            )

    @property
    def qmin(self) -> int:
        """The lowest code."""
        if self.reduced:
            return -REDUCED
        if not self.signed:
            return 0
        # A symmetric grid leaves out its lowest code, so that -x has a code whenever x has.
        return -(2 ** (self.bits - 1)) + int(self.symmetric)

    @property
    def qmax(self) -> int:
        """The highest code."""
        if self.reduced:
            return REDUCED
        if self.signed:
            return 2 ** (self.bits - 1) - 1
        return 2**self.bits - 1

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


def round_ste(x: torch.Tensor) -> torch.Tensor:
    """Round to nearest, ties to even. The gradient is that of the identity."""
    return _Round.apply(x)


def qparams(
    low: torch.Tensor, high: torch.Tensor, grid: Grid, zero_in_range: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute scale and zero point of the range [low, high], with gradients to both ends.

    Args:
        low: Lower ends, any shape.
        high: Upper ends, the same shape. A symmetric grid uses max(-low, high).
        grid: The codes.
        zero_in_range: Whether to widen a range until it contains 0. Zero padding and the zeros of a
            ReLU need that to be exact. PassionSR's range is not widened.

    Returns:
        Scale, above 0, and zero point, an integer stored as float, both in the shape of `low`.
    """
    least_scale = torch.finfo(low.dtype).tiny * SCALE_ABOVE_TINY
    if grid.symmetric:
        scale = torch.maximum(-low, high) / grid.qmax
        return scale.clamp(min=least_scale), torch.zeros_like(scale)
    if zero_in_range:
        low = low.clamp(max=0)
        high = high.clamp(min=0)
    scale = ((high - low) / (grid.qmax - grid.qmin)).clamp(min=least_scale)
    return scale, grid.qmin - round_ste(low / scale)


def codes(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, grid: Grid
) -> torch.Tensor:
    """Integer codes as floats. Rounding passes the gradient, the clamp blocks it.

    `scale` and `zero_point` broadcast against `x`.
    """
    return torch.clamp(round_ste(x / scale) + zero_point, grid.qmin, grid.qmax)


def fake_quantize(
    x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, grid: Grid, zero_in_range: bool = True
) -> torch.Tensor:
    """Quantise and dequantise `x` with learnable boundaries (PassionSR's LBQ, section 3.2).

    Args:
        x: Any shape.
        low: Lower boundaries that broadcast against `x`: a scalar for a tensor, [out, 1, ...] for
            weights per output channel.
        high: Upper boundaries, as `low`.
        grid: The codes.
        zero_in_range: As in `qparams`.

    Returns:
        `x` rounded to the grid, in the shape of `x`.
    """
    scale, zero_point = qparams(low, high, grid, zero_in_range)
    if not any(t.requires_grad for t in (x, scale, zero_point)):
        return _round_to_grid(x, scale, zero_point, grid)
    return (codes(x, scale, zero_point, grid) - zero_point) * scale


def _round_to_grid(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, grid: Grid
) -> torch.Tensor:
    """What `fake_quantize` computes, in one new tensor and without gradients."""
    rounded = (x / scale).round_()
    if grid.symmetric:  # all zero points are 0
        return rounded.clamp_(grid.qmin, grid.qmax).mul_(scale)
    return rounded.add_(zero_point).clamp_(grid.qmin, grid.qmax).sub_(zero_point).mul_(scale)


def rows_at_once(x: torch.Tensor) -> int:
    """How many rows of `x`, [rows, ...], have `VALUES_AT_ONCE` values; at least 1."""
    return max(1, VALUES_AT_ONCE * len(x) // max(1, x.numel()))


def per_channel(values: torch.Tensor, ndim: int) -> torch.Tensor:
    """[C] -> [C, 1, ...] with `ndim` dimensions, to broadcast over a weight's first axis."""
    return values.view(-1, *[1] * (ndim - 1))


def quantize_weight(
    weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantise a weight per output channel.

    The division is that of `fake_quantize`. A product with the reciprocal, as torchao's primitive
    has it, rounds ties the other way, and weights that were trained in bfloat16 have many.

    Args:
        weight: [out, ...].
        low: Lower boundaries, [out].
        high: Upper boundaries, [out].
        grid: The codes.

    Returns:
        Codes in the grid's container [out, ...], scale [out] and int64 zero point [out].
    """
    scale, zero_point = qparams(low, high, grid)
    scale_rows = per_channel(scale, weight.ndim)
    zero_rows = per_channel(zero_point, weight.ndim)
    stored = codes(weight, scale_rows, zero_rows, grid)
    return stored.to(grid.dtype), scale, zero_point.to(torch.int64)


def _row_errors(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Mean square error of every row of `x` on each of n grids.

    Args:
        x: [rows, samples].
        low: Lower ends, [n, rows].
        high: Upper ends, [n, rows].
        grid: The codes.

    Returns:
        [n, rows].
    """
    rounded = fake_quantize(x, low[..., None], high[..., None], grid)
    return rounded.sub_(x).square_().mean(-1)


def best_shrink(
    x: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    grid: Grid,
    steps: int = 20,
    floor: float = 0.2,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Search the factors for `low` and `high` that give `x` the least square error.

    Learning of boundaries goes on from there. At the published learning rate this start supplies
    most of the gain. The ends are searched in turn, because an activation's long tail lies on one
    side. A symmetric grid has one factor.

    Args:
        x: Samples, [rows, samples].
        low: Lower ends, [rows].
        high: Upper ends, [rows].
        grid: The codes.
        steps: How many factors are tried at each end.
        floor: The least factor that is tried, in (0, 1].

    Returns:
        Factors in [floor, 1] for `low` and for `high`, each [rows].
    """
    # Every step reads and writes all values: in blocks of rows, these stay in the cache.
    rows = rows_at_once(x)
    blocks = zip(x.split(rows), low.split(rows), high.split(rows), strict=True)
    found = [_best_shrink_of_block(*block, grid, steps, floor) for block in blocks]
    return torch.cat([factors[0] for factors in found]), torch.cat(
        [factors[1] for factors in found]
    )


def _best_shrink_of_block(
    x: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    grid: Grid,
    steps: int,
    floor: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `best_shrink`, for as many rows as fit the cache."""
    low_factor = torch.ones_like(low)
    high_factor = torch.ones_like(high)
    least = _row_errors(x, low[None], high[None], grid)[0]
    rounds = [("low", "high")] if grid.symmetric else [("high",), ("low",), ("high",)]
    factors = torch.linspace(1.0, floor, steps).to(low)[:, None].expand(-1, len(low))
    for ends in rounds:
        for tried in factors.split(max(1, TRIED_AT_ONCE // max(1, x.numel()))):
            tried_low = tried if "low" in ends else low_factor.expand_as(tried)
            tried_high = tried if "high" in ends else high_factor.expand_as(tried)
            errors = _row_errors(x, low * tried_low, high * tried_high, grid)
            error, place = errors.min(0, keepdim=True)  # the first of equal ones
            is_better = error[0] < least
            least = torch.where(is_better, error[0], least)
            low_factor = torch.where(is_better, tried_low.gather(0, place)[0], low_factor)
            high_factor = torch.where(is_better, tried_high.gather(0, place)[0], high_factor)
    return low_factor, high_factor
