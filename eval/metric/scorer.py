"""Metrics as networks that score images."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from compress.core.errors import first_line
from eval.metric.locating import Located, locate
from eval.metric.metrics import Metric
from eval.metric.names import metric_of, package_of
from eval.metric.weight_files import digest

NO_ORIGINAL = "it compares with the original image and the data has none; add HR images (--hr)"
UNDEFINED = "it is undefined on an image without texture"


class Metrics:
    """The metrics asked for, ready to score.

    Args:
        names: Names of metrics.
        weights: A folder with weight files that is looked into before the cache.
        device: Where the networks run.
        located: Where the weight files are, if that is known already.

    Attributes:
        names: All metrics, with those that a composed score is made of.
        blank: Why a metric cannot be had, with the remedy, by metric.
        device: Where the networks run.
    """

    def __init__(
        self,
        names: Iterable[str],
        weights: str | Path | None = None,
        device: str = "cpu",
        located: Located | None = None,
    ):
        located = located or locate(names, weights)
        self.names = located.names
        self.blank = dict(located.blank)
        self.device = device
        self._files = located.files
        self._nets: dict[str, nn.Module] = {}
        for name, paths in located.files.items():
            way = metric_of(name).ways[located.way[name]]
            self._nets[name] = way.build(*paths).to(device)

    @property
    def per_image(self) -> list[str]:
        """Metrics with a value an image."""
        return [name for name in self._nets if not metric_of(name).features]

    @property
    def of_sets(self) -> list[str]:
        """Metrics with features an image, whose figure is the distance of two sets."""
        return [name for name in self._nets if metric_of(name).features]

    def identity(self, name: str) -> str:
        """What a metric's values depend on beside the images: code, weights, kind of device."""
        parts = [
            name + metric_of(name).edition + package_of(name),
            version("pyiqa"),
            self.device.partition(":")[0],
            *map(digest, self._files[name]),
        ]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:24]

    def score(
        self, restored: torch.Tensor, reference: torch.Tensor | None
    ) -> tuple[dict[str, float | None], dict[str, str]]:
        """Scores of one image by all metrics that can be had.

        Args:
            restored: The image, float [1, 3, H, W] in [0, 1], multiples of 1/255.
            reference: Its original, likewise, if there is one.

        Returns:
            Scores by metric, and for each None among them the reason.
        """
        scores: dict[str, float | None] = {}
        reasons: dict[str, str] = {}
        for name in self.per_image:
            values, whys = self.score_batch(name, restored, reference)
            scores[name] = values[0]
            if whys[0] is not None:
                reasons[name] = whys[0]
        return scores, reasons

    @torch.no_grad()
    def score_batch(
        self, name: str, restored: torch.Tensor, reference: torch.Tensor | None
    ) -> tuple[list[float | None], list[str | None]]:
        """Scores of several images by one metric.

        Args:
            name: One of `per_image`.
            restored: The images, float [B, 3, H, W] in [0, 1], multiples of 1/255.
            reference: Their originals, likewise, if there are any.

        Returns:
            A score an image, and a reason for each None.
        """
        metric = metric_of(name)
        why = _refusal(metric, restored, reference)
        if why is not None:
            return [None] * len(restored), [why] * len(restored)
        inputs = [restored.to(self.device)]
        if metric.reference and reference is not None:
            inputs.append(reference.to(inputs[0]))
        if metric.by_name:
            return self._values_by_name(name, inputs)
        values = self._values(name, inputs)
        return values, [UNDEFINED if value is None else None for value in values]

    def _values(self, name: str, inputs: list[torch.Tensor]) -> list[float | None]:
        net = self._nets[name]
        values = _finite_values(net, inputs) if metric_of(name).batch else None
        if values is not None:
            return values
        # One by one: also to tell which image of a batch was the undefined one.
        found: list[float | None] = []
        for i in range(len(inputs[0])):
            alone = _finite_values(net, [images[i : i + 1] for images in inputs])
            found.append(alone[0] if alone else None)
        return found

    def _values_by_name(
        self, name: str, inputs: list[torch.Tensor]
    ) -> tuple[list[float | None], list[str | None]]:
        """Scores one by one of a network that nobody here has tried, and why one is missing."""
        values: list[float | None] = []
        reasons: list[str | None] = []
        for i in range(len(inputs[0])):
            alone = [images[i : i + 1] for images in inputs]
            try:
                found = _finite_values(self._nets[name], alone)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, AssertionError, IndexError) as error:
                values.append(None)
                reasons.append(f"pyiqa's {name} refused it: {first_line(error)}")
                continue
            values.append(found[0] if found else None)
            reasons.append(UNDEFINED if values[-1] is None else None)
        return values, reasons

    @torch.no_grad()
    def features(self, name: str, images: torch.Tensor) -> list[bytes]:
        """Features of images by a metric of `of_sets`.

        Args:
            name: One of `of_sets`.
            images: Float [B, 3, H, W] in [0, 1].

        Returns:
            The float32 bytes of each image's features.
        """
        rows = self._nets[name](images.to(self.device)).float().cpu()
        return [row.numpy().tobytes() for row in rows]


def _refusal(metric: Metric, restored: torch.Tensor, reference: torch.Tensor | None) -> str | None:
    """Why a metric cannot be computed on these images; None where it can."""
    if metric.reference and reference is None:
        return NO_ORIGINAL
    if min(restored.shape[-2:]) < metric.least:
        return f"it needs images of at least {metric.least} pixels a side"
    return None


def _finite_values(net: nn.Module, inputs: Sequence[torch.Tensor]) -> list[float | None] | None:
    """A score an image, None where it is not finite.

    Returns None in place of the list if the metric fails on the batch.
    """
    try:
        values = net(*inputs).flatten().tolist()
    except torch.linalg.LinAlgError:  # NIQE's covariance of a flat image
        return None
    if len(values) != len(inputs[0]):
        return None
    return [value if math.isfinite(value) else None for value in values]
