"""A tensor as the graph has it and as it lies in memory: reshapes and transposes that need not happen.

A `View` splits every axis into factors ("atoms"). `order` says which atoms make up the axes of the tensor that was
computed, `dims` which make up the axes that the original graph believes in. A Reshape or Transpose changes `dims`
alone. When an operator needs a certain order, `arrange` emits it, as transposes of at most four axes: any permutation
is a row of swaps of adjacent blocks, and [before, a, b, after] has four.
"""

from dataclasses import dataclass, replace
from itertools import count
from math import prod

import numpy as np
import onnx_ir as ir

from export.rewrites.edit import Before, array, constant

_ids = count()
Groups = list[list[int]]


@dataclass(frozen=True)
class View:
    """`base` has one axis for each list of `order`; axes of one element have an empty list."""

    base: ir.Value
    order: Groups
    dims: Groups
    sizes: dict[int, int]

    def of(self, atoms: list[int]) -> int:
        return prod(self.sizes[a] for a in atoms)

    @property
    def sides(self) -> tuple[int, ...]:
        """The shape that the original graph believes in."""
        return tuple(self.of(atoms) for atoms in self.dims)

    @property
    def base_sides(self) -> tuple[int, ...]:
        return tuple(self.of(atoms) for atoms in self.order)

    def axis(self, index: int) -> int:
        return index % len(self.dims)

    def split(self, atom: int, first: int) -> "View":
        """`atom` as two factors, the outer of size `first`."""
        outer, inner = next(_ids), next(_ids)

        def swap(groups: Groups) -> Groups:
            return [
                [b for a in group for b in ((outer, inner) if a == atom else (a,))]
                for group in groups
            ]

        sizes = {a: s for a, s in self.sizes.items() if a != atom}
        return View(
            self.base,
            swap(self.order),
            swap(self.dims),
            sizes | {outer: first, inner: self.sizes[atom] // first},
        )

    def reshaped(self, sides: tuple[int, ...]) -> "View | None":
        """With other dims of the same elements, or None where a factor would be cut unevenly."""
        view, at, dims = self, 0, []
        for side in sides:
            taken, have = [], 1
            while have < side:
                flat = [a for group in view.dims for a in group]
                atom = flat[at]
                size, wanted = view.sizes[atom], side // have
                if (
                    side % have
                    or (size > wanted and size % wanted)
                    or (size < wanted and wanted % size)
                ):
                    return None
                if size > wanted:
                    view = view.split(atom, wanted)
                    flat = [a for group in view.dims for a in group]
                taken.append(flat[at])
                have, at = have * view.sizes[flat[at]], at + 1
            dims.append(len(taken))
        flat = iter([a for group in view.dims for a in group])
        return replace(view, dims=[[next(flat) for _ in range(length)] for length in dims])

    def permuted(self, perm: list[int]) -> "View":
        return replace(self, dims=[self.dims[i] for i in perm])


def plain(base: ir.Value, sides: tuple[int, ...]) -> View:
    """A tensor that lies as the graph believes."""
    dims = [[next(_ids)] if side > 1 else [] for side in sides]
    return View(
        base, dims, dims, {atoms[0]: side for atoms, side in zip(dims, sides, strict=True) if atoms}
    )


def fresh(size: int) -> tuple[list[int], dict[int, int]]:
    """The atoms of a new axis."""
    if size == 1:
        return [], {}
    atom = next(_ids)
    return [atom], {atom: size}


def flatten(groups: Groups) -> list[int]:
    return [a for group in groups for a in group]


def align(a: View, b: View) -> tuple[View, View] | None:
    """Both with the same factors in every dim that neither broadcasts; ranks must agree. None where they clash."""
    for axis in range(len(a.dims)):
        if not a.dims[axis] or not b.dims[axis]:
            continue
        at = 0
        while at < len(a.dims[axis]) or at < len(b.dims[axis]):
            if at >= len(a.dims[axis]) or at >= len(b.dims[axis]):
                return None
            x, y = a.dims[axis][at], b.dims[axis][at]
            small = min(a.sizes[x], b.sizes[y])
            if a.sizes[x] % small or b.sizes[y] % small:
                return None
            a = a.split(x, small) if a.sizes[x] > small else a
            b = b.split(y, small) if b.sizes[y] > small else b
            at += 1
    return a, b


def renamed(view: View, like: View) -> View:
    """`view`, aligned with `like`, under the atoms of `like`; dims of one element stay empty."""
    names = {
        x: y
        for mine, theirs in zip(view.dims, like.dims, strict=True)
        if mine
        for x, y in zip(mine, theirs, strict=True)
    }
    swap = lambda groups: [[names[a] for a in group] for group in groups]  # noqa: E731
    return View(
        view.base,
        swap(view.order),
        swap(view.dims),
        {names[a]: size for a, size in view.sizes.items()},
    )


def arrange(view: View, groups: Groups, at: Before) -> View:
    """The same tensor with `groups` as the axes of its base; constants are rearranged here and now."""
    if view.order == groups:
        return view
    sides = [view.of(group) for group in groups]
    values = array(view.base)
    source, target = flatten(view.order), flatten(groups)
    if values is not None:
        moved = values.reshape([view.sizes[a] for a in source]).transpose(
            [source.index(a) for a in target]
        )
        return replace(
            view, base=constant(at.graph, moved.reshape(sides), "arranged"), order=groups
        )
    codes = _arrange_codes(view, groups, sides, at)
    if codes is not None:
        return replace(view, base=codes, order=groups)
    if len(groups) == len(view.order) and sorted(filter(None, groups)) == sorted(
        filter(None, view.order)
    ):
        return replace(view, base=at.transpose(view.base, _axes(view.order, groups)), order=groups)
    base, have = view.base, list(view.base_sides)
    while source != target:
        blocks = _blocks(source, target)
        if len(blocks) <= 4:
            wanted = sorted(range(len(blocks)), key=lambda i: target.index(blocks[i][0]))
        else:
            blocks, wanted = _swap(blocks, target)
        pad = 4 - len(blocks)  # never fewer than four axes
        blocks, wanted = [[]] * pad + blocks, [*range(pad), *(i + pad for i in wanted)]
        sizes = [view.of(block) for block in blocks]
        base = base if have == sizes else at.reshape(base, sizes)
        base = at.transpose(base, wanted)
        source = flatten([blocks[i] for i in wanted])
        have = [sizes[i] for i in wanted]
    return replace(view, base=base if have == sides else at.reshape(base, sides), order=groups)


def _arrange_codes(view: View, groups: Groups, sides: list[int], at: Before) -> ir.Value | None:
    """A weight that is stored as integers keeps them: its codes are rearranged, not what they stand for."""
    node = view.base.producer()
    if node is None or node.op_type != "DequantizeLinear" or array(node.inputs[0]) is None:
        return None
    codes, scale = array(node.inputs[0]), array(node.inputs[1])
    attributes = {}
    if scale is None or "block_size" in node.attributes and node.attributes["block_size"].value:
        return None
    if scale.size > 1:
        axis = node.attributes["axis"].value if "axis" in node.attributes else 1
        channel = view.order[axis % len(view.order)]
        if channel not in groups:
            return None
        attributes["axis"] = groups.index(channel)
    source, target = flatten(view.order), flatten(groups)
    moved = codes.reshape([view.sizes[a] for a in source]).transpose(
        [source.index(a) for a in target]
    )
    tensor = ir.tensor(np.ascontiguousarray(moved.reshape(sides)), dtype=node.inputs[0].dtype)
    return at(
        "DequantizeLinear", constant(at.graph, tensor, "codes"), *node.inputs[1:], **attributes
    )


def _axes(source: Groups, target: Groups) -> list[int]:
    """The permutation that turns one list of groups into another of the same, empty ones in their order."""
    left = list(range(len(source)))
    perm = []
    for group in target:
        index = next(i for i in left if source[i] == group)
        left.remove(index)
        perm.append(index)
    return perm


def _blocks(source: list[int], target: list[int]) -> Groups:
    """Runs of atoms that stay together."""
    place = {a: i for i, a in enumerate(target)}
    blocks: Groups = []
    for a in source:
        if blocks and place[a] == place[blocks[-1][-1]] + 1:
            blocks[-1].append(a)
        else:
            blocks.append([a])
    return blocks


def _swap(blocks: Groups, target: list[int]) -> tuple[Groups, list[int]]:
    """Four axes, two of them swapped, after which one more block stands where it belongs."""
    ordered = sorted(blocks, key=lambda block: target.index(block[0]))
    first = next(i for i, block in enumerate(blocks) if block != ordered[i])
    wanted = ordered[first]
    j = blocks.index(wanted)
    parts = [flatten(blocks[:first]), flatten(blocks[first:j]), wanted, flatten(blocks[j + 1 :])]
    kept = [i for i, part in enumerate(parts) if part]
    merged = [parts[i] for i in kept]
    return merged, [kept.index(i) for i in (0, 2, 1, 3) if i in kept]
