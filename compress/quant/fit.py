"""The learning state of a quantised layer: float weight, observed ranges, learnable boundaries and transform."""

import torch
from torch import nn

from compress.quant.affine import best_shrink, fake_quantize, per_channel, qparams, quantize_weight
from compress.quant.equivalent import on_channels
from compress.quant.layers import QuantConv2d, QuantLayer

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


class LayerFit(nn.Module):
    """`mode` is `observe` (float, watching the input), `float`, or `quantise` (simulated, differentiable).

    Boundaries are initial values times the exponential of a parameter: steps are relative, and no boundary can
    change its sign or cross zero. Weights have one symmetric boundary per output channel, or two.
    """

    def __init__(self, weight: torch.Tensor, conv: bool):
        super().__init__()
        self.weight, self.conv, self.mode = weight.detach().float(), conv, "observe"
        self.transform: Transform | None = None
        self.low = self.high = None                       # of the input, scalars
        self.out_low = self.out_high = None               # of the output, scalars
        self.channel_low = self.channel_high = None       # of the input, [in]
        self.samples: list[torch.Tensor] = []
        self.act_log = nn.Parameter(torch.zeros(2))
        self.out_log = nn.Parameter(torch.zeros(2))
        self.weight_log = nn.Parameter(torch.zeros(2, weight.shape[0]))

    def observe(self, x: torch.Tensor) -> None:
        x = x.detach()
        channels = x.transpose(0, 1).flatten(1) if self.conv else x.flatten(0, -2).T  # [in, positions]
        low, high = channels.amin(1), channels.amax(1)
        first = self.channel_low is None
        self.channel_low = low if first else torch.minimum(self.channel_low, low)
        self.channel_high = high if first else torch.maximum(self.channel_high, high)
        # A fixed stride rather than a random choice: the same samples on every run.
        stride = max(1, channels.shape[1] // max(1, SAMPLES // channels.shape[0] // 8))
        self.samples.append(channels[:, ::stride].clone())

    def observe_output(self, y: torch.Tensor) -> None:
        low, high = y.detach().amin().clamp(max=0), y.detach().amax().clamp(min=0)
        first = self.out_low is None
        self.out_low = low if first else torch.minimum(self.out_low, low)
        self.out_high = high if first else torch.maximum(self.out_high, high)

    @torch.no_grad()
    def start(self, layer: QuantLayer, search_input: bool, search_weight: bool) -> None:
        """Initial boundaries from what was observed: min and max, or (search) shrunk for the least square error."""
        low, high = self.channel_low, self.channel_high  # [in]
        # With the extremes among the samples, a rare outlier cannot be clipped for free.
        samples = torch.cat([*self.samples, low[:, None], high[:, None]], dim=1).T  # [n, in]
        if self.transform is not None:
            samples, low, high = (self.transform.apply_to(v) for v in (samples, low, high))
        self.low, self.high = low.amin().clamp(max=0), high.amax().clamp(min=0)
        weight = self.transformed_weight().flatten(1)
        self.weight_low, self.weight_high = weight.amin(1).clamp(max=0), weight.amax(1).clamp(min=0)
        if layer.weight_grid.symmetric:
            self.weight_high = torch.maximum(-self.weight_low, self.weight_high)
            self.weight_low = -self.weight_high
        for parameter in (self.act_log, self.out_log, self.weight_log):
            parameter.zero_()
        if search_input:
            act = best_shrink(samples.reshape(1, -1), self.low[None], self.high[None], layer.input.grid)
            self.act_log += torch.cat(act).log()
        if search_weight:
            weights = best_shrink(weight, self.weight_low, self.weight_high, layer.weight_grid)
            self.weight_log += torch.stack(weights).log()

    def transformed_weight(self) -> torch.Tensor:
        if self.transform is None:
            return self.weight
        return self.weight * on_channels(self.transform.scale, self.weight, self.conv)

    def act_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.low * self.act_log[0].exp(), self.high * self.act_log[1].exp()

    def out_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.out_low * self.out_log[0].exp(), self.out_high * self.out_log[1].exp()

    def weight_range(self, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
        factor = self.weight_log.exp()
        if symmetric:
            return self.weight_low * factor[1], self.weight_high * factor[1]
        return self.weight_low * factor[0], self.weight_high * factor[1]

    def transformed_bias(self, bias: torch.Tensor | None) -> torch.Tensor | None:
        """The bias with the response to the offset; only layers without zero padding have an offset."""
        if self.transform is None or self.transform.offset is None:
            return bias
        response = self.weight.flatten(1) @ self.transform.offset
        return response if bias is None else bias + response

    def forward(self, x: torch.Tensor, layer: QuantLayer) -> torch.Tensor:
        if self.mode == "observe":
            self.observe(x)
        if self.mode != "quantise":
            y = layer.apply_weight(x, self.weight, layer.bias)
            if self.mode == "observe" and layer.output is not None:
                self.observe_output(y)
            return y
        if self.transform is not None:
            x = self.transform.apply_to(x, self.conv)
        x = fake_quantize(x, *self.act_range(), layer.input.grid)
        weight = self.transformed_weight()
        low, high = (per_channel(b, weight.ndim) for b in self.weight_range(layer.weight_grid.symmetric))
        y = layer.apply_weight(x, fake_quantize(weight, low, high, layer.weight_grid),
                               self.transformed_bias(layer.bias))
        return y if layer.output is None else fake_quantize(y, *self.out_range(), layer.output.grid)

    def boundaries(self) -> list[nn.Parameter]:
        """What is learned once the transforms are: all logarithmic factors of ranges."""
        return [self.act_log, self.out_log, self.weight_log]


def begin(layer: QuantLayer, weight: torch.Tensor) -> None:
    """Put a converted layer into its learning state with the float `weight` it replaces."""
    layer.fit = LayerFit(weight, isinstance(layer, QuantConv2d))


@torch.no_grad()
def freeze(layer: QuantLayer) -> None:
    """Write codes, scales and zero points into the layer's buffers and leave the learning state.

    A transform must be folded into the producer of the input by the caller; here it goes into weight and bias.
    """
    fit = layer.fit
    scale, zero_point = qparams(*fit.act_range(), layer.input.grid)
    layer.input.set(scale, zero_point.to(torch.int64))
    if layer.output is not None:
        layer.output.set(*qparams(*fit.out_range(), layer.output.grid))
    low, high = fit.weight_range(layer.weight_grid.symmetric)
    stored, scale, zero_point = quantize_weight(fit.transformed_weight(), low, high, layer.weight_grid)
    layer.weight_q.copy_(stored)
    layer.weight_scale.copy_(scale)
    layer.weight_zero_point.copy_(zero_point)
    bias = fit.transformed_bias(layer.bias)
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone(), requires_grad=False)
    layer.fit = None
