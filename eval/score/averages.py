"""Averages of a data set, and a reason for every figure that is missing."""

import numpy as np

from eval.metric import ntire
from eval.metric.fid import frechet
from eval.metric.locating import Located
from eval.metric.names import metric_of
from eval.score.worker import Outcome

Averages = dict[str, float | None]  # metric -> mean, or None
Figure = tuple[float | None, str | None]  # a mean, and why it or a part of it is missing


def averages(
    outcomes: list[Outcome], metrics: Located, speedup: float | None = None
) -> tuple[Averages, dict[str, str]]:
    """The mean of each metric over the images that have a value.

    Args:
        outcomes: What was measured, an image each.
        metrics: The metrics asked for.
        speedup: How many times faster than OSEDiff the model is, for ntire-final.

    Returns:
        {metric: mean or None}, and {metric: why values are missing}.
    """
    means: Averages = {}
    blank = dict(metrics.blank)
    for name in metrics.names:
        if metric_of(name).of:
            continue
        means[name], why = _figure(name, outcomes, has_weights=name not in metrics.blank)
        if why is not None:
            blank[name] = why
    for name in metrics.names:
        if not metric_of(name).of:
            continue
        means[name], why = composed(name, means, speedup)
        if why is not None:
            blank.setdefault(name, why)
    return {name: means[name] for name in metrics.names}, blank


def _figure(name: str, outcomes: list[Outcome], has_weights: bool) -> Figure:
    if not metric_of(name).features:
        return _mean(name, outcomes)
    if has_weights:
        return _distance(name, outcomes)
    return (None, None)


def _mean(name: str, outcomes: list[Outcome]) -> Figure:
    scores = [outcome.scores.get(name) for outcome in outcomes]
    values = [score for score in scores if score is not None]
    mean = float(np.mean(values)) if values else None
    reasons = [outcome.reasons[name] for outcome in outcomes if name in outcome.reasons]
    if not reasons:
        return mean, None
    why = " and ".join(dict.fromkeys(reasons))
    if len(reasons) == len(outcomes):
        return mean, why
    part = f"{len(reasons)} of {len(outcomes)} images have no value"
    return mean, f"{part}, the mean is over the others: {why}"


def _distance(name: str, outcomes: list[Outcome]) -> Figure:
    """The distance of the sets of restored images and of originals."""
    ours: list[np.ndarray] = []
    theirs: list[np.ndarray] = []
    for outcome in outcomes:
        restored, original = outcome.features[name]
        if original is None:
            return (
                None,
                "it compares with the original images and the data has none; add HR images (--hr)",
            )
        ours.append(np.frombuffer(restored, np.float32))
        theirs.append(np.frombuffer(original, np.float32))
    if len(outcomes) < 2:
        return None, "it is a distance of two sets and needs at least 2 images"
    return frechet(np.stack(ours), np.stack(theirs)), None


def composed(name: str, means: Averages, speedup: float | None) -> Figure:
    """A score that is made of other metrics' means, and why it is missing.

    Args:
        name: `ntire-score` or `ntire-final`.
        means: The means that it is made of, among others.
        speedup: How many times faster than OSEDiff the model is at 128 -> 512.
    """
    parts = metric_of(name).of
    known = {part: mean for part, mean in means.items() if mean is not None}
    missing = [part for part in parts if part not in known]
    if missing:
        return None, f"it is made of {', '.join(parts)}, and {', '.join(missing)} has no value"
    score = ntire.score(*[known[part] for part in parts])
    if name == "ntire-score":
        return score, None
    if speedup is None:
        return (
            None,
            "it needs the speed relative to OSEDiff at 128 -> 512; "
            "give --speedup (OSEDiff itself: 1)",
        )
    return ntire.final(score, speedup), None
