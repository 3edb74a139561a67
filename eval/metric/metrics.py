"""Image quality by pyiqa, under the names and settings of the StableSR / OSEDiff benchmark.

PSNR and SSIM are taken on the luma of ITU-R BT.601 (ycbcr), without a cropped border; pyiqa's own default
(yiq) reads 1.32 dB lower. Every other metric has pyiqa's default settings; NIQE is computed as eval/metric/niqe.py says.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from compress.core.errors import UserError, nearest
from eval.metric import builders, ntire
from eval.metric.builders import Build, pyiqa_metric, single, with_backbone
from eval.metric.weight_files import Weight, WeightsMissing, digest, find, known

LUMA = {"test_y_channel": True, "color_space": "ycbcr"}


@dataclass(frozen=True)
class Way:
    """One way to have a metric: a builder and the weight files that it takes, in its order."""

    build: Build
    weights: tuple[Weight, ...] = ()


@dataclass(frozen=True)
class Metric:
    """How one metric is had and read.

    `reference`: compares with the original image. `higher`: a higher score is better. `ways`: the first whose files
    are at hand is taken. `least`: shortest side in pixels that the implementation takes (measured). `batch`: takes
    several images of one size at once. `features`: gives a vector an image; the figure is the distance of two sets.
    `of`: computed from a data set's averages of these metrics, not from images. `edition`: changed when the values
    change without pyiqa or the weights doing so.
    """

    reference: bool
    higher: bool
    ways: tuple[Way, ...] = ()
    least: int = 1
    batch: bool = True
    features: bool = False
    of: tuple[str, ...] = ()
    edition: str = ""


def _way(build: Build, *weights: str) -> Way:
    return Way(build, tuple(known()[key] for key in weights))


METRICS: dict[str, Metric] = {
    # name             reference higher  ways
    "psnr": Metric(True, True, (_way(pyiqa_metric("psnr", **LUMA)),)),
    "ssim": Metric(True, True, (_way(pyiqa_metric("ssim", **LUMA)),)),
    "psnr-rgb": Metric(True, True, (_way(pyiqa_metric("psnr")),)),
    "ssim-rgb": Metric(True, True, (_way(pyiqa_metric("ssimc")),)),
    "lpips": Metric(True, False, (_way(with_backbone("lpips"), "alexnet", "lpips_alex"),)),
    "lpips-vgg": Metric(True, False, (_way(with_backbone("lpips-vgg"), "vgg16", "lpips_vgg"),)),
    "lpips-squeeze": Metric(
        True,
        False,
        (
            _way(builders.lpips_squeeze, "lpips_squeeze"),
            _way(builders.lpips_squeeze_parts, "squeezenet", "lpips_squeeze_heads"),
        ),
    ),
    "dists": Metric(True, False, (_way(with_backbone("dists"), "vgg16", "dists"),)),
    "niqe": Metric(False, False, (_way(builders.niqe, "niqe"),), least=96, edition="2"),
    "brisque": Metric(False, False, (_way(single("brisque"), "brisque"),)),
    "musiq": Metric(False, True, (_way(single("musiq"), "musiq"),)),
    "clipiqa": Metric(False, True, (_way(builders.clipiqa, "clip_rn50"),)),
    "maniqa-pipal": Metric(
        False, True, (_way(builders.maniqa, "maniqa_pipal"),), batch=False
    ),  # 20 crops an image
    "fid": Metric(True, False, (_way(builders.inception, "inception"),), features=True),
    "ntire-score": Metric(True, True, of=ntire.INGREDIENTS),
    "ntire-final": Metric(True, True, of=ntire.INGREDIENTS),
    "ms_ssim": Metric(True, True, (_way(pyiqa_metric("ms_ssim")),), least=164),
    "cw_ssim": Metric(True, True, (_way(pyiqa_metric("cw_ssim")),), least=64),
    "gmsd": Metric(True, False, (_way(pyiqa_metric("gmsd")),)),
    "nlpd": Metric(True, False, (_way(pyiqa_metric("nlpd")),)),
    "vif": Metric(True, True, (_way(builders.Vif),), least=33),
    "fsim": Metric(True, True, (_way(pyiqa_metric("fsim")),)),
    "vsi": Metric(True, True, (_way(pyiqa_metric("vsi")),)),
    "mad": Metric(True, False, (_way(pyiqa_metric("mad")),)),
}
BENCHMARK = (
    "psnr",
    "ssim",
    "lpips",
    "lpips-squeeze",
    "dists",
    "niqe",
    "musiq",
    "clipiqa",
    "maniqa-pipal",
)


def check_names(names: Iterable[str]) -> list[str]:
    """`names` without repetitions; raises UserError for one that is not in METRICS or for none at all."""
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in METRICS:
            raise UserError(
                f"metric '{name}' is unknown{nearest(name, METRICS)}; choose from {', '.join(METRICS)}"
            )
    if not names:
        raise UserError(f"no metric was asked for; choose from {', '.join(METRICS)}")
    return names


@dataclass(frozen=True)
class Located:
    """Where the weight files of metrics are: enough for another process to build them without asking the network."""

    names: list[str]
    way: dict[str, int]
    files: dict[str, list[Path]]
    blank: dict[str, str]


def locate(names: Iterable[str], weights: str | Path | None = None) -> Located:
    """Find, or download, the weight files of `names` and of what those are made of."""
    asked = check_names(names)
    folder = None if weights is None else Path(weights)
    if folder is not None and not folder.is_dir():
        raise UserError(
            f"--iqa-weights {folder}: no such folder; give the folder that holds the metrics' weights"
        )
    found = Located(
        list(dict.fromkeys(part for name in asked for part in (*METRICS[name].of, name))),
        {},
        {},
        {},
    )
    for name in found.names:
        lacking = None
        for number, way in enumerate(METRICS[name].ways):
            try:
                found.files[name] = [find(weight, folder) for weight in way.weights]
            except WeightsMissing as missing:
                files = " and ".join(weight.file for weight in way.weights)
                lacking = lacking or (
                    f"{missing}; put {files} into a folder and pass it as --iqa-weights "
                    "(python -m eval.weights says where they come from)"
                )
            else:
                found.way[name] = number
                break
        if lacking and name not in found.way:
            found.blank[name] = lacking
    for name in found.names:
        missing = [part for part in METRICS[name].of if part in found.blank]
        if missing:
            found.blank[name] = (
                f"it is made of {', '.join(METRICS[name].of)}, and {', '.join(missing)} cannot be had "
                "here"
            )
    return found


class Metrics:
    """The metrics asked for, ready to score; those that cannot be had are in `blank` with the reason and remedy.

    `names` are all of them, with those that a composed score is made of. `per_image` are those with a value an image,
    `of_sets` those with features an image.
    """

    def __init__(
        self,
        names: Iterable[str],
        weights: str | Path | None = None,
        device: str = "cpu",
        located: "Located | None" = None,
    ):
        located = located or locate(names, weights)
        self.names, self.blank, self._files, self.device = (
            located.names,
            dict(located.blank),
            located.files,
            device,
        )
        self._nets: dict[str, nn.Module] = {
            name: METRICS[name].ways[located.way[name]].build(*paths).to(device)
            for name, paths in located.files.items()
        }

    @property
    def per_image(self) -> list[str]:
        return [name for name in self._nets if not METRICS[name].features]

    @property
    def of_sets(self) -> list[str]:
        return [name for name in self._nets if METRICS[name].features]

    def identity(self, name: str) -> str:
        """What a value of this metric depends on beside the images: code, weights, kind of device."""
        parts = [
            name + METRICS[name].edition,
            version("pyiqa"),
            self.device.partition(":")[0],
            *map(digest, self._files[name]),
        ]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:24]

    def score(
        self, restored: torch.Tensor, reference: torch.Tensor | None
    ) -> tuple[dict[str, float | None], dict[str, str]]:
        """Scores of one image and, for each None among them, the reason.

        Both images float [1, 3, H, W] in [0, 1], multiples of 1/255. Metrics already in `blank` are left out.
        """
        scores: dict[str, float | None] = {}
        reasons: dict[str, str] = {}
        for name in self.per_image:
            (scores[name],), (why,) = self.score_batch(name, restored, reference)
            if why:
                reasons[name] = why
        return scores, reasons

    @torch.no_grad()
    def score_batch(
        self, name: str, restored: torch.Tensor, reference: torch.Tensor | None
    ) -> tuple[list[float | None], list[str | None]]:
        """One metric on [B, 3, H, W] images, and the reason for each None."""
        metric, count = METRICS[name], len(restored)
        why = None
        if metric.reference and reference is None:
            why = "it compares with the original image and the data has none; add HR images (--hr)"
        elif min(restored.shape[-2:]) < metric.least:
            why = f"it needs images of at least {metric.least} pixels a side"
        if why:
            return [None] * count, [why] * count
        restored = restored.to(self.device)
        inputs = (restored, reference.to(restored)) if metric.reference else (restored,)
        values = _values(self._nets[name], inputs) if metric.batch else None
        if values is None:  # one by one: also to tell which image of a batch was the undefined one
            values = [
                (_values(self._nets[name], [x[i : i + 1] for x in inputs]) or [None])[0]
                for i in range(count)
            ]
        return values, [
            None if value is not None else "it is undefined on an image without texture"
            for value in values
        ]

    @torch.no_grad()
    def features(self, name: str, images: torch.Tensor) -> list[bytes]:
        """Features of [B, 3, H, W] images, float32 bytes each."""
        return [
            row.numpy().tobytes() for row in self._nets[name](images.to(self.device)).float().cpu()
        ]


def _values(net: nn.Module, inputs: Sequence[torch.Tensor]) -> list[float | None] | None:
    """A score an image, None where it is not finite; None in place of the list if the metric fails on the batch."""
    try:
        values = net(*inputs).flatten().tolist()
    except torch.linalg.LinAlgError:  # NIQE's covariance of a flat image
        return None
    return (
        [value if math.isfinite(value) else None for value in values]
        if len(values) == len(inputs[0])
        else None
    )
