"""Which path each tile takes: the best in quality less a threshold for what it costs.

R is the quality of a tile's result, -LPIPS or PSNR / 10 dB. Tensors of quality are [N, 3] in the
order of PATHS, costs are paper MACs [3].
"""

import torch

# A threshold lies this little above the point where the choice changes.
RELATIVE_STEP = 1e-9
ABSOLUTE_STEP = 1e-12


def values(steps: torch.Tensor) -> torch.Tensor:
    """R of every path over bicubic's, float64 [N, 3].

    Args:
        steps: Differences between neighbouring paths [N, 2], as the regressor predicts them.
    """
    return torch.nn.functional.pad(steps.double().cumsum(1), (1, 0))


def choose(quality: torch.Tensor, costs: torch.Tensor, threshold: float) -> torch.Tensor:
    """Index into PATHS for every tile, int64 [N].

    It is the best of `quality` less `threshold` for the cost of one run of the model. Of equals the
    cheaper path is taken.

    Args:
        quality: R of every path on every tile [N, 3].
        costs: MACs of every path [3].
        threshold: Quality that one run of the model on a tile must bring, in the unit of R.
    """
    return (quality - threshold * costs / costs[-1]).argmax(1)


def thresholds(quality: torch.Tensor, costs: torch.Tensor) -> torch.Tensor:
    """Every threshold of 0 or more at which `choose` changes, ascending; 0 first.

    Each is a little above the change.
    """
    gains = quality[:, :, None] - quality[:, None]
    prices = (costs[:, None] - costs[None]) / costs[-1]
    dearer = prices > 0
    points = gains[:, dearer] / prices[dearer]
    changes = points[points >= 0].unique() * (1 + RELATIVE_STEP) + ABSOLUTE_STEP
    return torch.cat([points.new_zeros(1), changes])


def within_budget(quality: torch.Tensor, costs: torch.Tensor, budget: float) -> float:
    """The lowest threshold at which all tiles together cost at most `budget`.

    Args:
        quality: R of every path on every tile [N, 3].
        costs: MACs of every path [3].
        budget: A share of the cost of running the model on each tile.

    Returns:
        The threshold; the highest of all where none is cheap enough.
    """
    points = thresholds(quality, costs).tolist()
    for point in points:
        spent = costs[choose(quality, costs, point)].sum()
        if spent <= budget * len(quality) * costs[-1]:
            return point
    return points[-1]
