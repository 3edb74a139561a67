"""Convolution and linear layers with quantised weights and input.

They are what a compressed model holds and what is exported. The forward is written in the operators
of operators.py, so that the simulation in torch and the Q/DQ pairs of the ONNX file are one piece
of code. The arithmetic between them is floating point: in torch this is a *simulation* of integer
kernels. A runtime that fuses the pairs computes with integers.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from compress.quant import operators as ops
from compress.quant.affine import Grid
from compress.quant.calls import paused
from compress.quant.low_rank import LowRank
from compress.quant.quantiser import CONTAINER_BITS, ByStep, TensorQuantiser, grid_problem


@dataclass(frozen=True)
class LayerOptions:
    """How one layer is quantised.

    Attributes:
        weight_bits: Bits of the weight's codes.
        act_bits: Bits of the input's codes, and of the output's.
        symmetric: Whether the weight's zero points are 0.
        quantise_output: Whether the result is quantised too. It costs accuracy. It is what lets a
            runtime use an integer convolution, which puts out integers.
        low_rank: Rank of a 16-bit branch beside the layer; 0 for none.
        reduce_range: Whether weights of 8 bits have the codes from -64 to 64 only.
    """

    weight_bits: int
    act_bits: int
    symmetric: bool = True
    quantise_output: bool = False
    low_rank: int = 0
    reduce_range: bool = False


class QuantLayer(nn.Module):
    """Base of the two layers: the structure of `layer`'s replacement, without its values.

    Args:
        layer: What is replaced. Shape, bias and device are taken from it.
        options: How it is quantised.

    Attributes:
        input: The quantiser of the input, None where the tensor that comes is on a grid already.
        output: The quantiser of the result, or None.
        branch: The low-rank branch, or None.
        premultiply: Factors [in] of an equivalent transform that nothing could absorb, or None.
        fit: While a pass learns the ranges, a module that takes over the forward (quant/fit.py).
    """

    weight_q: torch.Tensor
    weight_scale: torch.Tensor
    weight_zero_point: torch.Tensor
    premultiply: torch.Tensor | None

    def __init__(self, layer: nn.Conv2d | nn.Linear, options: LayerOptions):
        super().__init__()
        self.weight_bits = options.weight_bits
        self.act_bits = options.act_bits
        self.weight_grid = Grid(
            options.weight_bits,
            options.symmetric,
            signed=True,
            reduced=options.reduce_range and options.weight_bits == 8,
        )
        shape = layer.weight.shape
        # A rank that is no saving in the products of this layer is none.
        rank = min(options.low_rank, min(shape[0], shape[1:].numel()) // 2)
        with torch.device(layer.weight.device):
            self.input: TensorQuantiser | ByStep | None = TensorQuantiser(options.act_bits)
            self.output: TensorQuantiser | ByStep | None = None
            if options.quantise_output:
                self.output = TensorQuantiser(options.act_bits)
            self.register_buffer("weight_q", torch.zeros(shape, dtype=self.weight_grid.dtype))
            self.register_buffer("weight_scale", torch.ones(shape[0]))
            self.register_buffer("weight_zero_point", torch.zeros(shape[0], dtype=torch.int64))
            self.branch = LowRank(shape, rank) if rank else None
            self.register_buffer("premultiply", None)
        self.bias: nn.Parameter | None = None
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
        self.fit: nn.Module | None = None

    def weight(self) -> torch.Tensor:
        """Dequantise the weight, [out, in, ...], without the low-rank branch's share."""
        limits = torch.iinfo(self.weight_grid.dtype)
        return ops.dequantize_per_channel(
            self.weight_q,
            self.weight_scale,
            self.weight_zero_point,
            0,
            limits.min,
            limits.max,
            self.weight_grid.dtype,
        )

    def value_problem(self) -> tuple[str, str] | None:
        """A tensor's name and what is wrong with its value, of a model read from a file."""
        grid = self.weight_grid
        # Elsewhere every code of the container is one of the grid's.
        if grid.bits not in CONTAINER_BITS or grid.symmetric:
            low, high = self.weight_q.to(torch.int32).aminmax()
            if low < grid.qmin or high > grid.qmax:
                return (
                    "weight_q",
                    f"holds codes from {low} to {high}; "
                    f"{grid.bits} bits have {grid.qmin} to {grid.qmax}",
                )
        return grid_problem(
            grid, self.weight_scale, self.weight_zero_point, "weight_scale", "weight_zero_point"
        )

    def apply_weight(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Compute the layer's linear map with the given weight [out, in, ...] and bias [out]."""
        raise NotImplementedError(f"{type(self).__name__} must say how its weight acts")

    def on_channels(self, values: torch.Tensor) -> torch.Tensor:
        """[in] -> broadcastable against the layer's input."""
        return values

    @property
    def is_grouped(self) -> bool:
        """Whether an output sees a part of the input channels only."""
        return False

    def quantise_input(self, x: torch.Tensor) -> torch.Tensor:
        """Round the input to its grid; it stays as it is where it comes from a grid."""
        if self.input is None:
            return x
        return self.input(x)

    def quantise_output(self, y: torch.Tensor) -> torch.Tensor:
        """Round the result to its grid; it stays as it is without one."""
        if self.output is None:
            return y
        return self.output(y)

    def add_branch(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Add the low-rank branch's share, computed from the float input `x`, to the result."""
        if self.branch is None:
            return y
        return y + self.branch(x, self.apply_weight)

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """Compute the layer's result.

        The further arguments are ignored. diffusers hands some layers a scale that has had no
        effect since LoRA left the layers.
        """
        with paused():
            if self.fit is not None:
                return self.fit(x, self)
            if self.premultiply is not None:
                x = x * self.on_channels(self.premultiply)
            y = self.apply_weight(self.quantise_input(x), self.weight(), self.bias)
            return self.quantise_output(self.add_branch(y, x))


class QuantConv2d(QuantLayer):
    """A quantised convolution: [B, in, h, w] -> [B, out, h', w']."""

    def __init__(self, layer: nn.Conv2d, options: LayerOptions):
        super().__init__(layer, options)
        self.in_channels = layer.in_channels
        self.out_channels = layer.out_channels
        self.kernel_size = layer.kernel_size
        self.stride = layer.stride
        self.padding = layer.padding
        self.dilation = layer.dilation
        self.groups = layer.groups

    @property
    def is_grouped(self) -> bool:
        """Whether an output sees a part of the input channels only."""
        return self.groups != 1

    def apply_weight(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Convolve with the given weight."""
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def on_channels(self, values: torch.Tensor) -> torch.Tensor:
        """[in] -> [1, in, 1, 1]."""
        return values.view(1, -1, 1, 1)


class QuantLinear(QuantLayer):
    """A quantised linear layer: [..., in] -> [..., out]."""

    def __init__(self, layer: nn.Linear, options: LayerOptions):
        super().__init__(layer, options)
        self.in_features = layer.in_features
        self.out_features = layer.out_features

    def apply_weight(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Multiply with the given weight.

        The bias has the result's rank. With a vector, onnxruntime would fuse it and turn the
        product back into a float Gemm.
        """
        y = F.linear(x, weight)
        if bias is None:
            return y
        return y + bias.view(*[1] * (x.ndim - 1), -1)


def slice_input(layer: nn.Conv2d, start: int, stop: int, bias: bool) -> nn.Conv2d:
    """Build the convolution that sees the input channels from `start` to before `stop` only.

    It has the layer's values, on its device, and its bias where `bias` is set.
    """
    part = nn.Conv2d(
        stop - start,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]  # torch declares pairs as tuple[int, ...]
        layer.stride,  # type: ignore[arg-type]  # as above
        layer.padding,  # type: ignore[arg-type]  # as above
        layer.dilation,  # type: ignore[arg-type]  # as above
        bias=bias,
        device=layer.weight.device,
    )
    part.weight = nn.Parameter(layer.weight.detach()[:, start:stop].clone(), requires_grad=False)
    if bias and layer.bias is not None:
        part.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
    return part


class SplitConv2d(nn.Module):
    """A convolution on a skip-concatenation, as the sum of two (Q-Diffusion, section 3.3).

    Each half has a quantiser with a range of its own. One quantiser for both would waste the grid
    on the wider.

    Args:
        layer: What is replaced.
        hidden: How many input channels the first half has.
        options: As of `QuantConv2d`, for both halves.
    """

    def __init__(self, layer: nn.Conv2d, hidden: int, options: LayerOptions):
        super().__init__()
        self.hidden = hidden
        self.in_channels = layer.in_channels
        self.out_channels = layer.out_channels
        self.kernel_size = layer.kernel_size
        first = slice_input(layer, 0, hidden, layer.bias is not None)
        second = slice_input(layer, hidden, layer.in_channels, False)
        self.parts = nn.ModuleList([QuantConv2d(first, options), QuantConv2d(second, options)])

    @property
    def halves(self) -> list[QuantConv2d]:
        """The layer of the first input channels, and that of the others."""
        return [part for part in self.parts if isinstance(part, QuantConv2d)]

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """[B, in, h, w] -> [B, out, h', w']. The further arguments are ignored, as above."""
        return self.parts[0](x[:, : self.hidden]) + self.parts[1](x[:, self.hidden :])
