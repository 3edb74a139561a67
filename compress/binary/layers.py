"""Convolution and linear layers with weights of one or two bits and inputs of one, four or eight.

config.py says what each method computes. All are *simulations*: products of +-1 are computed in
floating point.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from compress.binary.branches import LowRank, RPReLU, Sparse
from compress.binary.config import ACT_BITS, DEFAULT, BinaryConfig
from compress.binary.packed import pack, unpack
from compress.binary.signs import (
    BiRealSign,
    ClipSign,
    fake_quantize_dynamic,
    ternary,
    trits,
)
from compress.core.errors import UserError

LEAKY_SLOPE = 0.25  # of RPReLU in BiMaCoSR's released code
ODD_BITS = 0b01010101  # the lower bit of each of a byte's four codes


def _mean_of_taps(weight: torch.Tensor) -> torch.Tensor:
    """[C_out, C_in, taps] -> [C_out, C_in]."""
    return weight.mean(dim=2)


def _centre_tap(weight: torch.Tensor) -> torch.Tensor:
    """[C_out, C_in, taps] -> [C_out, C_in]."""
    return weight[..., weight.shape[2] // 2]


class BinaryLayer(nn.Module):
    """Base of the two layers: the structure of `layer`'s replacement, without its values.

    `binarise` fills it.

    Args:
        layer: What is replaced. Shape, bias and device are taken from it.
        config: How it is made binary.
        stride: Of a convolution; None for a linear layer.

    Attributes:
        weight: What is left beside the branches. Only its signs (or ternary digits) and alpha
            matter. None without a binary branch, and after `pack`.
        weight_packed: After `pack`, the signs as bytes.
        weight_scale: After `pack`, alpha.
    """

    CHANNELS: int  # axis of the input's channels

    weight: nn.Parameter | None
    weight_packed: torch.Tensor | None
    weight_scale: torch.Tensor | None

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        config: BinaryConfig,
        stride: tuple[int, int] | None = None,
    ):
        super().__init__()
        self.config = config
        self.weight_bits = config.weight_bits
        self.act_bits = config.act_bits
        self.weight_shape = layer.weight.shape
        self.weight_packed = None
        self.weight_scale = None
        self.weight = nn.Parameter(torch.empty_like(layer.weight)) if config.binary else None
        self.bias: nn.Parameter | None = None
        if layer.bias is not None:
            self.bias = nn.Parameter(torch.empty_like(layer.bias))
        with torch.device(layer.weight.device):
            self._add_branches(stride)

    def _add_branches(self, stride: tuple[int, int] | None) -> None:
        """Make what the method has beside the binary product."""
        config = self.config
        outputs, inputs = self.weight_shape[:2]
        is_combined = config.method == "bimacosr"
        self.sparse: Sparse | None = None
        self.low_rank: LowRank | None = None
        self.threshold: nn.Parameter | None = None
        self.rprelu: RPReLU | None = None
        if is_combined and config.sparse:
            self.sparse = Sparse(inputs, outputs, config.nonzeros, stride)
        if is_combined and config.low_rank:
            self.low_rank = LowRank(inputs, outputs, config.rank, stride)
        if config.method == "react":
            self.threshold = nn.Parameter(torch.zeros(inputs))
        if config.binary and config.method in ("bimacosr", "react") and stride is not None:
            self.rprelu = RPReLU(outputs, LEAKY_SLOPE if config.released else 1.0)

    @property
    def branches(self) -> list[Sparse | LowRank]:
        """Those in full precision, in the order in which they are taken out of the weight."""
        return [branch for branch in (self.sparse, self.low_rank) if branch is not None]

    @property
    def latent_weight(self) -> nn.Parameter:
        """What signs are taken of, [C_out, C_in, ...].

        Raises:
            RuntimeError: There is no binary branch, or it is packed.
        """
        if self.weight is None:
            raise RuntimeError("the binary layer has no weight in full precision")
        return self.weight

    @torch.no_grad()
    def initialise(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Take the values of the full-precision layer.

        S gets the largest entries of the kernel's spatial mean, L the mean of what is left. Each is
        taken out of the centre tap; R is the rest. R + S + L is `weight` up to rounding. A mean
        that the centre tap does not have can leave R further from its signs than `weight` is from
        its own. There the centre tap stands for the mean.

        Args:
            weight: [C_out, C_in, ...].
            bias: [C_out] or None.
        """
        if bias is not None and self.bias is not None:
            self.bias.copy_(bias)
        if self.weight is None:
            self._take_out(weight, _mean_of_taps)
            return
        self.weight.copy_(weight)
        distance = (self.binary_weight() - weight).norm()
        rest = self._take_out(weight, _mean_of_taps)
        if self.branches and (self.binary_weight() - rest).norm() >= distance:
            self._take_out(weight, _centre_tap)

    def _take_out(
        self, weight: torch.Tensor, reduce: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Fit the branches one after the other, each to `reduce` of what is left; returns R."""
        rest = weight.clone().view(*weight.shape[:2], -1)
        for branch in self.branches:
            branch.fit(reduce(rest))
            rest[..., rest.shape[2] // 2] -= branch.dense()
        rest = rest.view_as(weight)
        if self.weight is not None:
            self.weight.copy_(rest)
        return rest

    def alpha(self) -> torch.Tensor:
        """The scale of an output channel's signs, [C_out, 1, ...]."""
        weight = self.latent_weight.detach()
        return weight.abs().mean(dim=tuple(range(1, weight.ndim)), keepdim=True)

    def binary_weight(self) -> torch.Tensor:
        """The weight as it acts, in the shape of the layer that was replaced."""
        if self.weight_packed is not None:
            shape = list(self.weight_shape)
            return unpack(self.weight_packed, self.weight_scale, shape, self.weight_bits)
        if self.config.method == "ternary":
            return ternary(self.latent_weight, self.alpha())
        return ClipSign.apply(self.latent_weight, self.alpha(), self.config.released)

    @torch.no_grad()
    def pack(self) -> None:
        """Freeze alpha and replace `weight` by its bits. The layer learns no more."""
        if self.weight_bits is None or self.weight_packed is not None:
            return
        alpha = self.alpha()
        if self.config.method == "ternary":
            codes = trits(self.latent_weight, alpha) + 1
        else:
            codes = self.latent_weight >= 0
        del self.weight, self.weight_packed, self.weight_scale
        self.weight = None
        self.register_buffer("weight_packed", pack(codes, self.weight_bits))
        self.register_buffer("weight_scale", alpha)

    def value_problem(self) -> tuple[str, str] | None:
        """A tensor's name and what is wrong with its value, of a model read from a file."""
        if self.weight_packed is None or self.weight_scale is None:
            return None
        if (self.weight_scale < 0).any():
            least = self.weight_scale.min().item()
            return "weight_scale", f"holds {least:g}, and a scale is not negative"
        both_bits = (self.weight_packed >> 1) & self.weight_packed & ODD_BITS
        if self.weight_bits == 2 and both_bits.any():
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
            return fake_quantize_dynamic(x, ACT_BITS[self.config.method], self.CHANNELS)
        if self.threshold is not None:
            return BiRealSign.apply(x - self.per_channel(self.threshold), zero)
        return self.beta(x) * BiRealSign.apply(x, zero)

    def binary_branch(self, x: torch.Tensor) -> torch.Tensor:
        """The binary product with its scales and the bias, before RPReLU."""
        y = self.product(self.binary_input(x), self.binary_weight())
        if self.config.method == "xnor":
            y = y * self.window_mean(self.beta(x))
        return self._add_bias(y)

    def _add_bias(self, y: torch.Tensor) -> torch.Tensor:
        if self.bias is None:
            return y
        return y + self.per_channel(self.bias)

    def per_channel(self, values: torch.Tensor) -> torch.Tensor:
        """[C] in the shape that broadcasts over the layer's input."""
        raise NotImplementedError(f"{type(self).__name__} must say where its channels are")

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The layer's linear map with `weight` [C_out, C_in, ...], without a bias."""
        raise NotImplementedError(f"{type(self).__name__} must say how its weight acts")

    def window_mean(self, beta: torch.Tensor) -> torch.Tensor:
        """The mean of `beta` over what an output sees."""
        raise NotImplementedError(f"{type(self).__name__} must say what an output sees")

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """Compute the layer's result.

        The further arguments are ignored. diffusers hands some layers a scale that has had no
        effect since LoRA left the layers.
        """
        parts = [branch(x) for branch in self.branches]
        if not self.config.binary:
            return self._add_bias(sum(parts))
        y = self.binary_branch(x)
        return sum(parts, y if self.rprelu is None else self.rprelu(y))


def _is_centred(layer: nn.Conv2d) -> bool:
    """Whether the kernel's centre tap lies above its output pixel."""
    if isinstance(layer.padding, str):
        return False
    for kernel, padding in zip(layer.kernel_size, layer.padding, strict=True):
        if kernel % 2 == 0 or padding != kernel // 2:
            return False
    return True


class BinaryConv2d(BinaryLayer):
    """In the place of a convolution: [B, C_in, h, w] -> [B, C_out, h', w'].

    Raises:
        UserError: The convolution's centre tap is not above its output pixel, or it has groups or
            a dilation.
    """

    CHANNELS = 1

    def __init__(self, layer: nn.Conv2d, config: BinaryConfig = DEFAULT):
        is_plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
        if not is_plain or not _is_centred(layer):
            raise UserError(
                f"binary layer: {layer} cannot be made binary; it needs an odd kernel with zero "
                "padding of half its size, one group and no dilation"
            )
        super().__init__(layer, config, (layer.stride[0], layer.stride[1]))
        self.in_channels = layer.in_channels
        self.out_channels = layer.out_channels
        self.kernel_size = layer.kernel_size
        self.stride = layer.stride
        self.padding = tuple(side // 2 for side in layer.kernel_size)

    def per_channel(self, values: torch.Tensor) -> torch.Tensor:
        """[C] -> [C, 1, 1]."""
        return values[:, None, None]

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Convolve with `weight`."""
        return F.conv2d(x, weight, None, self.stride, self.padding)

    def window_mean(self, beta: torch.Tensor) -> torch.Tensor:
        """[B, 1, h, w] -> [B, 1, h', w']."""
        return F.avg_pool2d(beta, self.kernel_size, self.stride, self.padding)

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """As the base, but for the released code's convolutions with a stride."""
        is_released = self.config.released and self.stride != (1, 1)
        if is_released and self.branches and self.rprelu is not None:
            return self.rprelu(self.binary_branch(x)) + F.avg_pool2d(x, self.stride)
        return super().forward(x)


class BinaryLinear(BinaryLayer):
    """In the place of a linear layer: [..., C_in] -> [..., C_out]."""

    CHANNELS = -1

    def __init__(self, layer: nn.Linear, config: BinaryConfig = DEFAULT):
        super().__init__(layer, config)
        self.in_features = layer.in_features
        self.out_features = layer.out_features

    def per_channel(self, values: torch.Tensor) -> torch.Tensor:
        """[C], as it is."""
        return values

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Multiply with `weight`."""
        return F.linear(x, weight)

    def window_mean(self, beta: torch.Tensor) -> torch.Tensor:
        """A token's output sees the token alone."""
        return beta


def binarise(layer: nn.Module, config: BinaryConfig = DEFAULT) -> BinaryLayer:
    """Make the binary layer for `layer`, with its values unless they are on the meta device.

    Raises:
        UserError: `layer` is of another type or shape than the two layers take.
    """
    binary: BinaryLayer
    if isinstance(layer, nn.Conv2d):
        binary = BinaryConv2d(layer, config)
    elif isinstance(layer, nn.Linear):
        binary = BinaryLinear(layer, config)
    else:
        raise UserError(
            f"binary layer: {type(layer).__name__} cannot be made binary; choose Conv2d and Linear "
            "layers"
        )
    if not layer.weight.is_meta:
        binary.initialise(layer.weight, layer.bias)
    binary.train(layer.training)
    return binary
