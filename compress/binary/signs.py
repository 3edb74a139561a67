"""One-bit and ternary weights, one- to eight-bit inputs: the roundings, with their straight-through gradients."""

import torch

from compress.quant.affine import round_ste


def sign(x: torch.Tensor, zero: bool = False) -> torch.Tensor:
    """+1 and -1, no gradient. sign(0) is +1, so that one bit holds the result; with `zero` it is 0."""
    return torch.sign(x) if zero else torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


class ClipSign(torch.autograd.Function):
    """scale * sign(x) with the gradient of clamp: 1 where |x| <= 1, else 0, whatever the scale."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, scale: torch.Tensor | float, zero: bool) -> torch.Tensor:
        ctx.save_for_backward(x)
        return scale * sign(x, zero)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        return grad * (ctx.saved_tensors[0].abs() <= 1), None, None


class BiRealSign(torch.autograd.Function):
    """sign with the gradient of a piecewise parabola: 2 + 2x on [-1, 0), 2 - 2x on [0, 1) (Bi-Real Net)."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, zero: bool) -> torch.Tensor:
        ctx.save_for_backward(x)
        return sign(x, zero)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        return grad * (2 - 2 * ctx.saved_tensors[0].abs()).clamp(min=0), None


def trits(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """-1, 0 and +1: x / scale rounded, no gradient. A scale of 0 (all x are 0) gives 0."""
    return torch.round(x.detach() / scale.clamp(min=torch.finfo(x.dtype).tiny)).clamp(-1, 1)


def ternary(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """scale * trits(x) with the gradient of the identity (BitNet b1.58)."""
    return scale * trits(x, scale) + (x - x.detach())  # in this order nothing is rounded


def fake_quantise(x: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Symmetric, with the largest |x| along `dim` as the end of the grid, found at every call (BitNet b1.58)."""
    levels = 2 ** (bits - 1) - 1
    scale = x.detach().abs().amax(dim=dim, keepdim=True).clamp(min=1e-12) / levels
    return round_ste(x / scale) * scale
