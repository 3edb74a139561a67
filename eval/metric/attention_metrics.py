"""AHIQ and TOPIQ: pyiqa's networks, with backbones from files instead of timm's downloads."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.core.errors import UserError
from eval.metric.builders import Build, pyiqa_metric
from eval.metric.weight_files import sound


@contextlib.contextmanager
def _random_backbones() -> Iterator[None]:
    """timm makes networks without downloading values, which files then bring."""
    import timm

    create = timm.create_model

    timm.create_model = lambda name, pretrained=False, **options: create(
        name, pretrained=False, **options
    )
    try:
        yield
    finally:
        timm.create_model = create


def _filled(network: nn.Module, values: dict[str, torch.Tensor], path: Path) -> None:
    """Set all values of a network.

    Raises:
        UserError: The file is that of another network.
    """
    try:
        network.load_state_dict(values, strict=True)
    except RuntimeError:
        raise UserError(
            f"{path}: holds other tensors than this metric's network; fetch the file again "
            "(python -m eval.weights says from where)"
        ) from None


def _values(path: Path) -> Any:
    """The tensors of a file, of safetensors or of `torch.save`."""
    sound(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def topiq(name: str) -> Build:
    """TOPIQ (arXiv 2308.03060), whose one file holds its ResNet-50 as well.

    Args:
        name: As pyiqa calls it: topiq_nr or topiq_fr.
    """
    return partial(_topiq, name)


def _topiq(name: str, path: Path) -> nn.Module:
    with _random_backbones():
        metric = pyiqa_metric(name, pretrained=False)()
    _filled(metric.get_submodule("net"), _values(path)["params"], path)
    return metric


def ahiq(head: Path, resnet: Path, vit: Path) -> nn.Module:
    """AHIQ (arXiv 2204.10485) of its two heads, and timm's ResNet-50 and ViT-B/8."""
    with _random_backbones():
        metric = pyiqa_metric("ahiq", pretrained=False)()
    values = _values(head)
    _filled(metric.get_submodule("net.resnet50"), _values(resnet), resnet)
    _filled(metric.get_submodule("net.vit"), _values(vit), vit)
    _filled(metric.get_submodule("net.regressor"), values["regressor_model_state_dict"], head)
    _filled(metric.get_submodule("net.deform_net"), values["deform_net_model_state_dict"], head)
    return metric
