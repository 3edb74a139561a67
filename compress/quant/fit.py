"""The learning state of quantisers and quantised layers: observed ranges, boundaries, float weight, transform."""

import torch
from torch import nn

from compress.quant.affine import best_shrink, fake_quantize, per_channel, qparams, quantize_weight
from compress.quant.equivalent import on_channels
from compress.quant.layers import QuantConv2d, QuantLayer, TensorQuantiser

SAMPLES = 1 << 16  # of an activation, kept for the choice of its first boundaries


class Transform(nn.Module):
    """Scale and offset per input channel of a LET, shared by all layers that read one tensor."""

    def __init__(self, scale: torch.Tensor, offset: torch.Tensor | None):
        super().__init__()
        self.log_scale = nn.Parameter(scale.log())
        self.offset = None if offset is None else nn.Parameter(offset.clone())

    @property
    def scale(self) -> torch.Tensor:
        return self.log_scale.exp()

    def apply_to(self, x: torch.Tensor, conv: bool = False) -> torch.Tensor:
        """(x - o) / s over the channels of a map (`conv`) or of tokens."""
        shifted = x if self.offset is None else x - on_channels(self.offset, x, conv)
        return shifted / on_channels(self.scale, x, conv)


class RangeFit(nn.Module):
    """The range of one tensor. `mode` is `observe` (float, watching), `float`, or `quantise` (differentiable).

    Boundaries are initial values times the exponential of a parameter: steps are relative, and no boundary can
    change its sign or cross zero.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.mode = "observe"
        self.low = self.high = None
        self.samples: list[torch.Tensor] = []
        self.log = nn.Parameter(torch.zeros(2, device=device))

    @torch.no_grad()
    def observe(self, x: torch.Tensor) -> None:
        low, high = x.amin(), x.amax()
        first = self.low is None
        self.low = low if first else torch.minimum(self.low, low)
        self.high = high if first else torch.maximum(self.high, high)
        # A fixed stride rather than a random choice: the same samples on every run.
        self.samples.append(x.flatten()[:: max(1, x.numel() // (SAMPLES // 8))].clone())

    @torch.no_grad()
    def start(
        self, quantiser: TensorQuantiser, search: bool, samples: torch.Tensor | None = None
    ) -> None:
        """Initial boundaries: the extremes of `samples` (None: of what was observed), or shrunk for least square error."""
        if samples is None:
            # With the extremes among the samples, a rare outlier cannot be clipped for free.
            samples = torch.cat([*self.samples, self.low[None], self.high[None]])
        self.low, self.high = samples.amin().clamp(max=0), samples.amax().clamp(min=0)
        self.log.zero_()
        if search and not quantiser.pinned:
            self.log += torch.cat(
                best_shrink(samples.reshape(1, -1), self.low[None], self.high[None], quantiser.grid)
            ).log()

    def range(self, quantiser: TensorQuantiser) -> tuple[torch.Tensor, torch.Tensor]:
        if quantiser.pinned:
            top = quantiser.grid.qmax
            return torch.zeros_like(self.low), torch.full_like(self.low, top / (top + 1))
        return self.low * self.log[0].exp(), self.high * self.log[1].exp()

    def forward(self, x: torch.Tensor, quantiser: TensorQuantiser) -> torch.Tensor:
        if self.mode == "observe":
            self.observe(x.detach())
        return (
            fake_quantize(x, *self.range(quantiser), quantiser.grid)
            if self.mode == "quantise"
            else x
        )


class LayerFit(nn.Module):
    """A layer's float weight and what is learned about it; the ranges of its tensors are in their quantisers' `fit`.

    Weights have one symmetric boundary per output channel, or two. `rounded` is a weight whose rounding was chosen (see
    quant/rounding.py), `shift` [out] what bias correction adds (quant/correction.py).
    """

    def __init__(self, weight: torch.Tensor, conv: bool):
        super().__init__()
        self.weight, self.conv, self.mode = weight.detach().float(), conv, "observe"
        self.transform: Transform | None = None
        self.channel_low = self.channel_high = None  # of the input, [in]
        self.samples: list[torch.Tensor] = []
        self.weight_log = nn.Parameter(torch.zeros(2, weight.shape[0], device=weight.device))
        self.rounded: torch.Tensor | None = None
        self.shift: torch.Tensor | None = None

    def observe(self, x: torch.Tensor) -> None:
        x = x.detach()
        channels = (
            x.transpose(0, 1).flatten(1) if self.conv else x.flatten(0, -2).T
        )  # [in, positions]
        low, high = channels.amin(1), channels.amax(1)
        first = self.channel_low is None
        self.channel_low = low if first else torch.minimum(self.channel_low, low)
        self.channel_high = high if first else torch.maximum(self.channel_high, high)
        # A fixed stride rather than a random choice: the same samples on every run.
        stride = max(1, channels.shape[1] // max(1, SAMPLES // channels.shape[0] // 8))
        self.samples.append(channels[:, ::stride].clone())

    def input_samples(self) -> torch.Tensor:
        """[n, in]: samples of the transformed input, its extremes among them."""
        # With the extremes among the samples, a rare outlier cannot be clipped for free.
        samples = torch.cat(
            [*self.samples, self.channel_low[:, None], self.channel_high[:, None]], dim=1
        ).T
        return samples if self.transform is None else self.transform.apply_to(samples)

    @torch.no_grad()
    def start(self, layer: QuantLayer, search_input: bool, search_weight: bool) -> None:
        """Initial boundaries from what was observed: min and max, or (search) shrunk for the least square error."""
        if layer.input is not None:
            layer.input.fit.start(layer.input, search_input, self.input_samples().flatten())
        if layer.branch is not None:
            layer.branch.set(self.transformed_weight())
        weight = self.residual(layer).flatten(1)
        self.weight_low, self.weight_high = weight.amin(1).clamp(max=0), weight.amax(1).clamp(min=0)
        if layer.weight_grid.symmetric:
            self.weight_high = torch.maximum(-self.weight_low, self.weight_high)
            self.weight_low = -self.weight_high
        self.weight_log.zero_()
        self.rounded = self.shift = None
        if search_weight:
            weights = best_shrink(weight, self.weight_low, self.weight_high, layer.weight_grid)
            self.weight_log += torch.stack(weights).log()

    def transformed_weight(self) -> torch.Tensor:
        if self.transform is None:
            return self.weight
        return self.weight * on_channels(self.transform.scale, self.weight, self.conv)

    def residual(self, layer: QuantLayer) -> torch.Tensor:
        """The weight that is quantised: without what the low-rank branch holds."""
        weight = self.transformed_weight()
        return weight if layer.branch is None else weight - layer.branch.weight()

    def weight_range(self, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
        factor = self.weight_log.exp()
        if symmetric:
            return self.weight_low * factor[1], self.weight_high * factor[1]
        return self.weight_low * factor[0], self.weight_high * factor[1]

    def on_grid(self, layer: QuantLayer) -> torch.Tensor:
        """The weight that rounding to nearest puts on the grid: as it is, or as error feedback has rounded it."""
        return self.residual(layer) if self.rounded is None else self.rounded

    def quantised_weight(self, layer: QuantLayer) -> torch.Tensor:
        weight = self.on_grid(layer)
        low, high = (
            per_channel(b, weight.ndim) for b in self.weight_range(layer.weight_grid.symmetric)
        )
        return fake_quantize(weight, low, high, layer.weight_grid)

    def transformed_bias(self, bias: torch.Tensor | None) -> torch.Tensor | None:
        """The bias with the response to the offset; only layers without zero padding have an offset."""
        if self.transform is not None and self.transform.offset is not None:
            response = self.weight.flatten(1) @ self.transform.offset
            bias = response if bias is None else bias + response
        if self.shift is not None:
            bias = self.shift if bias is None else bias + self.shift
        return bias

    def forward(self, x: torch.Tensor, layer: QuantLayer) -> torch.Tensor:
        if self.mode == "observe":
            self.observe(x)
        if self.mode != "quantise":
            y = layer.apply_weight(x, self.weight, layer.bias)
            return y if layer.output is None else layer.output(y)
        if self.transform is not None:
            x = self.transform.apply_to(x, self.conv)
        quantised = x if layer.input is None else layer.input(x)
        y = layer.apply_weight(
            quantised, self.quantised_weight(layer), self.transformed_bias(layer.bias)
        )
        if layer.branch is not None:
            y = y + layer.branch(x, layer)
        return y if layer.output is None else layer.output(y)


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
    scale, zero_point = qparams(*quantiser.fit.range(quantiser), quantiser.grid)
    quantiser.set(scale, zero_point.to(torch.int64))
    quantiser.fit = None


@torch.no_grad()
def freeze(layer: QuantLayer, folded: bool = False) -> None:
    """Write codes, scales and zero points into the layer's buffers and leave the learning state.

    A transform goes into weight and bias here, and into `premultiply` unless the caller has `folded` it into what makes
    the input.
    """
    fit = layer.fit
    for quantiser in (layer.input, layer.output):
        if quantiser is not None:
            freeze_range(quantiser)
    if fit.transform is not None and not folded:
        layer.premultiply.copy_(1 / fit.transform.scale)
    low, high = fit.weight_range(layer.weight_grid.symmetric)
    stored, scale, zero_point = quantize_weight(fit.on_grid(layer), low, high, layer.weight_grid)
    layer.weight_q.copy_(stored)
    layer.weight_scale.copy_(scale)
    layer.weight_zero_point.copy_(zero_point)
    bias = fit.transformed_bias(layer.bias)
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone(), requires_grad=False)
    layer.fit = None
