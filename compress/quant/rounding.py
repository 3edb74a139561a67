"""Weights rounded for the layer's output instead of each to its nearest code.

The objective is AdaRound's (arXiv 2004.10568, eq. 8). The solution is error feedback in closed form
(GPTQ, arXiv 2210.17323, section 3), without a step size and without iterations. With H = E[x x^T]
of the layer's quantised input, the columns of W are rounded one after another. What rounding column
i did to the output is made up for by the columns that are not rounded yet.
"""

from typing import Any

import torch
import torch.nn.functional as F

from compress.quant.affine import codes, qparams
from compress.quant.fit import layer_fit
from compress.quant.layers import QuantConv2d, QuantLayer
from compress.quant.objective import Run
from compress.quant.watch import Layers, watching_inputs

POSITIONS = 4096  # of an input that enter H, per image
DAMPING = 0.01  # of H's mean diagonal, added to it


def columns(x: torch.Tensor, layer: QuantLayer) -> torch.Tensor:
    """What the rows of the layer's weight are multiplied with.

    Args:
        x: The layer's input, a map or tokens.
        layer: The layer.

    Returns:
        [in * kernel, positions].
    """
    if not isinstance(layer, QuantConv2d):
        return x.flatten(0, -2).T
    if layer.kernel_size == (1, 1):
        return x[..., :: layer.stride[0], :: layer.stride[1]].transpose(0, 1).flatten(1)
    if isinstance(layer.padding, str):
        raise ValueError(f"a convolution with padding '{layer.padding}' has no columns here")
    unfolded = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return unfolded.transpose(0, 1).flatten(1)


@torch.no_grad()
def feedback(
    weight: torch.Tensor,
    moments: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    layer: QuantLayer,
) -> torch.Tensor:
    """Round a weight with error feedback.

    Args:
        weight: [out, ...].
        moments: H of the layer's input, [in * kernel, in * kernel].
        low: Lower boundaries of the rows, [out].
        high: Upper boundaries of the rows, [out].
        layer: The layer, for its grid.

    Returns:
        The weight on its grid, [out, ...].
    """
    rows = weight.flatten(1).double().clone()
    grid = layer.weight_grid
    scale, zero_point = qparams(low, high, grid)
    scale = scale.double()
    zero_point = zero_point.double()
    hessian = moments.double()
    is_dead = hessian.diagonal() == 0
    damping = DAMPING * hessian.diagonal().mean()
    hessian = hessian + torch.diag(torch.where(is_dead, 1.0, damping))
    # Upper Cholesky factor of the inverse: row i holds how an error in column i spreads to the
    # later columns.
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    spread = torch.linalg.cholesky(inverse, upper=True)
    result = torch.empty_like(rows)
    for i in range(rows.shape[1]):
        on_grid = (codes(rows[:, i], scale, zero_point, grid) - zero_point) * scale
        result[:, i] = on_grid
        error = (rows[:, i] - on_grid) / spread[i, i]
        rows[:, i + 1 :] -= error[:, None] * spread[i, i + 1 :]
    return result.view(weight.shape).to(weight.dtype)


@torch.no_grad()
def round_weights(
    layers: Layers,
    run: Run,
    inputs: list[Any],
) -> None:
    """Choose the rounding of every layer that has one group.

    Args:
        layers: (name, layer), in their learning state, with quantisers on.
        run: Runs them on one input.
        inputs: Of which H is taken.
    """
    moments: dict[str, torch.Tensor] = {}

    def add(name: str, layer: QuantLayer, x: torch.Tensor) -> None:
        seen = columns(layer.quantise_input(x), layer)
        seen = seen[:, :: max(1, seen.shape[1] // POSITIONS)]
        total = seen @ seen.T
        moments[name] = moments[name] + total if name in moments else total

    with watching_inputs(layers, add):
        for x in inputs:
            run(x)
    for name, layer in layers:
        if name in moments and not layer.is_grouped:
            fit = layer_fit(layer)
            low, high = fit.weight_range(layer.weight_grid.symmetric)
            fit.rounded = feedback(fit.residual(layer), moments[name], low, high, layer)
