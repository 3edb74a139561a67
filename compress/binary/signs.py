"""One-bit and ternary weights, one- to eight-bit inputs: the roundings.

Each has a straight-through gradient.
"""

import torch

from compress.quant.affine import round_ste

LEAST_RANGE = 1e-12  # so that a pixel of zeros has a scale


def sign(x: torch.Tensor, zero: bool = False) -> torch.Tensor:
    """+1 and -1 in the type of `x`, without a gradient.

    sign(0) is +1, so that one bit holds the result; with `zero` it is 0.
    """
    if zero:
        return torch.sign(x)
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


class ClipSign(torch.autograd.Function):
    """scale * sign(x) with the gradient of clamp: 1 where |x| <= 1, else 0, whatever the scale."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, scale: torch.Tensor | float, zero: bool) -> torch.Tensor:
        """`scale` broadcasts against `x`; `zero` as in `sign`."""
        ctx.save_for_backward(x)
        return scale * sign(x, zero)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Pass the gradient on where |x| <= 1."""
        return grad * (ctx.saved_tensors[0].abs() <= 1), None, None


class BiRealSign(torch.autograd.Function):
    """The sign with the gradient of a piecewise parabola (Bi-Real Net, arXiv 1808.00278).

    The gradient is 2 + 2x on [-1, 0), 2 - 2x on [0, 1) and 0 elsewhere.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, zero: bool) -> torch.Tensor:
        """`zero` as in `sign`."""
        ctx.save_for_backward(x)
        return sign(x, zero)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Multiply by the parabola's slope."""
        return grad * (2 - 2 * ctx.saved_tensors[0].abs()).clamp(min=0), None


def trits(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Ternary digits -1, 0 and +1: x / scale rounded, without a gradient.

    A scale of 0, where all x are 0, gives 0.
    """
    return torch.round(x.detach() / scale.clamp(min=torch.finfo(x.dtype).tiny)).clamp(-1, 1)


def ternary(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """scale * trits(x) with the gradient of the identity (BitNet b1.58, arXiv 2402.17764)."""
    return scale * trits(x, scale) + (x - x.detach())  # in this order nothing is rounded


def fake_quantize_dynamic(x: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Quantise and dequantise symmetrically, with a range that is found at every call.

    The largest |x| along `dim` is the end of the grid (BitNet b1.58).
    """
    levels = 2 ** (bits - 1) - 1
    scale = x.detach().abs().amax(dim=dim, keepdim=True).clamp(min=LEAST_RANGE) / levels
    return round_ste(x / scale) * scale
