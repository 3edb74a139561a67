"""`fake_quantize` of large weights, one block of rows after another.

The arithmetic reads and writes all values eight times, and its gradient as often again. In blocks
of rows they stay in the processor's cache. The gradient computes each block again, so that nothing
but the weight has to be kept for it. Rows do not depend on each other: results and gradients are
those of the whole, to the bit.
"""

import torch

from compress.quant.affine import Grid, fake_quantize, per_channel, rows_at_once


def fake_quantize_weight(
    weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor, grid: Grid
) -> torch.Tensor:
    """Quantise and dequantise a weight per output channel.

    Args:
        weight: [out, ...].
        low: Lower boundaries, [out].
        high: Upper boundaries, [out].
        grid: The codes.

    Returns:
        The weight rounded to the grid, [out, ...]. Gradients as of `fake_quantize`.
    """
    low_rows = per_channel(low, weight.ndim)
    high_rows = per_channel(high, weight.ndim)
    return _FakeQuantizeRows.apply(weight, low_rows, high_rows, grid)


class _FakeQuantizeRows(torch.autograd.Function):
    """`fake_quantize(weight, low, high, grid)` in blocks of rows."""

    @staticmethod
    def forward(
        ctx, weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor, grid: Grid
    ) -> torch.Tensor:
        ctx.save_for_backward(weight, low, high)
        ctx.grid = grid
        rounded = torch.empty_like(weight)
        rows = rows_at_once(weight)
        tensors = (rounded, weight, low, high)
        for out, part, lower, upper in zip(
            *(tensor.split(rows) for tensor in tensors), strict=True
        ):
            out.copy_(fake_quantize(part, lower, upper, grid))
        return rounded

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs = ctx.saved_tensors
        needed = ctx.needs_input_grad[: len(inputs)]
        rows = rows_at_once(inputs[0])
        found: list[list[torch.Tensor]] = [[] for _ in inputs]
        for part, *block in zip(*(t.split(rows) for t in (gradient, *inputs)), strict=True):
            leaves = [t.detach().requires_grad_(n) for t, n in zip(block, needed, strict=True)]
            values, low, high = leaves
            with torch.enable_grad():
                rounded = fake_quantize(values, low, high, ctx.grid)
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            gradients = iter(torch.autograd.grad(rounded, wanted, part))
            for leaf, of_leaf in zip(leaves, found, strict=True):
                if leaf.requires_grad:
                    of_leaf.append(next(gradients))
        return (*(torch.cat(blocks) if blocks else None for blocks in found), None)
