"""Bias correction (DFQ, arXiv 1906.04721, eq. 17).

Rounding errors of a row of weights have a mean. The layer's mean input turns it into a constant
shift of the output. The bias takes that back.
"""

from typing import Any

import torch

from compress.quant.fit import layer_fit
from compress.quant.layers import QuantLayer
from compress.quant.objective import Run
from compress.quant.watch import Layers, watching_inputs


@torch.no_grad()
def correct_biases(
    layers: Layers,
    run: Run,
    inputs: list[Any],
) -> int:
    """Set the shift of every layer that has a bias and one group.

    Args:
        layers: (name, layer), in their learning state, with quantisers on.
        run: Runs them on one input.
        inputs: Of which the mean is taken.

    Returns:
        How many layers have a shift now.
    """
    means: dict[str, torch.Tensor] = {}

    def add(name: str, layer: QuantLayer, x: torch.Tensor) -> None:
        mean = x.mean((0, 2, 3)) if layer_fit(layer).conv else x.flatten(0, -2).mean(0)
        means[name] = means.get(name, 0) + mean / len(inputs)

    with watching_inputs(layers, add):
        for x in inputs:
            run(x)
    corrected = 0
    for name, layer in layers:
        if name not in means or layer.bias is None or layer.is_grouped:
            continue
        fit = layer_fit(layer)
        error = fit.quantised_weight(layer) - fit.residual(layer)  # [out, in, ...]
        per_input = error.flatten(2).sum(2) if error.ndim > 2 else error
        fit.shift = -per_input @ means[name]
        corrected += 1
    return corrected
