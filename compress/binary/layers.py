"""Convolution and linear layers with weights of one or two bits and inputs of one, four or eight.

`bimacosr` (arXiv 2502.00333) adds a sparse and a low-rank branch in full precision to a binary one; `xnor` is XNOR-Net
(arXiv 1603.05279), `react` ReActNet (arXiv 2003.03488), `ternary` BitNet b1.58 (arXiv 2402.17764); `w1a8` and `w1a4`
have its inputs and one-bit weights. All are *simulations*: products of +-1 are computed in floating point.

    bimacosr   y = RPReLU(conv(beta sign(x), alpha sign(R)) + bias) + S x + L x,   W = R + S + L
    xnor       y = K conv(sign(x), alpha sign(W)) + bias
    react      y = RPReLU(conv(sign(x - threshold), alpha sign(W)) + bias)
    ternary    y = conv(Q8(x), alpha clamp(round(W / alpha), -1, 1)) + bias
    w1a8       y = conv(Q8(x), alpha sign(W)) + bias,   w1a4 with Q4

alpha is the mean |W| of an output channel, beta the mean |x| of a pixel or token over its channels, K the mean of
beta under the kernel; Qb rounds to b bits, the largest |x| of a pixel or token being the end of the grid. All of them
are constants in the backward pass. Linear layers have no RPReLU. Zero padding pads
the binary map, so a padded position contributes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import nn

from compress.binary.branches import LowRank, RPReLU, Sparse
from compress.binary.packed import pack, unpack
from compress.binary.signs import BiRealSign, ClipSign, fake_quantise, ternary, trits
from compress.core.errors import UserError

Method = Literal["bimacosr", "xnor", "react", "ternary", "w1a8", "w1a4"]
METHODS = get_args(Method)
TERNARY_BITS = 2  # as stored; log2(3) = 1.58 is what a trit is worth
ACT_BITS = {"ternary": 8, "w1a8": 8, "w1a4": 4}


@dataclass(frozen=True)
class BinaryConfig:
    """How a layer is made binary. Raises UserError for an unknown method or a negative size.

    `released` reproduces the code that BiMaCoSR's checkpoint was trained with: sign(0) = 0, RPReLU starts as a
    leaky ReLU instead of the identity, and stride-2 convolutions add 2x2 means of their input in the place of S x
    and L x, although S and L were taken out of their weight.
    """

    method: Method = "bimacosr"
    binary: bool = True  # the binary branch
    low_rank: bool = True  # bimacosr only: the low-rank branch, L = B A
    sparse: bool = True  # bimacosr only: the sparse branch, S
    rank: int = 8  # of L; at most what the layer has
    nonzeros: int = 2  # entries of S, in multiples of max(C_in, C_out)
    released: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(
                f"binary layer: method '{self.method}' is unknown; choose one of {', '.join(METHODS)}"
            )
        if self.rank < 1 or self.nonzeros < 1:
            raise UserError(
                f"binary layer: rank ({self.rank}) and nonzeros ({self.nonzeros}) must be at least 1; "
                "switch a branch off with low_rank or sparse"
            )
        if not (self.binary or self.method == "bimacosr" and (self.low_rank or self.sparse)):
            raise UserError("binary layer: no branch is left; switch on binary, low_rank or sparse")


class BinaryLayer(nn.Module):
    """Base of the two layers: the structure of `layer`'s replacement, on its device and without values.

    `binarise` fills it. `weight` is what is left beside the branches; only its signs (or trits) and alpha matter, and
    they are all that remains of it after `pack`: bytes in `weight_packed`, alpha in `weight_scale`.
    """

    CHANNELS: int  # axis of the input's channels

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        config: BinaryConfig,
        stride: tuple[int, int] | None = None,
    ):
        super().__init__()
        self.config = config
        self.weight_bits = self.act_bits = None  # what compress.cost.count counts
        if config.binary:
            self.weight_bits = TERNARY_BITS if config.method == "ternary" else 1
            self.act_bits = ACT_BITS.get(config.method, 1)
        self.weight_shape = layer.weight.shape
        self.weight_packed = self.weight_scale = None
        self.weight = nn.Parameter(torch.empty_like(layer.weight)) if config.binary else None
        self.bias = None if layer.bias is None else nn.Parameter(torch.empty_like(layer.bias))
        outputs, inputs = layer.weight.shape[:2]
        combined = config.method == "bimacosr"
        curved = config.binary and config.method in ("bimacosr", "react") and stride is not None
        with torch.device(layer.weight.device):
            self.sparse = (
                Sparse(inputs, outputs, config.nonzeros, stride)
                if combined and config.sparse
                else None
            )
            self.low_rank = (
                LowRank(inputs, outputs, config.rank, stride)
                if combined and config.low_rank
                else None
            )
            self.threshold = nn.Parameter(torch.zeros(inputs)) if config.method == "react" else None
            self.rprelu = RPReLU(outputs, 0.25 if config.released else 1.0) if curved else None

    @property
    def branches(self) -> list[nn.Module]:
        """The full-precision ones, in the order in which they are taken out of the weight."""
        return [branch for branch in (self.sparse, self.low_rank) if branch is not None]

    @torch.no_grad()
    def initialise(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Take the values of the full-precision layer.

        S gets the largest entries of the kernel's spatial mean, L the mean of what is left, each taken out of the
        centre tap; R is the rest. R + S + L is `weight` up to rounding. Where that leaves R further from its signs than
        `weight` is from its own, as a mean that the centre tap does not have can, the centre tap stands for the mean.
        """
        if self.weight is not None:
            self.weight.copy_(weight)
            alone = (self.binary_weight() - weight).norm()
        rest = self._take_out(weight, lambda taps: taps.mean(dim=2))
        if (
            self.weight is not None
            and self.branches
            and (self.binary_weight() - rest).norm() >= alone
        ):
            self._take_out(weight, lambda taps: taps[..., taps.shape[2] // 2])
        if bias is not None:
            self.bias.copy_(bias)

    def _take_out(
        self, weight: torch.Tensor, of: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Fit the branches to `of` what is left [C_out, C_in, taps], one after the other; returns R."""
        rest = weight.clone().view(*weight.shape[:2], -1)
        for branch in self.branches:
            branch.fit(of(rest))
            rest[..., rest.shape[2] // 2] -= branch.dense()
        rest = rest.view_as(weight)
        if self.weight is not None:
            self.weight.copy_(rest)
        return rest

    @torch.no_grad()
    def load_released(self, state: dict[str, torch.Tensor]) -> None:
        """Take the values of one layer of BiMaCoSR's checkpoint, by its own names without the layer's."""
        self.weight.copy_(state["weight"])
        if self.bias is not None:
            self.bias.copy_(state["bias"])
        if self.rprelu is not None:
            for ours, theirs in (
                ("shift_in", "pr_bias0.bias"),
                ("prelu.weight", "pr_prelu.weight"),
                ("shift_out", "pr_bias1.bias"),
            ):
                self.rprelu.get_parameter(ours).copy_(state[f"relu.{theirs}"].flatten())
        if self.sparse is not None:
            row, column = state["skip_connection.indices_float"].long()
            index, order = (row * self.sparse.shape[1] + column).sort()
            self.sparse.index.copy_(index)
            self.sparse.entries.copy_(state["skip_connection.values"][order])
        if self.low_rank is not None:
            # A comes first in their convolutions and B in their linear layers.
            first, second = "AB" if self.CHANNELS == 1 else "BA"
            self.low_rank.down.weight.copy_(state[f"lora.{first}.weight"])
            self.low_rank.up.weight.copy_(state[f"lora.{second}.weight"])

    def alpha(self) -> torch.Tensor:
        """[C_out, 1, ...]: the scale of an output channel's signs."""
        return self.weight.detach().abs().mean(dim=tuple(range(1, self.weight.ndim)), keepdim=True)

    def binary_weight(self) -> torch.Tensor:
        """The weight as it acts, in the shape of the layer that was replaced."""
        if self.weight_packed is not None:
            return unpack(
                self.weight_packed, self.weight_scale, list(self.weight_shape), self.weight_bits
            )
        if self.config.method == "ternary":
            return ternary(self.weight, self.alpha())
        return ClipSign.apply(self.weight, self.alpha(), self.config.released)

    @torch.no_grad()
    def pack(self) -> None:
        """Freeze alpha and replace `weight` by its bits; the layer stays what it is, and learns no more."""
        if not self.config.binary or self.weight_packed is not None:
            return
        alpha = self.alpha()
        codes = (
            trits(self.weight, alpha) + 1 if self.config.method == "ternary" else self.weight >= 0
        )
        del self.weight, self.weight_packed, self.weight_scale
        self.weight = None
        self.register_buffer("weight_packed", pack(codes, self.weight_bits))
        self.register_buffer("weight_scale", alpha)

    def value_problem(self) -> tuple[str, str] | None:
        """A tensor's name and what is wrong with its value, of a model that was read from a file."""
        if self.weight_packed is None:
            return None
        if (self.weight_scale < 0).any():
            return (
                "weight_scale",
                f"holds {self.weight_scale.min().item():g}, and a scale is not negative",
            )
        high = (self.weight_packed >> 1) & self.weight_packed & 0b01010101
        if self.weight_bits == 2 and high.any():
            return "weight_packed", "holds the code 3; two bits have 0, 1 and 2"
        return None

    def beta(self, x: torch.Tensor) -> torch.Tensor:
        """Mean |x| over the channels, of which one stays."""
        return x.detach().abs().mean(dim=self.CHANNELS, keepdim=True)

    def binary_input(self, x: torch.Tensor) -> torch.Tensor:
        """What the binary product sees of `x`, in the same shape."""
        zero = self.config.released
        if self.config.method == "xnor":
            return ClipSign.apply(x, 1.0, zero)
        if self.config.method in ACT_BITS:
            return fake_quantise(x, self.act_bits, self.CHANNELS)
        if self.config.method == "react":
            return BiRealSign.apply(x - self.per_channel(self.threshold), zero)
        return self.beta(x) * BiRealSign.apply(x, zero)

    def binary_branch(self, x: torch.Tensor) -> torch.Tensor:
        """The binary product with its scales and the bias, before RPReLU."""
        y = self.product(self.binary_input(x), self.binary_weight())
        if self.config.method == "xnor":
            y = y * self.window_mean(self.beta(x))
        return y if self.bias is None else y + self.per_channel(self.bias)

    def per_channel(self, values: torch.Tensor) -> torch.Tensor:
        """[C] in the shape that broadcasts over a map."""
        raise NotImplementedError(f"{type(self).__name__} must say where its channels are")

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError(f"{type(self).__name__} must say how its weight acts")

    def window_mean(self, beta: torch.Tensor) -> torch.Tensor:
        """The mean of `beta` over what an output sees."""
        raise NotImplementedError(f"{type(self).__name__} must say what an output sees")

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        # diffusers hands some layers a scale that has had no effect since LoRA left the layers.
        parts = [branch(x) for branch in self.branches]
        if not self.config.binary:
            return sum(parts) if self.bias is None else sum(parts) + self.per_channel(self.bias)
        y = self.binary_branch(x)
        return sum(parts, y if self.rprelu is None else self.rprelu(y))


class BinaryConv2d(BinaryLayer):
    """In the place of a convolution; raises UserError for one whose centre tap is not above its output pixel."""

    CHANNELS = 1

    def __init__(self, layer: nn.Conv2d, config: BinaryConfig = BinaryConfig()):
        centred = all(k % 2 and p == k // 2 for k, p in zip(layer.kernel_size, layer.padding))
        if (
            not centred
            or layer.groups != 1
            or layer.dilation != (1, 1)
            or layer.padding_mode != "zeros"
        ):
            raise UserError(
                f"binary layer: {layer} cannot be made binary; it needs an odd kernel with zero padding of "
                "half its size, one group and no dilation"
            )
        super().__init__(layer, config, layer.stride)
        self.in_channels, self.out_channels, self.kernel_size = (
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
        )
        self.stride, self.padding = layer.stride, layer.padding

    def per_channel(self, values: torch.Tensor) -> torch.Tensor:
        return values[:, None, None]

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, weight, None, self.stride, self.padding)

    def window_mean(self, beta: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(beta, self.kernel_size, self.stride, self.padding)

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        if self.config.released and self.stride != (1, 1) and self.branches:
            return self.rprelu(self.binary_branch(x)) + F.avg_pool2d(x, self.stride)
        return super().forward(x)


class BinaryLinear(BinaryLayer):
    """In the place of a linear layer."""

    CHANNELS = -1

    def __init__(self, layer: nn.Linear, config: BinaryConfig = BinaryConfig()):
        super().__init__(layer, config)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def per_channel(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weight)

    def window_mean(self, beta: torch.Tensor) -> torch.Tensor:
        return beta


def binarise(layer: nn.Conv2d | nn.Linear, config: BinaryConfig = BinaryConfig()) -> BinaryLayer:
    """The binary layer for `layer`, with its values unless they are on the meta device. Raises UserError where
    `layer` is of another type or shape than the two layers take."""
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        raise UserError(
            f"binary layer: {type(layer).__name__} cannot be made binary; choose Conv2d and Linear layers"
        )
    binary = (BinaryConv2d if isinstance(layer, nn.Conv2d) else BinaryLinear)(layer, config)
    if not layer.weight.is_meta:
        binary.initialise(layer.weight, layer.bias)
    return binary.train(layer.training)
