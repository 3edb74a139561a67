"""Where quality begins to fall: two straight segments of quality over log2 of size, and the knee.

Along a front of size and quality each halving of the size costs some quality. Where that rate
changes, the threshold, is the joint of the two segments that fit best. Whether there is a joint at
all is tested against one line, whose residuals are drawn again. Its interval comes from points of
the study that are drawn again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 7  # points of a front for two segments
EACH_SIDE = 2  # points at least beyond a joint
JOINTS = 33  # candidates
DRAWS = 500
CHANCE = 0.05  # of a joint as clear as this one where there is none
LEVEL = 95  # percent of the interval
TINY = 1e-12  # share of the variance below which a fit is exact


@dataclass(frozen=True)
class Threshold:
    """What the two segments say.

    Attributes:
        size: At the joint; None where there is none.
        low: Of its interval.
        high: Of its interval.
        below: Change of the metric per halving of the size below the joint.
        above: The same above it.
        chance: Of a joint as clear as this one where there is none.
        points: Of the front.
        why_none: Why there is no joint; empty where there is one.
    """

    size: float | None
    low: float | None
    high: float | None
    below: float | None
    above: float | None
    chance: float | None
    points: int
    why_none: str = ""


@dataclass(frozen=True)
class _Fit:
    joint: float
    error: float
    below: float
    above: float


def front_of(sizes: np.ndarray, goods: np.ndarray) -> np.ndarray:
    """Indices of the points that no other beats, by growing size.

    Args:
        sizes: Of points, [n].
        goods: How good each is, [n]; more is better.
    """
    order = np.lexsort((-goods, sizes))
    best = np.maximum.accumulate(goods[order])
    is_better = np.concatenate(([True], best[1:] > best[:-1]))
    return order[is_better]


def find_threshold(
    sizes: Sequence[float], values: Sequence[float], higher: bool, seed: int = 0
) -> Threshold:
    """The threshold of a cloud of points, along its front.

    Args:
        sizes: Above 0, one a point.
        values: Of a metric.
        higher: Whether more of it is better.
        seed: Of what is drawn again.
    """
    sign = 1.0 if higher else -1.0
    x = np.log2(np.asarray(sizes, dtype=float))
    goods = sign * np.asarray(values, dtype=float)
    chosen = front_of(x, goods)
    count = len(chosen)
    if count < FEWEST:
        return _none(count, f"the front has {count} points, and two segments need {FEWEST}")
    rng = np.random.default_rng(seed)
    at, good = x[chosen], goods[chosen]
    fit = _two_segments(at, good)
    chance = _chance(at, good, fit, rng)
    if chance > CHANCE:
        return _none(count, "one straight line fits as well as two segments", chance)
    if fit.below <= fit.above:
        return _none(count, "quality falls no faster below the joint than above it", chance)
    joints = []
    for _ in range(DRAWS):
        drawn = rng.integers(len(x), size=len(x))
        kept = drawn[front_of(x[drawn], goods[drawn])]
        if len(kept) >= FEWEST:
            joints.append(_two_segments(x[kept], goods[kept]).joint)
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(joints or [fit.joint], [tail, 100 - tail])
    return Threshold(
        size=float(2**fit.joint),
        low=float(2**low),
        high=float(2**high),
        below=float(-sign * fit.below),
        above=float(-sign * fit.above),
        chance=chance,
        points=count,
    )


def _none(points: int, why: str, chance: float | None = None) -> Threshold:
    return Threshold(None, None, None, None, None, chance, points, why)


def _candidates(x: np.ndarray) -> np.ndarray:
    """Where a joint may be: with EACH_SIDE points at least beyond it on either side."""
    return np.linspace(x[EACH_SIDE - 1], x[-EACH_SIDE], JOINTS)


def _design(x: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """[joints, n, 3]: what two segments that meet at a joint are sums of."""
    bends = np.maximum(0, joints[:, None] - x)
    return np.stack([np.ones_like(bends), np.broadcast_to(x, bends.shape), bends], axis=2)


def _two_segments(x: np.ndarray, y: np.ndarray) -> _Fit:
    """The best two segments; slopes are per doubling of the size."""
    joints = _candidates(x)
    errors = _errors(x, y[:, None])[:, 0]
    joint = float(joints[int(np.argmin(errors))])
    [design] = _design(x, np.array([joint]))
    (_, above, more), *_ = np.linalg.lstsq(design, y, rcond=None)
    return _Fit(joint, float(errors.min()), float(above - more), float(above))


def _errors(x: np.ndarray, several: np.ndarray) -> np.ndarray:
    """[candidates, columns]: squared errors of two segments for each column of `several`."""
    total = np.square(several).sum(axis=0)
    bases, _ = np.linalg.qr(_design(x, _candidates(x)))
    explained = np.square(bases.transpose(0, 2, 1) @ several).sum(axis=1)
    return np.maximum(total - explained, 0)


def _chance(x: np.ndarray, y: np.ndarray, fit: _Fit, rng: np.random.Generator) -> float:
    """How often one line with residuals drawn again gives as much for a joint."""
    line = np.stack([np.ones_like(x), x], axis=1)
    straight = line @ np.linalg.lstsq(line, y, rcond=None)[0]
    residuals = y - straight
    floor = TINY * max(float(np.square(y - y.mean()).sum()), TINY)
    error = float(np.square(residuals).sum())
    if error <= floor:
        return 1.0
    gained = (error - fit.error) / max(fit.error, floor)
    drawn = straight[:, None] + rng.choice(residuals, size=(len(x), DRAWS))
    basis, _ = np.linalg.qr(line)
    alone = np.square(drawn).sum(axis=0) - np.square(basis.T @ drawn).sum(axis=0)
    jointed = np.maximum(_errors(x, drawn).min(axis=0), floor)
    return float((1 + np.sum((alone - jointed) / jointed >= gained)) / (1 + DRAWS))


def knee(sizes: Sequence[float], values: Sequence[float], higher: bool) -> int | None:
    """The point of the front that is farthest from the line between its ends.

    Both axes are scaled to the front's extent, size as log2.

    Args:
        sizes: Above 0, one a point.
        values: Of a metric.
        higher: Whether more of it is better.

    Returns:
        Its index; None of a front of fewer than 3 points.
    """
    x = np.log2(np.asarray(sizes, dtype=float))
    goods = (1.0 if higher else -1.0) * np.asarray(values, dtype=float)
    chosen = front_of(x, goods)
    if len(chosen) < 3:
        return None
    at, good = x[chosen], goods[chosen]
    across = (at - at[0]) / (at[-1] - at[0])
    up = (good - good[0]) / (good[-1] - good[0])
    return int(chosen[int(np.argmax(up - across))])
