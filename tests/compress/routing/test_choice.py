"""The choice of paths by hand: thresholds, budgets, and the default threshold."""

import pytest
import torch

from compress.routing import judging
from compress.routing.choice import choose, thresholds, values, within_budget

COSTS = torch.tensor([0.0, 10.0, 100.0], dtype=torch.float64)


def test_choice_by_hand():
    quality = values(torch.tensor([[0.5, 0.5], [0.5, -0.2], [-0.1, 0.05], [0.02, 0.0]]))
    expected = torch.tensor([[0, 0.5, 1.0], [0, 0.5, 0.3], [0, -0.1, -0.05], [0, 0.02, 0.02]])
    torch.testing.assert_close(quality.float(), expected)
    assert choose(quality, COSTS, 0.0).tolist() == [2, 1, 0, 1]
    assert choose(quality, COSTS, 0.3).tolist() == [2, 1, 0, 0]  # 0.02 < 0.3 * 10 / 100
    assert choose(quality, COSTS, 0.6).tolist() == [1, 1, 0, 0]  # 0.5 < 0.6 * 90 / 100
    assert choose(quality, COSTS, 9.0).tolist() == [0, 0, 0, 0]
    points = thresholds(quality, COSTS)
    assert points[0] == 0
    assert points.tolist() == sorted(points.tolist())
    # 120 of 400 at threshold 0. Above 0.2 the fourth tile's 10 go, above 0.5 / 0.9 the first
    # tile's 90.
    assert within_budget(quality, COSTS, 0.30) == 0.0
    assert within_budget(quality, COSTS, 0.29) == pytest.approx(0.2)
    assert within_budget(quality, COSTS, 0.05) == pytest.approx(0.5 / 0.9)
    assert choose(quality, COSTS, within_budget(quality, COSTS, 0.0)).tolist() == [0, 0, 0, 0]


def test_default_threshold_by_hand():
    measured = torch.tensor(
        [[0.0, 1.0, 1.1], [0.0, 0.1, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64
    )
    # With true gains: the cheapest way that loses at most 0.1 in the mean sends the first tile to
    # the CNN (-0.1 / 3).
    point = judging.default_threshold(measured, measured, COSTS, 0.1)
    assert choose(measured, COSTS, point).tolist() == [1, 2, 0]
    assert choose(
        measured, COSTS, judging.default_threshold(measured, measured, COSTS, 9.0)
    ).tolist() == [0, 0, 0]
    assert judging.explained(measured, measured) == 1.0
    assert judging.explained(measured.mean() + 0 * measured, measured) == pytest.approx(0)
