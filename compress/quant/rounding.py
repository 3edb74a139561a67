"""Weights rounded for the layer's output instead of each to its nearest code (AdaRound's objective, arXiv 2004.10568,
eq. 8), by error feedback in closed form (GPTQ, arXiv 2210.17323, section 3): no step size, no iterations.

With H = E[x x^T] of the layer's quantised input, the columns of W are rounded one after another, and what rounding
column i did to the output is made up for by the columns that are not rounded yet.
"""

import torch
import torch.nn.functional as F
from torch import nn

from compress.quant.affine import codes, qparams
from compress.quant.flow import paused
from compress.quant.layers import QuantConv2d, QuantLayer

POSITIONS = 4096  # of an input that enter H, per image
DAMPING = 0.01  # of H's mean diagonal, added to it


def columns(x: torch.Tensor, layer: QuantLayer) -> torch.Tensor:
    """What the rows of the layer's weight are multiplied with: [in * kernel, positions]."""
    if not isinstance(layer, QuantConv2d):
        return x.flatten(0, -2).T
    if layer.kernel_size == (1, 1):
        return x[..., :: layer.stride[0], :: layer.stride[1]].transpose(0, 1).flatten(1)
    unfolded = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return unfolded.transpose(0, 1).flatten(1)


class SecondMoments:
    """Sums x x^T over what reaches every layer while `component` runs with quantisers on."""

    def __init__(self, layers: list[tuple[str, QuantLayer]]):
        self.sums: dict[str, torch.Tensor] = {}
        self.handles = [layer.register_forward_pre_hook(self._hook(name)) for name, layer in layers]

    def _hook(self, name: str):
        def add(layer: QuantLayer, args: tuple) -> None:
            with paused():
                x = args[0].detach()
                if layer.fit.transform is not None:
                    x = layer.fit.transform.apply_to(x, layer.fit.conv)
                if layer.input is not None:
                    x = layer.input(x)
                seen = columns(x, layer)
                seen = seen[:, :: max(1, seen.shape[1] // POSITIONS)]
                total = seen @ seen.T
                self.sums[name] = total if name not in self.sums else self.sums[name] + total

        return add

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


@torch.no_grad()
def feedback(
    weight: torch.Tensor,
    moments: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    layer: QuantLayer,
) -> torch.Tensor:
    """`weight` [out, ...] on the grid of its rows' boundaries, rounded with error feedback under `moments`."""
    rows = weight.flatten(1).double().clone()
    grid = layer.weight_grid
    scale, zero_point = (v.double() for v in qparams(low, high, grid))
    hessian = moments.double()
    dead = hessian.diagonal() == 0
    hessian = hessian + torch.diag(torch.where(dead, 1.0, DAMPING * hessian.diagonal().mean()))
    # Upper Cholesky factor of the inverse: row i holds how an error in column i spreads to the later columns.
    spread = torch.linalg.cholesky(
        torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True
    )
    result = torch.empty_like(rows)
    for i in range(rows.shape[1]):
        on_grid = (codes(rows[:, i], scale, zero_point, grid) - zero_point) * scale
        result[:, i] = on_grid
        error = (rows[:, i] - on_grid) / spread[i, i]
        rows[:, i + 1 :] -= error[:, None] * spread[i, i + 1 :]
    return result.view(weight.shape).to(weight.dtype)


@torch.no_grad()
def round_weights(
    component: nn.Module, layers: list[tuple[str, QuantLayer]], run, inputs: list[torch.Tensor]
) -> None:
    """Choose the rounding of every layer of a component that is in its learning state, with quantisers on."""
    moments = SecondMoments(layers)
    try:
        for x in inputs:
            run(x)
    finally:
        moments.close()
    for name, layer in layers:
        grouped = getattr(layer, "groups", 1) != 1
        if name in moments.sums and not grouped:
            fit = layer.fit
            low, high = fit.weight_range(layer.weight_grid.symmetric)
            fit.rounded = feedback(fit.residual(layer), moments.sums[name], low, high, layer)
