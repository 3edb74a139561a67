"""Convolution and linear layers with quantised weights and input: what a compressed model holds and exports.

The forward is written in the operators of operators.py, so that the simulation in torch and the Q/DQ pairs of
the ONNX file are one piece of code. The arithmetic between them is floating point: in torch this is a
*simulation* of integer kernels; a runtime that fuses the pairs computes with integers.
"""

import torch
import torch.nn.functional as F
from torch import nn

from compress.quant import operators as ops
from compress.quant.affine import Grid
from compress.quant.flow import paused


def grid_problem(
    grid: Grid, scale: torch.Tensor, zero_point: torch.Tensor, *names: str
) -> tuple[str, str] | None:
    """Which of a scale and zero point cannot be one on `grid`, and why; `names` are those of the two tensors."""
    if not (scale > 0).all():
        return names[0], f"holds {scale.min().item():g}, and a scale is above 0"
    if (zero_point < grid.qmin).any() or (zero_point > grid.qmax).any():
        return names[
            1
        ], f"is out of range; zero points of this layer lie in {grid.qmin} to {grid.qmax}"
    return None


class TensorQuantiser(nn.Module):
    """Static, per-tensor, asymmetric: [..., any shape] float -> the same, on the grid; `signed` codes or unsigned.

    Codes of 6 and 4 bits live in a uint8 container. The value is clamped to the grid first, because the exported
    QuantizeLinear saturates at the container's limits and knows no narrower ones. `pinned` is for what lies in
    [0, 1] by its formula (softmax, sigmoid): the range is 0 to 1 - 2^-bits and nobody's to learn. `fit`, while a pass
    learns the range, takes over the forward (see quant/fit.py).
    """

    def __init__(self, bits: int, pinned: bool = False, signed: bool = False):
        super().__init__()
        self.grid, self.pinned = Grid(bits, signed=signed), pinned
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int64))
        self.fit: nn.Module | None = None

    def value_problem(self) -> tuple[str, str] | None:
        """A tensor's name and what is wrong with its value, of a model that was read from a file."""
        return grid_problem(self.grid, self.scale, self.zero_point, "scale", "zero_point")

    def set(self, scale: torch.Tensor, zero_point: torch.Tensor) -> None:
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)

    def forward(self, x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
        """`x` on the grid, times `gain`, which goes into the scale that codes are read with and costs nothing."""
        if self.fit is not None:
            return self.fit(x, self) * gain
        grid = self.grid
        if grid.bits not in (8, 16):
            # min and max with tensors: clamp with Python numbers would need the values at export time.
            x = torch.maximum(x, (grid.qmin - self.zero_point) * self.scale)
            x = torch.minimum(x, (grid.qmax - self.zero_point) * self.scale)
        container = Grid(8 if grid.bits <= 8 else 16, signed=grid.signed)
        limits = (self.zero_point, container.qmin, container.qmax, container.dtype)
        codes = ops.quantize_per_tensor(x, self.scale, *limits)
        return ops.dequantize_per_tensor(
            codes, self.scale if gain == 1.0 else self.scale * gain, *limits
        )


class LowRank(nn.Module):
    """A branch of rank `rank` beside a quantised layer, stored in 16 bits (SVDQuant, arXiv 2411.05007, eq. 5).

    `down` is [rank, in, ...] in the shape of the layer's weight, `up` [out, rank].
    """

    def __init__(self, shape: torch.Size, rank: int):
        super().__init__()
        self.down = nn.Parameter(
            torch.zeros(rank, *shape[1:], dtype=torch.float16), requires_grad=False
        )
        self.up = nn.Parameter(
            torch.zeros(shape[0], rank, dtype=torch.float16), requires_grad=False
        )

    @torch.no_grad()
    def set(self, weight: torch.Tensor) -> None:
        """The best approximation of `weight` [out, in, ...], rounded to what is stored."""
        u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        root = s[: self.up.shape[1]].sqrt()
        self.up.copy_(u[:, : len(root)] * root)
        self.down.copy_((root[:, None] * v[: len(root)]).view(self.down.shape))

    def weight(self) -> torch.Tensor:
        """up @ down in float32, in the shape of the layer's weight."""
        return (self.up.float() @ self.down.float().flatten(1)).view(
            self.up.shape[0], *self.down.shape[1:]
        )

    def forward(self, x: torch.Tensor, layer: "QuantLayer") -> torch.Tensor:
        hidden = layer.apply_weight(x, self.down.float(), None)
        up = self.up.float()
        return (
            F.conv2d(hidden, up[:, :, None, None]) if self.down.ndim == 4 else F.linear(hidden, up)
        )


class QuantLayer(nn.Module):
    """Base of the two layers. `fit`, while a pass learns the ranges, takes over the forward (see quant/fit.py).

    With `quantise_output` the result is quantised too. It costs accuracy, and it is what lets a runtime use an
    integer convolution: those put out integers. `input` is None where the tensor that comes is on a grid already.
    `low_rank` adds a branch of that rank; `premultiply` a factor per input channel that nothing else could absorb;
    `reduce_range` leaves weights of 8 bits the codes from -64 to 64.
    """

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        weight_bits: int,
        act_bits: int,
        symmetric: bool = True,
        quantise_output: bool = False,
        low_rank: int = 0,
        premultiply: bool = False,
        reduce_range: bool = False,
    ):
        super().__init__()
        self.weight_bits, self.act_bits = weight_bits, act_bits
        self.weight_grid = Grid(
            weight_bits, symmetric, signed=True, reduced=reduce_range and weight_bits == 8
        )
        device, shape = layer.weight.device, layer.weight.shape
        with torch.device(device):
            self.input: TensorQuantiser | None = TensorQuantiser(act_bits)
            self.output = TensorQuantiser(act_bits) if quantise_output else None
            self.register_buffer("weight_q", torch.zeros(shape, dtype=self.weight_grid.dtype))
            self.register_buffer("weight_scale", torch.ones(shape[0]))
            self.register_buffer("weight_zero_point", torch.zeros(shape[0], dtype=torch.int64))
            # A rank that is no saving in the products of this layer is none.
            rank = min(low_rank, min(shape[0], shape[1:].numel()) // 2)
            self.branch = LowRank(shape, rank) if rank else None
            self.register_buffer("premultiply", torch.ones(shape[1]) if premultiply else None)
        self.bias = (
            None
            if layer.bias is None
            else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
        )
        self.fit: nn.Module | None = None

    def weight(self) -> torch.Tensor:
        """The dequantised weight, in the shape of the layer that was replaced (without the branch's share)."""
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
        """A tensor's name and what is wrong with its value, of a model that was read from a file."""
        grid = self.weight_grid
        if (
            grid.bits not in (8, 16) or grid.symmetric
        ):  # elsewhere every code of the container is one of the grid's
            low, high = self.weight_q.to(torch.int32).aminmax()
            if low < grid.qmin or high > grid.qmax:
                return (
                    "weight_q",
                    f"holds codes from {low} to {high}; {grid.bits} bits have {grid.qmin} to {grid.qmax}",
                )
        return grid_problem(
            grid, self.weight_scale, self.weight_zero_point, "weight_scale", "weight_zero_point"
        )

    def apply_weight(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        raise NotImplementedError(f"{type(self).__name__} must say how its weight acts")

    def on_channels(self, values: torch.Tensor) -> torch.Tensor:
        """[in] -> broadcastable against the layer's input."""
        return values

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        # diffusers hands some layers a scale that has had no effect since LoRA left the layers.
        with paused():
            if self.fit is not None:
                return self.fit(x, self)
            if self.premultiply is not None:
                x = x * self.on_channels(self.premultiply)
            y = self.apply_weight(
                x if self.input is None else self.input(x), self.weight(), self.bias
            )
            if self.branch is not None:
                y = y + self.branch(x, self)
            return y if self.output is None else self.output(y)


class QuantConv2d(QuantLayer):
    def __init__(self, layer: nn.Conv2d, *options, **more):
        super().__init__(layer, *options, **more)
        self.in_channels, self.out_channels, self.kernel_size = (
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
        )
        self.stride, self.padding = layer.stride, layer.padding
        self.dilation, self.groups = layer.dilation, layer.groups

    def apply_weight(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def on_channels(self, values: torch.Tensor) -> torch.Tensor:
        return values.view(1, -1, 1, 1)


class QuantLinear(QuantLayer):
    def __init__(self, layer: nn.Linear, *options, **more):
        super().__init__(layer, *options, **more)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def apply_weight(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        # A bias of the result's rank: fused as a vector, onnxruntime would turn the product back into a float Gemm.
        y = F.linear(x, weight)
        return y if bias is None else y + bias.view(*[1] * (x.ndim - 1), -1)


def slice_input(layer: nn.Conv2d, start: int, stop: int, bias: bool) -> nn.Conv2d:
    """The convolution that sees input channels start..stop only, on the layer's device and with its values."""
    part = nn.Conv2d(
        stop - start,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        bias=bias,
        device=layer.weight.device,
    )
    part.weight = nn.Parameter(layer.weight.detach()[:, start:stop].clone(), requires_grad=False)
    if bias:
        part.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
    return part


class SplitConv2d(nn.Module):
    """A convolution on a skip-concatenation, as the sum of two with a quantiser each (Q-Diffusion, section 3.3).

    The halves have ranges of their own; one quantiser for both would waste the grid on the wider.
    """

    def __init__(self, layer: nn.Conv2d, hidden: int, *options, **more):
        super().__init__()
        self.hidden = hidden
        self.in_channels, self.out_channels, self.kernel_size = (
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
        )
        self.parts = nn.ModuleList(
            [
                QuantConv2d(
                    slice_input(layer, 0, hidden, layer.bias is not None), *options, **more
                ),
                QuantConv2d(slice_input(layer, hidden, layer.in_channels, False), *options, **more),
            ]
        )

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        return self.parts[0](x[:, : self.hidden]) + self.parts[1](x[:, self.hidden :])
