"""The learning state of quantisers and quantised layers.

While a pass fits a model, a `RangeFit` stands in for every quantiser and a `LayerFit` for every
quantised layer. They hold observed ranges, learned boundaries, the float weight and an equivalent
transform. `freeze` writes the result into the layer and leaves the state.

A *boundary* is one end of a quantiser's range.
"""

import math
from typing import Literal

import torch
from torch import nn

from compress.quant.affine import (
    best_shrink,
    fake_quantize,
    qparams,
    quantize_weight,
)
from compress.quant.bias_range import input_scale, room_for_bias, round_bias
from compress.quant.equivalent import Transform, on_channels
from compress.quant.kept_weight import KeptWeight
from compress.quant.layers import QuantConv2d, QuantLayer
from compress.quant.quantiser import ByStep, TensorQuantiser
from compress.quant.row_blocks import fake_quantize_weight

SAMPLES = 1 << 16  # of an activation, kept for the choice of its first boundaries
IMAGES = 8  # over which the samples are spread
# `observe` watches and computes in float, `float` only computes, `quantise` is differentiable.
Mode = Literal["observe", "float", "quantise"]


class RangeFit(nn.Module):
    """The range of one tensor, while it is observed and learned.

    Boundaries are initial values times the exponential of a parameter. So steps are relative, and
    no boundary can change its sign or cross zero.

    Args:
        device: Of the parameter.

    Attributes:
        low: Least value, or the lower boundary's initial value.
        high: Greatest value, or the upper boundary's initial value.
        samples: Some of the values, one entry a call.
        log: Logarithms of the factors of both boundaries, learned.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.mode: Mode = "observe"
        self.low = torch.full((), math.inf, device=device)
        self.high = torch.full((), -math.inf, device=device)
        self.samples: list[torch.Tensor] = []
        self.log = nn.Parameter(torch.zeros(2, device=device))

    @property
    def is_observed(self) -> bool:
        """Whether the tensor was computed at all."""
        return bool(self.samples)

    @torch.no_grad()
    def observe(self, x: torch.Tensor) -> None:
        """Widen the range to the values of `x`, of any shape, and keep some of them."""
        self.low = torch.minimum(self.low, x.amin())
        self.high = torch.maximum(self.high, x.amax())
        # A fixed stride rather than a random choice: the same samples on every run.
        stride = max(1, x.numel() // (SAMPLES // IMAGES))
        self.samples.append(x.flatten()[::stride].clone())

    @torch.no_grad()
    def start(
        self, quantiser: TensorQuantiser, search: bool, samples: torch.Tensor | None = None
    ) -> None:
        """Set the initial boundaries.

        Args:
            quantiser: Whose range this is.
            search: Whether to shrink them for the least square error; they are the extremes
                otherwise.
            samples: Of which values, [n]; None for those that were observed.
        """
        if samples is None:
            # With the extremes among the samples, a rare outlier cannot be clipped for free.
            samples = torch.cat([*self.samples, self.low[None], self.high[None]])
        self.low = samples.amin().clamp(max=0)
        self.high = samples.amax().clamp(min=0)
        self.log.zero_()
        if search and not quantiser.pinned:
            row = samples.reshape(1, -1)
            factors = best_shrink(row, self.low[None], self.high[None], quantiser.grid)
            self.log.add_(torch.cat(factors).log())

    def range(self, quantiser: TensorQuantiser) -> tuple[torch.Tensor, torch.Tensor]:
        """Both boundaries, scalars."""
        if quantiser.pinned:
            top = quantiser.grid.qmax
            return torch.zeros_like(self.low), torch.full_like(self.low, top / (top + 1))
        return self.low * self.log[0].exp(), self.high * self.log[1].exp()

    def forward(self, x: torch.Tensor, quantiser: TensorQuantiser) -> torch.Tensor:
        """Compute what the quantiser does in the present mode."""
        if self.mode == "observe":
            self.observe(x.detach())
        if self.mode != "quantise":
            return x
        return fake_quantize(x, *self.range(quantiser), quantiser.grid)


class LayerFit(nn.Module):
    """A layer's float weight and what is learned about it.

    The ranges of its input and output are in their quantisers' `fit`. Weights have one symmetric
    boundary per output channel, or two.

    Args:
        weight: The float weight, [out, in, ...].
        conv: Whether the layer reads a map, and not tokens.

    Attributes:
        transform: The equivalent transform of the input, or None.
        channel_low: Least value of every input channel, [in].
        channel_high: Greatest value of every input channel, [in].
        samples: Some of the input's values, [in, n], one entry a call.
        weight_low: Lower boundary's initial value, [out].
        weight_high: Upper boundary's initial value, [out].
        weight_log: Logarithms of the factors of both, [2, out], learned.
        rounded: A weight whose rounding was chosen (rounding.py), or None.
        shift: What bias correction adds, [out] (correction.py), or None.
    """

    def __init__(self, weight: torch.Tensor, conv: bool):
        super().__init__()
        self.weight = weight.detach().float()
        self.conv = conv
        self.mode: Mode = "observe"
        self.transform: Transform | None = None
        # Scalars, until the first input says how many channels there are.
        self.channel_low = torch.full((), math.inf, device=weight.device)
        self.channel_high = torch.full((), -math.inf, device=weight.device)
        self.samples: list[torch.Tensor] = []
        self.weight_low = torch.zeros(weight.shape[0], device=weight.device)
        self.weight_high = torch.zeros(weight.shape[0], device=weight.device)
        self.weight_log = nn.Parameter(torch.zeros(2, weight.shape[0], device=weight.device))
        self.rounded: torch.Tensor | None = None
        self.shift: torch.Tensor | None = None
        self._plain_factors: torch.Tensor | None = None
        self._kept = KeptWeight()

    @property
    def is_observed(self) -> bool:
        """Whether the input was computed at all."""
        return bool(self.samples)

    def observe(self, x: torch.Tensor) -> None:
        """Widen the ranges of the input's channels to `x`, and keep some of its values."""
        x = x.detach()
        # [in, positions]
        channels = x.transpose(0, 1).flatten(1) if self.conv else x.flatten(0, -2).T
        self.channel_low = torch.minimum(self.channel_low, channels.amin(1))
        self.channel_high = torch.maximum(self.channel_high, channels.amax(1))
        # A fixed stride rather than a random choice: the same samples on every run.
        per_channel_samples = max(1, SAMPLES // channels.shape[0] // IMAGES)
        stride = max(1, channels.shape[1] // per_channel_samples)
        self.samples.append(channels[:, ::stride].clone())

    def input_samples(self) -> torch.Tensor:
        """Samples of the transformed input, its extremes among them, [n, in]."""
        # With the extremes among the samples, a rare outlier cannot be clipped for free.
        extremes = [self.channel_low[:, None], self.channel_high[:, None]]
        samples = torch.cat([*self.samples, *extremes], dim=1).T
        return samples if self.transform is None else self.transform.apply_to(samples)

    @torch.no_grad()
    def start(self, layer: QuantLayer, search_input: bool, search_weight: bool) -> None:
        """Set the initial boundaries, and the low-rank branch, from what was observed.

        Args:
            layer: Whose state this is.
            search_input: Whether the input's boundaries are shrunk for the least square error; they
                are the extremes otherwise.
            search_weight: The same for the weight's.
        """
        if isinstance(layer.input, TensorQuantiser):
            samples = self.input_samples().flatten()
            range_fit(layer.input).start(layer.input, search_input, samples)
        if layer.branch is not None:
            layer.branch.set(self.transformed_weight())
        weight = self.residual(layer).flatten(1)
        self.weight_low = weight.amin(1).clamp(max=0)
        self.weight_high = weight.amax(1).clamp(min=0)
        if layer.weight_grid.symmetric:
            self.weight_high = torch.maximum(-self.weight_low, self.weight_high)
            self.weight_low = -self.weight_high
        self.weight_log.zero_()
        self.rounded = None
        self.shift = None
        if search_weight:
            self.weight_log.add_(self._searched_factors(weight, layer).log())

    def _searched_factors(self, weight: torch.Tensor, layer: QuantLayer) -> torch.Tensor:
        """The boundaries' factors of the least square error, [2, out].

        The float weight as it is comes several times, with the same result.
        """
        is_plain = self.transform is None and layer.branch is None
        if is_plain and self._plain_factors is not None:
            return self._plain_factors
        found = best_shrink(weight, self.weight_low, self.weight_high, layer.weight_grid)
        factors = torch.stack(found)
        if is_plain:
            self._plain_factors = factors
        return factors

    def transformed_weight(self) -> torch.Tensor:
        """The float weight times the transform's scale, [out, in, ...]."""
        if self.transform is None:
            return self.weight
        return self.weight * on_channels(self.transform.scale, self.weight, self.conv)

    def residual(self, layer: QuantLayer) -> torch.Tensor:
        """The weight that is quantised: without what the low-rank branch holds."""
        weight = self.transformed_weight()
        return weight if layer.branch is None else weight - layer.branch.weight()

    def weight_range(self, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Both boundaries of the weight's rows, [out] each."""
        factor = self.weight_log.exp()
        low_factor = factor[1] if symmetric else factor[0]
        return self.weight_low * low_factor, self.weight_high * factor[1]

    def on_grid(self, layer: QuantLayer) -> torch.Tensor:
        """The weight that rounding to nearest puts on the grid.

        It is the residual as it is, or as error feedback has rounded it.
        """
        return self.residual(layer) if self.rounded is None else self.rounded

    def quantised_weight(self, layer: QuantLayer) -> torch.Tensor:
        """The weight on its grid, [out, in, ...], differentiable in the boundaries."""
        made_from = [self.weight, self.weight_low, self.weight_high, self.weight_log, self.rounded]
        if self.transform is not None:
            made_from += self.transform.parameters()
        if not torch.is_grad_enabled():
            kept = self._kept.get(made_from)
            if kept is not None:
                return kept
        low, high = self.weight_range(layer.weight_grid.symmetric)
        weight = fake_quantize_weight(self.on_grid(layer), low, high, layer.weight_grid)
        self._kept = KeptWeight() if torch.is_grad_enabled() else KeptWeight(weight, made_from)
        return weight

    def transformed_bias(self, bias: torch.Tensor | None) -> torch.Tensor | None:
        """The bias [out] with the response to the offset and with the shift.

        Only layers without zero padding have an offset.
        """
        if self.transform is not None and self.transform.offset is not None:
            bias = _sum(bias, self.weight.flatten(1) @ self.transform.offset)
        return bias if self.shift is None else _sum(bias, self.shift)

    def forward(self, x: torch.Tensor, layer: QuantLayer) -> torch.Tensor:
        """Compute what the layer does in the present mode."""
        if self.mode == "observe":
            self.observe(x)
            if isinstance(layer.input, ByStep):
                layer.input(x)  # each step's range watches for itself
        if self.mode != "quantise":
            return layer.quantise_output(layer.apply_weight(x, self.weight, layer.bias))
        if self.transform is not None:
            x = self.transform.apply_to(x, self.conv)
        quantised = layer.quantise_input(x)
        weight = self.quantised_weight(layer)
        y = layer.apply_weight(quantised, weight, self.transformed_bias(layer.bias))
        return layer.quantise_output(layer.add_branch(y, x))


def _sum(bias: torch.Tensor | None, summand: torch.Tensor) -> torch.Tensor:
    return summand if bias is None else bias + summand


def layer_fit(layer: QuantLayer) -> LayerFit:
    """The learning state of a layer. Raises RuntimeError for one that is finished."""
    if not isinstance(layer.fit, LayerFit):
        raise RuntimeError("the quantised layer is finished, it has no learning state any more")
    return layer.fit


def range_fit(quantiser: TensorQuantiser) -> RangeFit:
    """The learning state of a quantiser. Raises RuntimeError for one that is finished."""
    if not isinstance(quantiser.fit, RangeFit):
        raise RuntimeError("the quantiser is finished, it has no learning state any more")
    return quantiser.fit


def begin(layer: QuantLayer, weight: torch.Tensor) -> None:
    """Put a converted layer into its learning state with the float `weight` it replaces."""
    layer.fit = LayerFit(weight, isinstance(layer, QuantConv2d))
    begin_ranges(layer)


def begin_ranges(module: nn.Module) -> None:
    """Put all quantisers in `module` that are not at it yet into their learning state."""
    for quantiser in module.modules():
        if isinstance(quantiser, TensorQuantiser) and quantiser.fit is None:
            quantiser.fit = RangeFit(quantiser.scale.device)


@torch.no_grad()
def freeze_range(quantiser: TensorQuantiser) -> None:
    """Write scale and zero point into the quantiser's buffers and leave the learning state."""
    low, high = range_fit(quantiser).range(quantiser)
    scale, zero_point = qparams(low, high, quantiser.grid)
    quantiser.set(scale, zero_point.to(torch.int64))
    quantiser.fit = None


@torch.no_grad()
def freeze(layer: QuantLayer, folded: bool = False) -> None:
    """Write codes, scales and zero points into the layer's buffers and leave the learning state.

    A transform goes into weight and bias here.

    Args:
        layer: In its learning state.
        folded: Whether the caller has folded the transform into what makes the input. It goes into
            `premultiply` otherwise.
    """
    fit = layer_fit(layer)
    for quantiser in (layer.input, layer.output):
        for one in () if quantiser is None else quantiser.quantisers():
            freeze_range(one)
    if fit.transform is not None and not folded:
        if layer.premultiply is None:
            raise RuntimeError("a transform that nothing absorbs needs a buffer for its factors")
        layer.premultiply.copy_(1 / fit.transform.scale)
    grid = layer.weight_grid
    low, high = fit.weight_range(grid.symmetric)
    bias = fit.transformed_bias(layer.bias)
    if bias is not None:
        low, high = room_for_bias(low, high, bias, input_scale(layer, fit.input_samples()), grid)
        layer.bias = nn.Parameter(bias.clone(), requires_grad=False)
    stored, scale, zero_point = quantize_weight(fit.on_grid(layer), low, high, grid)
    layer.weight_q.copy_(stored)
    layer.weight_scale.copy_(scale)
    layer.weight_zero_point.copy_(zero_point)
    round_bias(layer)
    layer.fit = None
