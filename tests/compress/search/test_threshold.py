"""The joint of two segments: found where there is one, and not where there is none."""

import numpy as np
import pytest

from compress.search.threshold import find_threshold, front_of, knee

BREAK = 2.0e6  # bytes


def cloud(rate_below, rate_above=0.1, count=120, noise=0.05, seed=0):
    """Sizes from 0.5 to 8 MB, and dB that fall per halving by two rates; most lie below."""
    rng = np.random.default_rng(seed)
    sizes = 2 ** rng.uniform(19, 23, count)
    halvings = np.log2(BREAK / sizes)
    best = 30 - rate_above * halvings - (rate_below - rate_above) * np.maximum(0, halvings)
    return sizes, best - noise * rng.exponential(size=count)


@pytest.mark.parametrize("seed", range(2))
def test_a_known_break_lies_in_a_narrow_interval(seed):
    found = find_threshold(*cloud(3.0, seed=seed), higher=True)
    assert found.low <= found.size <= found.high
    assert found.size == pytest.approx(BREAK, rel=0.15)
    assert found.high < 1.5 * found.low
    assert found.below == pytest.approx(-3, abs=0.3)
    assert found.above == pytest.approx(-0.1, abs=0.1)
    assert found.chance < 0.01


def test_of_a_metric_that_is_better_when_lower_the_sign_is_its_own():
    sizes, values = cloud(3.0)
    found = find_threshold(sizes, -values, higher=False)
    assert found.below == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize("seed", range(5))
def test_a_straight_line_has_no_break(seed):
    found = find_threshold(*cloud(1.0, 1.0, seed=seed), higher=True)
    assert found.size is None
    assert found.why_none == "one straight line fits as well as two segments"


def test_an_exact_line_has_none_either():
    sizes = 2.0 ** np.arange(19, 29)
    found = find_threshold(sizes, np.log2(sizes), higher=True)
    assert (found.size, found.chance) == (None, 1.0)


def test_a_fall_that_slows_down_is_no_threshold():
    found = find_threshold(*cloud(0.2, 3.0), higher=True)
    assert found.why_none == "quality falls no faster below the joint than above it"


def test_too_few_points_are_told():
    found = find_threshold([1, 2, 4], [1, 2, 3], higher=True)
    assert found.why_none == "the front has 3 points, and two segments need 7"


def test_the_front_and_its_knee():
    sizes, values = np.array([1, 2, 2, 4, 8, 8]), np.array([1, 5, 4, 5, 6, 6])
    assert front_of(sizes, values).tolist() == [0, 1, 4]
    assert knee(sizes, values, higher=True) == 1
    assert knee([1, 2], [1, 2], higher=True) is None
