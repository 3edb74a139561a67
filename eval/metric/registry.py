"""pyiqa's own registry: every metric that METRICS does not list, as the package has it.

Direction and kind come from the package. Its settings are the package's defaults.
"""

import contextlib
import http.client
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote, urlparse

import numpy as np
import torch
from torch import nn

from compress.core.errors import first_line
from compress.core.hub import can_reach
from eval.metric.builders import import_clip, pyiqa_metric
from eval.metric.metrics import METRICS, Metric, Way
from eval.metric.weight_files import Weight, WeightsMissingError, digest, find, time_limit

SEED = 123  # of crops that a network draws
LIBRARIES = ("pyiqa", "torchvision", "timm")  # that download weights by themselves

# Metrics that have no place here: what they take beside an image and its original.
ELSEWHERE = {
    "sfid": "compares two sets of images; fid does so here",
    "fid_dinov2": "compares two sets of images; fid does so here",
    "inception_score": "judges a set of images; fid does so here",
    "clipscore": "compares an image with a caption",
    "fgresq_pair": "says which of two images is better, and gives no score of one",
}


@cache
def registry() -> dict[str, Metric]:
    """pyiqa's metrics by name, without those that METRICS lists and those of ELSEWHERE."""
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    return {
        name: Metric(
            reference=config["metric_mode"] == "FR",
            higher=not config.get("lower_better", False),
            ways=(Way(partial(_build, name)),),
            batch=False,
            by_name=True,
        )
        for name, config in DEFAULT_CONFIGS.items()
        if name not in METRICS and name not in ELSEWHERE
    }


class _Seeded(nn.Module):
    """A network that draws the same crops of an image each time."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, *images: torch.Tensor) -> torch.Tensor:
        """Scores of images, and of their originals where it compares; as pyiqa's metric."""
        with _seeded():
            return self.net(*images)


def fetch(name: str, folder: Path | None) -> list[Path]:
    """The files of pyiqa's repository that a metric reads, downloaded where they are missing.

    Only building the network tells which these are, so that it is built once and let go.

    Args:
        name: A key of `registry`.
        folder: Looked into before the cache.

    Raises:
        WeightsMissingError: Weights, or a package, cannot be had; says why.
    """
    read: list[Path] = []

    def look(weight: Weight) -> Path:
        try:
            read.append(find(weight, folder))
        except WeightsMissingError as missing:
            raise WeightsMissingError(
                f"{missing}; put {weight.file} into a folder and pass it as --iqa-weights"
            ) from None
        return read[-1]

    try:
        _create(name, look)
    except ModuleNotFoundError as error:
        raise WeightsMissingError(
            f"pyiqa's {name} needs the package {error.name}; pip install {error.name}"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise WeightsMissingError(
            f"the weights of pyiqa's {name} cannot be had ({first_line(error)}); run once with a "
            "network, or bring the caches of torch.hub and huggingface_hub from such a machine"
        ) from None
    return list(dict.fromkeys(read))


def _build(name: str, *paths: Path) -> nn.Module:
    """The network of what `fetch` found."""
    given = {path.name: path for path in paths}
    return _create(name, lambda weight: given.get(weight.file) or find(weight, None))


def _create(name: str, look: Callable[[Weight], Path]) -> nn.Module:
    """The network, of the hub's cache alone if that will do.

    Without a network the hub's libraries would ask again and again, for minutes.
    """
    from huggingface_hub import constants

    try:
        with mock.patch.object(constants, "HF_HUB_OFFLINE", True):
            return _made(name, look)
    except OSError:
        if constants.HF_HUB_OFFLINE or not can_reach(constants.ENDPOINT):
            raise
    return _made(name, look)


def _made(name: str, look: Callable[[Weight], Path]) -> nn.Module:
    from pyiqa.utils.download_util import DEFAULT_CACHE_DIR

    Path(DEFAULT_CACHE_DIR).mkdir(parents=True, exist_ok=True)  # LIQE writes there, too
    import_clip()
    with _seeded(), _files_by(look), _tensors_alone(), time_limit():
        return _Seeded(pyiqa_metric(name)())


@contextlib.contextmanager
def _files_by(look: Callable[[Weight], Path]) -> Iterator[None]:
    """pyiqa and its backbones ask `look` for the files that they would download themselves."""
    from pyiqa.archs import clip_model
    from pyiqa.utils import download_util

    def load_file(
        url: str, model_dir: str | None = None, progress: bool = True, file_name: str | None = None
    ) -> str:
        return str(look(Weight(file_name or _file_of(url), "weights of pyiqa", url)))

    def load_backbone(url: str, *_: Any, **options: Any) -> Any:
        weight = Weight(_file_of(url), "a backbone", url, cache="checkpoints")
        return torch.load(look(weight), map_location="cpu")

    def load_clip(url: str, root: str) -> str:
        return str(_published_clip(look, url))

    replaced = [
        (download_util.load_file_from_url, load_file),
        (torch.hub.load_state_dict_from_url, load_backbone),
        (clip_model._download, load_clip),
    ]
    for theirs, ours in replaced:
        _replace(theirs, ours)
    try:
        yield
    finally:
        for theirs, ours in replaced:
            _replace(ours, theirs)


def _file_of(url: str) -> str:
    return unquote(urlparse(url).path).rpartition("/")[2]


def _published_clip(look: Callable[[Weight], Path], url: str) -> Path:
    """OpenAI's file of a CLIP: a TorchScript archive, which runs code, so that no other will do.

    Its address holds its digest.
    """
    published, file = urlparse(url).path.split("/")[-2:]
    path = look(Weight(file, "OpenAI's CLIP", url, cache="clip", sha256=published))
    if digest(path) != published:
        raise WeightsMissingError(
            f"{path}: is not OpenAI's {file} (SHA-256 differs); fetch it again from {url}"
        )
    return path


def _replace(one: Any, other: Any) -> None:
    """`other` in place of `one` in every module of LIBRARIES that names it."""
    for module_name, module in list(sys.modules.items()):
        if module_name != "torch.hub" and module_name.partition(".")[0] not in LIBRARIES:
            continue
        for name, value in list(vars(module).items()):
            if value is one:
                setattr(module, name, other)


@contextlib.contextmanager
def _tensors_alone() -> Iterator[None]:
    """torch.load reads tensors and runs nothing, whatever its caller asks for."""
    load = torch.load

    def careful(file: Any, *given: Any, **options: Any) -> Any:
        try:
            return load(file, *given, **options | {"weights_only": True})
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise WeightsMissingError(
                f"{file}: cannot be read as plain tensors ({first_line(error)})"
            ) from None

    with mock.patch.object(torch, "load", careful):
        yield


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """All generators at SEED, and afterwards where they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        np.random.seed(SEED)
        random.seed(SEED)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
