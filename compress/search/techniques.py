"""Which techniques a recipe combines, and which combinations beat what one of them alone gives."""

from collections.abc import Sequence
from dataclasses import dataclass

from compress.passes.quantize import Quantize
from compress.recipe.checkpoint import dump
from compress.recipe.recipe import Recipe
from compress.search.snapshot import Ended

ALONE = "none"
# pass -> technique; the others train, fold or store and are none.
TECHNIQUES = {
    "prune": "prune",
    "decoder_halve": "decoder",
    "decoder_join": "decoder",
    "decoder_light": "decoder",
    "encoder_swap": "encoder",
    "encoder_light": "encoder",
    "depth_prune": "depth",
    "depth_gates": "depth",
    "binarize": "one bit",
    "one_step": "steps",
    "adaptive_steps": "steps",
}
JOINED = " + "


@dataclass(frozen=True)
class Group:
    """The points of one combination of techniques.

    Attributes:
        name: The techniques with + between, or ALONE.
        points: Its points.
    """

    name: str
    points: tuple[Ended, ...]

    @property
    def techniques(self) -> list[str]:
        """Its techniques; none of what is not compressed."""
        return [] if self.name == ALONE else self.name.split(JOINED)


def combination(recipe: Recipe) -> str:
    """The techniques of a recipe, in the order of its passes."""
    found: dict[str, None] = {}
    for step in recipe.passes:
        if isinstance(step, Quantize):
            found["bits"] = None
        elif dump(step)["pass"] in TECHNIQUES:
            found[TECHNIQUES[dump(step)["pass"]]] = None
    return JOINED.join(sorted(found)) or ALONE


def grouped(points: Sequence[Ended], names: Sequence[str]) -> list[Group]:
    """Points by combination, those of fewer techniques first.

    Args:
        points: Measured ones.
        names: The combination of each.
    """
    found: dict[str, list[Ended]] = {}
    for point, name in zip(points, names, strict=True):
        found.setdefault(name, []).append(point)
    groups = [Group(name, tuple(inside)) for name, inside in found.items()]
    return sorted(groups, key=lambda group: (len(group.techniques), group.name))


def beaten_share(group: Group, by: Group, axis: str, metric: str, higher: bool) -> float:
    """The share of a group's points than which one of another's is smaller and better.

    Args:
        group: Whose points are counted.
        by: Whose points beat them.
        axis: A cost.
        metric: A metric that all points have.
        higher: Whether more of it is better.
    """
    sign = 1 if higher else -1

    def beats(one: Ended, other: Ended) -> bool:
        is_better = sign * one.figures[metric] > sign * other.figures[metric]
        return one.figures[axis] < other.figures[axis] and is_better

    beaten = sum(any(beats(one, point) for one in by.points) for point in group.points)
    return beaten / len(group.points)
