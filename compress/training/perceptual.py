"""The perceptual metrics of losses, from the weight files that a recipe names."""

from collections.abc import Mapping
from typing import Protocol

from torch import nn

from compress.training import losses
from compress.training.config import METRIC_FILES
from compress.training.terms import PERCEPTUAL, wants


class MetricFiles(Protocol):
    """What a recipe says of the metrics."""

    @property
    def lpips_weights(self) -> str | None:
        """The file of LPIPS."""

    @property
    def lpips_net(self) -> str:
        """Its network: squeeze, alex or vgg."""

    @property
    def dists_weights(self) -> str | None:
        """The file of DISTS."""


def missing(weights: Mapping[str, float], files: MetricFiles) -> tuple[str, str] | None:
    """(loss, key) of the first metric that is wanted and whose file is not named; else None."""
    for loss, key in METRIC_FILES.items():
        if wants(weights, loss) and getattr(files, key) is None:
            return loss, key
    return None


def metrics(weights: Mapping[str, float], files: MetricFiles) -> dict[str, nn.Module]:
    """The metrics that are wanted, frozen, by the names of their losses.

    Args:
        weights: The factors of all losses.
        files: Where their weights are.

    Raises:
        UserError: A file cannot be read, or is of another network.
        ValueError: A file is not named, see `missing`.
    """
    return {name: _metric(name, files) for name in PERCEPTUAL if wants(weights, name)}


def _metric(name: str, files: MetricFiles) -> nn.Module:
    path = getattr(files, METRIC_FILES[name])
    if path is None:
        raise ValueError(f"the loss {name} needs {METRIC_FILES[name]}")
    if name == "ea_dists":
        return losses.ea_dists(path)
    build = losses.lpips if name == "lpips" else losses.ea_lpips
    return build(path, files.lpips_net)
