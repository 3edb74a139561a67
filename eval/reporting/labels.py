"""Names beside points: each at the first place near its point where it covers nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from eval.reporting.colours import INK, LEADER, OURS
from eval.reporting.points import Point

POINTS_AN_INCH = 72
RADII = (7, 13, 20, 28, 38, 50)  # points from the dot to its label
LEADER_FROM = 16  # points: a label farther from its dot has a line to it
DOT = 8  # points of the side of the square that a dot takes
PADDING = 1.5  # points around a label
NOTHING = 1e-6  # square pixels: less is covered by rounding alone
ALONG = (0.2, 0.4, 0.6, 0.8, 1)  # where a leader is looked at, as parts of its length


@dataclass(frozen=True)
class Place:
    """Where a label may stand.

    Attributes:
        dx: Points to the right of its dot.
        dy: Points above its dot.
        ha: The label's horizontal alignment.
        va: Its vertical alignment.
    """

    dx: float
    dy: float
    ha: Literal["left", "center", "right"]
    va: Literal["bottom", "center", "top"]

    @property
    def has_leader(self) -> bool:
        """Whether the label is so far from its dot that a line says whose it is."""
        return max(abs(self.dx), abs(self.dy)) > LEADER_FROM


DIRECTIONS = (
    Place(1, 0, "left", "center"),
    Place(-1, 0, "right", "center"),
    Place(0, 1, "center", "bottom"),
    Place(0, -1, "center", "top"),
    Place(0.8, 0.8, "left", "bottom"),
    Place(0.8, -0.8, "left", "top"),
    Place(-0.8, 0.8, "right", "bottom"),
    Place(-0.8, -0.8, "right", "top"),
)
# Best first.
PLACES = [
    Place(direction.dx * radius, direction.dy * radius, direction.ha, direction.va)
    for radius in RADII
    for direction in DIRECTIONS
]


@dataclass
class Scene:
    """What labels must not cover, in pixels.

    Attributes:
        unit: Pixels of a typographic point.
        frame: The axes' own rectangle, inside which labels stay.
        dots: Centres of all points.
        taken: Rectangles that are covered already.
    """

    unit: float
    frame: Bbox
    dots: list[tuple[float, float]]
    taken: list[Bbox] = field(default_factory=list)


def label_points(
    canvas: FigureCanvasAgg,
    axes: Axes,
    points: list[Point],
    front: list[Point],
    taken: Sequence[Bbox] = (),
) -> None:
    """Put each point's name at the first place, nearest its dot, that is free.

    A free place covers no dot, no name and not the front, and is inside the axes. The line from a
    farther name to its dot meets no other dot. Where no place is free, the one that covers least is
    taken. Ours choose first.

    Args:
        canvas: The figure's canvas; its layout is fixed already.
        axes: Where the points are drawn.
        points: The points; one without a name is only kept clear of.
        front: Those on the Pareto front, by growing x; empty where none is drawn.
        taken: Rectangles in pixels that something else covers.
    """
    scene = _scene(canvas, axes, points, front)
    scene.taken += taken
    named = [point for point in points if point.label]
    for point in sorted(named, key=lambda point: not point.ours):
        text = _text(axes, point)
        place, box = _best_place(canvas, axes, text, scene)
        _move(text, place)
        scene.taken.append(box)
        if place.has_leader:
            _draw_leader(axes, point, place)


def _scene(canvas: FigureCanvasAgg, axes: Axes, points: list[Point], front: list[Point]) -> Scene:
    unit = canvas.figure.dpi / POINTS_AN_INCH
    frame = axes.get_window_extent(canvas.get_renderer())
    dots = [_pixels(axes, point.x, point.y) for point in points]
    side = DOT * unit
    taken = [Bbox.from_bounds(x - side / 2, y - side / 2, side, side) for x, y in dots]
    steps = [_pixels(axes, point.x, point.y) for point in front]
    return Scene(unit, frame, dots, taken + _front_boxes(steps, frame.x1, unit))


def _front_boxes(steps: list[tuple[float, float]], right: float, unit: float) -> list[Bbox]:
    """Thin rectangles along the front's stairs, which end at the axes' right border."""
    if not steps:
        return []
    treads = []
    risers = []
    ends = [*steps[1:], (right, steps[-1][1])]
    for (x, y), (next_x, next_y) in zip(steps, ends, strict=True):
        treads.append(Bbox.from_extents(x, y - unit, next_x, y + unit))
        low, high = min(y, next_y), max(y, next_y)
        risers.append(Bbox.from_extents(next_x - unit, low, next_x + unit, high))
    return treads + risers


def _pixels(axes: Axes, x: float, y: float) -> tuple[float, float]:
    across, up = axes.transData.transform((x, y))
    return across, up


def _text(axes: Axes, point: Point) -> Annotation:
    """The point's name, not yet at its place."""
    return axes.annotate(
        point.label,
        (point.x, point.y),
        (0, 0),
        textcoords="offset points",
        fontsize=9 if point.ours else 8,
        fontweight="bold" if point.ours else "normal",
        color=OURS if point.ours else INK,
        zorder=4,
    )


def _move(text: Annotation, place: Place) -> None:
    text.set_position((place.dx, place.dy))
    text.set_horizontalalignment(place.ha)
    text.set_verticalalignment(place.va)


def _best_place(
    canvas: FigureCanvasAgg, axes: Axes, text: Annotation, scene: Scene
) -> tuple[Place, Bbox]:
    """The first free place, or the one that covers least, and the rectangle that it takes."""
    start = _pixels(axes, *text.xy)
    best: tuple[float, Place, Bbox] | None = None
    for place in PLACES:
        _move(text, place)
        box = text.get_window_extent(canvas.get_renderer()).padded(PADDING * scene.unit)
        covered = _covered(box, scene)
        if place.has_leader:
            covered += box.width * _dots_crossed(start, place, scene)
        if best is None or covered < best[0]:
            best = (covered, place, box)
        if best[0] < NOTHING:
            break
    if best is None:
        raise ValueError("there is no place for a label")
    return best[1], best[2]


def _covered(box: Bbox, scene: Scene) -> float:
    """Square pixels of `box` on something else or outside the axes."""
    on_others = sum(shared_area(box, other) for other in scene.taken)
    return on_others + box.width * box.height - shared_area(box, scene.frame)


def _dots_crossed(start: tuple[float, float], place: Place, scene: Scene) -> int:
    """How often the leader from a dot at `start` to its label runs through another dot."""
    reach = DOT * scene.unit
    others = [(x, y) for x, y in scene.dots if abs(x - start[0]) + abs(y - start[1]) > 1]
    count = 0
    for part in ALONG:
        u = start[0] + place.dx * scene.unit * part
        v = start[1] + place.dy * scene.unit * part
        for x, y in others:
            if abs(x - u) + abs(y - v) < reach:
                count += 1
    return count


def _draw_leader(axes: Axes, point: Point, place: Place) -> None:
    """A thin line from a point to its name."""
    axes.annotate(
        "",
        (point.x, point.y),
        (place.dx, place.dy),
        textcoords="offset points",
        arrowprops={"arrowstyle": "-", "color": LEADER, "linewidth": 0.7},
        zorder=2,
    )


def shared_area(a: Bbox, b: Bbox) -> float:
    """Square pixels that two rectangles have in common."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0) * max(height, 0)
