"""A tensor as the graph has it and as it lies in memory: reshapes and transposes that need not be.

A `View` splits every axis into factors. `order` says which factors make up the axes of the tensor
that was computed; `dims` which make up the axes that the original graph believes in. A Reshape or a
Transpose changes `dims` alone. Where an operator needs a certain order, `arrange` (arrange.py)
emits it.

A factor is named by a number. `Groups` are lists of factors, one list for each axis.
"""

from dataclasses import dataclass, replace
from itertools import count, pairwise
from math import prod

import onnx_ir as ir

_ids = count()
Groups = list[list[int]]


class NotExpressible(Exception):  # noqa: N818  it is an answer of a rewrite, and not a mistake
    """A rewrite cannot say what a node does without reshapes; the text says why."""


@dataclass(frozen=True)
class View:
    """A tensor of the new graph that stands for one of the old.

    Attributes:
        base: The tensor. It has one axis for each list of `order`.
        order: The factors of the axes of `base`; an axis of one element has an empty list.
        dims: The factors of the axes that the original graph believes in.
        sizes: Factor -> how many elements it counts.
    """

    base: ir.Value
    order: Groups
    dims: Groups
    sizes: dict[int, int]

    def size_of(self, factors: list[int]) -> int:
        """The elements that these factors count together."""
        return prod(self.sizes[factor] for factor in factors)

    @property
    def sides(self) -> tuple[int, ...]:
        """The shape that the original graph believes in."""
        return tuple(self.size_of(factors) for factors in self.dims)

    @property
    def base_sides(self) -> tuple[int, ...]:
        """The shape of `base`."""
        return tuple(self.size_of(factors) for factors in self.order)

    def axis(self, index: int) -> int:
        """An axis of `dims`, counted from the front; `index` may be negative."""
        return index % len(self.dims)

    def split(self, factor: int, first: int) -> "View":
        """`factor` as two, the outer of size `first`; itself where it has that size."""
        size = self.sizes[factor]
        if size == first:
            return self
        outer = next(_ids)
        inner = next(_ids)
        sizes = {other: n for other, n in self.sizes.items() if other != factor}
        sizes |= {outer: first, inner: size // first}
        order = substitute(self.order, [factor], [outer, inner])
        dims = substitute(self.dims, [factor], [outer, inner])
        return View(self.base, order, dims, sizes)

    def reshaped(self, sides: tuple[int, ...]) -> "View":
        """With dims of other sides, of the same elements.

        Raises:
            NotExpressible: A factor would be cut unevenly.
        """
        view = self
        ends = [0]
        for side in sides:
            place = ends[-1]
            have = 1
            while have < side:
                view = view._fitted(place, have, side)
                have *= view.sizes[flatten(view.dims)[place]]
                place += 1
            ends.append(place)
        factors = flatten(view.dims)
        dims = [factors[first:last] for first, last in pairwise(ends)]
        return replace(view, dims=dims)

    def _fitted(self, place: int, have: int, side: int) -> "View":
        """The factor at `place` cut so that it completes `have` elements to at most `side`."""
        factor = flatten(self.dims)[place]
        size = self.sizes[factor]
        wanted, rest = divmod(side, have)
        if rest or max(size, wanted) % min(size, wanted):
            raise NotExpressible(f"{size} elements cannot be cut into rows of {wanted}")
        return self.split(factor, min(size, wanted))

    def permuted(self, perm: list[int]) -> "View":
        """With the dims in the order `perm`."""
        return replace(self, dims=[self.dims[index] for index in perm])

    def with_dim(self, axis: int, factors: list[int]) -> "View":
        """With `factors` as one of the dims."""
        return replace(self, dims=[*self.dims[:axis], factors, *self.dims[axis + 1 :]])


def plain(base: ir.Value, sides: tuple[int, ...]) -> View:
    """A tensor of shape `sides` that lies as the graph believes."""
    dims = []
    sizes: dict[int, int] = {}
    for side in sides:
        factors, new = fresh(side)
        dims.append(factors)
        sizes |= new
    return View(base, dims, dims, sizes)


def fresh(size: int) -> tuple[list[int], dict[int, int]]:
    """The factors of a new axis of `size` elements, and their sizes."""
    if size == 1:
        return [], {}
    factor = next(_ids)
    return [factor], {factor: size}


def flatten(groups: Groups) -> list[int]:
    """The factors of all groups, one after the other."""
    factors: list[int] = []
    for group in groups:
        factors += group
    return factors


def substitute(groups: Groups, old: list[int], new: list[int]) -> Groups:
    """The groups with `new` where the factors `old` stand, one after the other, in one group."""
    substituted = []
    for group in groups:
        place = group.index(old[0]) if old[0] in group else len(group)
        end = place + len(old)
        if group[place:end] == old:
            group = [*group[:place], *new, *group[end:]]
        substituted.append(group)
    return substituted


def renaming(source: Groups, target: Groups) -> dict[int, int]:
    """Factor of `source` -> factor of `target`, for groups that agree; empty groups are skipped."""
    mapped: dict[int, int] = {}
    for mine, theirs in zip(source, target, strict=True):
        if mine:
            mapped.update(zip(mine, theirs, strict=True))
    return mapped


def rename(groups: Groups, mapped: dict[int, int]) -> Groups:
    """The groups with every factor under its new name."""
    renamed_groups = []
    for group in groups:
        renamed_groups.append([mapped[factor] for factor in group])
    return renamed_groups


def renamed(view: View, like: View) -> View:
    """`view`, aligned with `like`, under the factors of `like`; dims of one element stay empty."""
    mapped = renaming(view.dims, like.dims)
    sizes = {mapped[factor]: size for factor, size in view.sizes.items()}
    return View(view.base, rename(view.order, mapped), rename(view.dims, mapped), sizes)


def align(a: View, b: View) -> tuple[View, View]:
    """Both with the same factors in every dim that neither broadcasts; their ranks must agree.

    Raises:
        NotExpressible: A dim has factors that do not divide each other.
    """
    for axis in range(len(a.dims)):
        if a.dims[axis] and b.dims[axis]:
            a, b = _align_dim(a, b, axis)
    return a, b


def _align_dim(a: View, b: View, axis: int) -> tuple[View, View]:
    place = 0
    while place < max(len(a.dims[axis]), len(b.dims[axis])):
        if place >= min(len(a.dims[axis]), len(b.dims[axis])):
            raise NotExpressible(f"the sides of axis {axis} differ")
        x = a.dims[axis][place]
        y = b.dims[axis][place]
        small = min(a.sizes[x], b.sizes[y])
        if a.sizes[x] % small or b.sizes[y] % small:
            raise NotExpressible(f"the factors {a.sizes[x]} and {b.sizes[y]} have no common cut")
        a = a.split(x, small)
        b = b.split(y, small)
        place += 1
    return a, b
