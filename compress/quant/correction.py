"""Bias correction (DFQ, arXiv 1906.04721, eq. 17): rounding errors of a row of weights have a mean, which the layer's
mean input turns into a constant shift of its output. The bias takes it back."""

import torch

from compress.quant.flow import paused
from compress.quant.layers import QuantConv2d, QuantLayer


@torch.no_grad()
def correct_biases(layers: list[tuple[str, QuantLayer]], run, inputs: list[torch.Tensor]) -> int:
    """Set the shift of every layer that has a bias, from its mean input with quantisers on; returns how many have one."""
    means: dict[str, torch.Tensor] = {}

    def watch(name: str):
        def add(layer: QuantLayer, args: tuple) -> None:
            with paused():
                x = args[0].detach()
                if layer.fit.transform is not None:
                    x = layer.fit.transform.apply_to(x, layer.fit.conv)
                mean = x.mean((0, 2, 3)) if layer.fit.conv else x.flatten(0, -2).mean(0)
                means[name] = means.get(name, 0) + mean / len(inputs)

        return add

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers]
    try:
        for x in inputs:
            run(x)
    finally:
        for handle in handles:
            handle.remove()
    corrected = 0
    for name, layer in layers:
        grouped = isinstance(layer, QuantConv2d) and layer.groups != 1
        if name not in means or layer.bias is None or grouped:
            continue
        error = layer.fit.quantised_weight(layer) - layer.fit.residual(layer)  # [out, in, ...]
        layer.fit.shift = -(error.flatten(2).sum(2) if error.ndim > 2 else error) @ means[name]
        corrected += 1
    return corrected
