"""Orders of axes that operators ask for."""

import onnx_ir as ir

from export.rewrites.arrange import arrange
from export.rewrites.four_d.writer import Writer
from export.rewrites.views import Groups, View, flatten, fresh, substitute

AXES = 4


def compact(groups: Groups, count: int) -> Groups:
    """The same factors in exactly `count` axes.

    The first axes are joined where there are more, and empty ones put in front where there are
    fewer.
    """
    if len(groups) > count:
        joined = len(groups) - count + 1
        return [flatten(groups[:joined]), *groups[joined:]]
    empty: Groups = [[]] * (count - len(groups))
    return empty + groups


def without(view: View, factors: list[int]) -> Groups:
    """The factors of `view` but for `factors` as they lie, one list for each axis that has some."""
    rest = []
    for group in view.order:
        kept = [factor for factor in group if factor not in factors]
        if kept:
            rest.append(kept)
    return rest


def spatial(view: View, channels: list[int]) -> Groups:
    """[[], channels, rows, columns] that differs least from how `view` lies."""
    rest = without(view, channels)
    if len(rest) == 1 and len(rest[0]) == 2:
        rest = [[rest[0][0]], [rest[0][1]]]
    return [[], channels, *compact(rest, 2)]


def on_own_axis(view: View, factors: list[int]) -> Groups:
    """An order with `factors` as one axis: as it lies, if it does."""
    if factors in view.order:
        return view.order
    return [[], factors, *compact(without(view, factors), 2)]


def at_head(view: View, factors: list[int], writer: Writer) -> View:
    """With `factors` at the head of one axis of the base, so that a piece of them is one of it."""
    if any(group[: len(factors)] == factors for group in view.order):
        return view
    rest = compact(without(view, factors), 2)
    return arrange(view, compact([[], factors, *rest], AXES), writer.at)


def head_axis(view: View, factors: list[int]) -> tuple[int, int]:
    """The base axis that begins with `factors`, and the elements that each of their steps spans."""
    for axis, group in enumerate(view.order):
        if group[: len(factors)] == factors:
            return axis, view.size_of(group[len(factors) :])
    raise RuntimeError("no axis begins with these factors")


def resized(view: View, factors: list[int], size: int, base: ir.Value) -> View:
    """The view of `base`, in which an axis has `size` elements in the place of `factors`."""
    new, sizes = fresh(size)
    sizes |= {factor: n for factor, n in view.sizes.items() if factor not in factors}
    order = substitute(view.order, factors, new)
    return View(base, order, substitute(view.dims, factors, new), sizes)
