"""How well a trained router routes, on tiles that it was not trained on."""

from dataclasses import dataclass

import torch

from compress.routing.choice import choose, thresholds
from compress.routing.config import RouterConfig
from compress.routing.networks import PATHS
from compress.routing.quality import UNIT

DIGITS = 5  # of losses and means in the record
SHARE_DIGITS = 4
LEAST_VARIANCE = 1e-12


@dataclass(frozen=True)
class HeldOut:
    """The held-out tiles.

    Attributes:
        measured: R of every path [N, 3].
        gains: Measured gains over the path before, after tanh [N, 2].
        steps: What the regressor predicts for them, before tanh [N, 2].
        quality: R of every path over bicubic's as predicted [N, 3].
        costs: MACs of every path [3].
    """

    measured: torch.Tensor
    gains: torch.Tensor
    steps: torch.Tensor
    quality: torch.Tensor
    costs: torch.Tensor


def default_threshold(
    predicted: torch.Tensor, measured: torch.Tensor, costs: torch.Tensor, tolerance: float
) -> float:
    """The highest threshold at which routing loses at most `tolerance` of mean R.

    Args:
        predicted: R of every path on every tile [N, 3], by which tiles are routed.
        measured: R as it was measured [N, 3].
        costs: MACs of every path [3].
        tolerance: Loss of R against the model on every tile.

    Returns:
        The threshold; 0 where every one loses more.
    """
    best = 0.0
    whole = measured[:, -1].mean()
    for point in thresholds(predicted, costs).tolist():
        reached = measured.gather(1, choose(predicted, costs, point)[:, None]).mean()
        if whole - reached <= tolerance:
            best = max(best, point)
    return best


def explained(predicted: torch.Tensor, measured: torch.Tensor) -> float:
    """R squared: 1 is perfect, 0 no better than the mean."""
    variance = measured.var(correction=0).clamp_min(LEAST_VARIANCE)
    return (1 - (predicted - measured).square().mean() / variance).item()


def judge(config: RouterConfig, held: HeldOut, threshold: float) -> dict:
    """Figures of a router at `threshold` on the held-out tiles.

    Losses are of LPIPS or dB against the model on every tile, negative where routing is better.
    """
    unit = UNIT[config.metric]
    sign = -unit if config.metric == "lpips" else unit
    chosen = choose(held.quality, held.costs, threshold)
    reached = held.measured.gather(1, chosen[:, None]).mean()
    best = held.measured.max(1).values.mean()
    whole = held.measured[:, -1].mean()
    explained_gains = {}
    for index, path in enumerate(PATHS[1:]):
        predicted = held.steps[:, index].tanh().double()
        measured = held.gains[:, index].double()
        explained_gains[path] = round(explained(predicted, measured), SHARE_DIGITS)
    means = {}
    shares = {}
    for index, path in enumerate(PATHS):
        means[path] = round((held.measured[:, index].mean() / sign).item(), DIGITS)
        shares[path] = int((chosen == index).sum())
    return {
        "explained": explained_gains,
        "loss": round(((whole - reached) / unit).item(), DIGITS),
        "loss_if_perfect": round(((whole - best) / unit).item(), DIGITS),
        "macs": round((held.costs[chosen].mean() / held.costs[-1]).item(), SHARE_DIGITS),
        "mean": means,
        "shares": shares,
    }
