"""Weights of one or two bits as bytes, and float16 numbers that are computed with as float32.

Both go through an operator of our own, in torch as in the ONNX file (export/graphs/packed.py).
Constant folding does not see through it: what is stored stays as small as it was written.

The codes of a weight lie in its memory order, the first in the lowest bits of the first byte. One
bit: 0 is -1, 1 is +1. Two bits: 0, 1, 2 are -1, 0, +1.
"""

import torch
from torch import nn
from torch.nn.utils import parametrize


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack integers into bytes; what is left of the last byte is zeros.

    Args:
        codes: Below 2^bits, any shape.
        bits: 1 or 2.

    Returns:
        uint8 [ceil(numel * bits / 8)].
    """
    per_byte = 8 // bits
    flat = codes.flatten().to(torch.uint8)
    flat = torch.cat([flat, flat.new_zeros(-flat.numel() % per_byte)]).view(-1, per_byte)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=flat.device)
    return (flat << shifts).sum(dim=1).to(torch.uint8)


@torch.library.custom_op("compress::unpack", mutates_args=())
def unpack(packed: torch.Tensor, scale: torch.Tensor, shape: list[int], bits: int) -> torch.Tensor:
    """Compute the values that packed codes stand for.

    Args:
        packed: From `pack`.
        scale: Of every output channel, [C_out, 1, ...].
        shape: Of the weight.
        bits: 1 or 2.

    Returns:
        float32, of `shape`.
    """
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    codes = (packed[:, None] >> shifts) & (2**bits - 1)
    values = codes.flatten()[: torch.Size(shape).numel()].view(shape).float()
    return (values * 2 - 1 if bits == 1 else values - 1) * scale.float()


@unpack.register_fake
def _(packed: torch.Tensor, scale: torch.Tensor, shape: list[int], bits: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float32, device=packed.device)


@torch.library.custom_op("compress::widen", mutates_args=())
def widen(x: torch.Tensor) -> torch.Tensor:
    """float16 -> float32."""
    return x.float()


@widen.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, dtype=torch.float32)


@torch.library.custom_op("compress::expand", mutates_args=())
def expand(entries: torch.Tensor, index: torch.Tensor, shape: list[int]) -> torch.Tensor:
    """Put `entries` [n] at the flat positions `index` [n] of zeros: float32, of `shape`."""
    zeros = torch.zeros(torch.Size(shape).numel(), dtype=torch.float32, device=entries.device)
    return zeros.scatter(0, index.long(), entries.float()).view(shape)


@expand.register_fake
def _(entries: torch.Tensor, index: torch.Tensor, shape: list[int]) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float32, device=entries.device)


class Widen(nn.Module):
    """The parametrisation of a parameter that is stored as float16."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float16 -> float32."""
        return widen(x)


def store_half(module: nn.Module) -> None:
    """Store every float32 parameter and buffer in `module` as float16.

    What reads one gets float32, rounded once.
    """
    for owner in list(module.modules()):
        if not isinstance(owner, parametrize.ParametrizationList):
            _halve_parameters(owner)
        for name, buffer in list(owner.named_buffers(recurse=False)):
            if buffer.dtype == torch.float32:  # attention masks
                setattr(owner, name, buffer.half())
                parametrize.register_parametrization(owner, name, Widen(), unsafe=True)


def _halve_parameters(owner: nn.Module) -> None:
    """Store the float32 parameters of one module as float16."""
    widens_itself = getattr(owner, "NARROW", ())
    for name, parameter in list(owner.named_parameters(recurse=False)):
        if parameter.dtype != torch.float32:
            continue
        setattr(owner, name, nn.Parameter(parameter.detach().half(), requires_grad=False))
        if name not in widens_itself:
            parametrize.register_parametrization(owner, name, Widen(), unsafe=True)
