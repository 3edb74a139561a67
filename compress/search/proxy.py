"""The cheap figure: PSNR to the source on a few images, and what it says of the final metric."""

from collections.abc import Mapping, Sequence

from scipy.stats import spearmanr

from compress.search.goals import Objective
from compress.search.results import MEASURED, Result

WHOLE = "1"  # the share of the training after which it is taken: all of it
SHARES = (1 / 9, 1 / 3)  # of each training, after which a hopeless point is ended
BETTER = 3  # points that cost no more and look better, beyond which a point is hopeless
FEWEST = 4  # points for a rank correlation


def is_hopeless(
    objectives: Sequence[Objective],
    costs: Mapping[str, float],
    proxy: Mapping[str, float],
    earlier: Sequence[Result],
) -> str:
    """Why a point is given up; nothing where it is not.

    A smaller model may look worse. So a point is only compared with those that cost no more.

    Args:
        objectives: Of the study; their costs are compared.
        costs: Of the point.
        proxy: Of the point: dB by share of the training. Those of one share are compared.
        earlier: Results of points of earlier batches.
    """
    for share, value in proxy.items():
        why = _hopeless_at(share, value, objectives, costs, earlier)
        if why:
            return why
    return ""


def _hopeless_at(
    share: str,
    value: float,
    objectives: Sequence[Objective],
    costs: Mapping[str, float],
    earlier: Sequence[Result],
) -> str:
    names = [one.name for one in objectives if one.is_cost]
    better = [
        other
        for other in earlier
        if other["proxy"].get(share, value) > value
        and all(other["costs"][name] <= costs[name] for name in names)
    ]
    if len(better) < BETTER:
        return ""
    when = "" if share == WHOLE else f" in {share}"
    return (
        f"{len(better)} points cost no more and are nearer to the source than its {value:.2f} dB"
        f"{when}"
    )


def rank_correlation(results: Sequence[Result], metric: str, higher: bool) -> float | None:
    """Spearman's correlation of the proxy with a metric, over the points that have both.

    Args:
        results: Of any points.
        metric: Its name.
        higher: Whether more of it is better; so 1 always is full agreement.

    Returns:
        From -1 to 1; None of fewer than FEWEST points, or where one of both does not vary.
    """
    pairs = [
        (one["proxy"][WHOLE], one["metrics"].get(metric))
        for one in results
        if one["state"] == MEASURED and WHOLE in one["proxy"]
    ]
    both = [(proxy, value) for proxy, value in pairs if value is not None]
    if len(both) < FEWEST or any(len({pair[side] for pair in both}) < 2 for side in (0, 1)):
        return None
    found = float(spearmanr([p for p, _ in both], [v for _, v in both]).statistic)
    return found if higher else -found
