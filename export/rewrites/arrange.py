"""A view laid out in a certain order, by transposes of at most four axes.

Any permutation is a row of swaps of adjacent blocks, and [before, a, b, after] has four axes.
Constants are rearranged at once, and weights that are stored as integers keep their codes.
"""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from export.graphs.edit import Before, array, attribute, constant, maker_of, operand
from export.rewrites.views import Groups, View, flatten

MAX_AXES = 4


def arrange(view: View, groups: Groups, at: Before) -> View:
    """The same tensor with `groups` as the axes of its base.

    Args:
        view: The tensor.
        groups: All of its factors, one list for each axis of the new base.
        at: Where new nodes go.
    """
    if view.order == groups:
        return view
    return replace(view, base=_arranged(view, groups, at), order=groups)


def _arranged(view: View, groups: Groups, at: Before) -> ir.Value:
    values = array(view.base)
    if values is not None:
        return constant(at.graph, _rearranged(values, view, groups), "arranged")
    codes = _arranged_codes(view, groups, at)
    if codes is not None:
        return codes
    if _same_axes(view.order, groups):
        return at.transpose(view.base, _permutation(view.order, groups))
    return _in_steps(view, groups, at)


def _rearranged(values: np.ndarray, view: View, groups: Groups) -> np.ndarray:
    """`values`, which lie as `view.order` says, with `groups` as axes."""
    source = flatten(view.order)
    perm = [source.index(factor) for factor in flatten(groups)]
    moved = values.reshape([view.sizes[factor] for factor in source]).transpose(perm)
    return moved.reshape([view.size_of(group) for group in groups])


def _arranged_codes(view: View, groups: Groups, at: Before) -> ir.Value | None:
    """A weight that is stored as integers, with its codes rearranged; None for other tensors."""
    node = maker_of(view.base, "DequantizeLinear")
    if node is None:
        return None
    codes = array(node.inputs[0])
    scale = array(node.inputs[1])
    if codes is None or scale is None or attribute(node, "block_size"):
        return None
    attributes = {}
    if scale.size > 1:
        channel = view.order[attribute(node, "axis", 1) % len(view.order)]
        if channel not in groups:
            return None
        attributes["axis"] = groups.index(channel)
    moved = np.ascontiguousarray(_rearranged(codes, view, groups))
    tensor = ir.tensor(moved, dtype=operand(node, 0).dtype)
    stored = constant(at.graph, tensor, "codes")
    return at("DequantizeLinear", stored, *node.inputs[1:], **attributes)


def _same_axes(source: Groups, target: Groups) -> bool:
    """Whether both have the same axes, whatever their order."""
    return len(source) == len(target) and sorted(filter(None, source)) == sorted(
        filter(None, target)
    )


def _permutation(source: Groups, target: Groups) -> list[int]:
    """The order of axes that turns `source` into `target`; empty groups keep their order."""
    left = list(range(len(source)))
    perm = []
    for group in target:
        index = next(i for i in left if source[i] == group)
        left.remove(index)
        perm.append(index)
    return perm


def _in_steps(view: View, groups: Groups, at: Before) -> ir.Value:
    """The base with other axes, by reshapes and as many transposes of four axes as that takes."""
    base = view.base
    sides = list(view.base_sides)
    source = flatten(view.order)
    target = flatten(groups)
    while source != target:
        blocks, perm = _next_transpose(source, target)
        sizes = [view.size_of(block) for block in blocks]
        base = at.transpose(_reshaped(base, sides, sizes, at), perm)
        source = flatten([blocks[index] for index in perm])
        sides = [sizes[index] for index in perm]
    return _reshaped(base, sides, [view.size_of(group) for group in groups], at)


def _reshaped(base: ir.Value, have: list[int], sides: list[int], at: Before) -> ir.Value:
    if have == sides:
        return base
    return at.reshape(base, sides)


def _next_transpose(source: list[int], target: list[int]) -> tuple[Groups, list[int]]:
    """Four axes and their new order, that bring `source` nearer to `target` or all the way."""
    blocks = _blocks(source, target)
    if len(blocks) <= MAX_AXES:
        perm = sorted(range(len(blocks)), key=lambda i: target.index(blocks[i][0]))
    else:
        blocks, perm = _swap(blocks, target)
    missing = MAX_AXES - len(blocks)  # never fewer than four axes
    padding: Groups = [[]] * missing
    return padding + blocks, [*range(missing), *(index + missing for index in perm)]


def _blocks(source: list[int], target: list[int]) -> Groups:
    """Runs of factors that stay together."""
    place = {factor: index for index, factor in enumerate(target)}
    blocks: Groups = []
    for factor in source:
        if blocks and place[factor] == place[blocks[-1][-1]] + 1:
            blocks[-1].append(factor)
        else:
            blocks.append([factor])
    return blocks


def _swap(blocks: Groups, target: list[int]) -> tuple[Groups, list[int]]:
    """At most four axes, two of them swapped: one more block then stands where it belongs."""
    ordered = sorted(blocks, key=lambda block: target.index(block[0]))
    first = next(i for i, block in enumerate(blocks) if block != ordered[i])
    moved = blocks.index(ordered[first])
    parts = [
        flatten(blocks[:first]),
        flatten(blocks[first:moved]),
        blocks[moved],
        flatten(blocks[moved + 1 :]),
    ]
    swapped = [parts[0], parts[2], parts[1], parts[3]]
    axes = [part for part in parts if part]
    return axes, [axes.index(part) for part in swapped if part]
