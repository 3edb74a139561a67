"""How each metric's network is made from its weight files; pyiqa downloads nothing by itself."""

import contextlib
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from compress.core.errors import UserError
from eval.metric.weight_files import as_hub, digest, known, sound

Build = Callable[..., nn.Module]


def pyiqa_metric(name: str, **options) -> Build:
    """A metric without weight files.

    Args:
        name: As pyiqa calls it.
        options: What else `pyiqa.create_metric` takes.
    """

    def build() -> nn.Module:
        import pyiqa

        with contextlib.redirect_stdout(sys.stderr):
            return pyiqa.create_metric(name, device="cpu", **options)

    return build


def single(name: str) -> Build:
    """A metric whose one weight file pyiqa takes by path."""

    def build(path: Path) -> nn.Module:
        return pyiqa_metric(name, pretrained_model_path=str(sound(path)))()

    return build


def with_backbone(name: str) -> Build:
    """A metric of a torchvision backbone and a head."""

    def build(backbone: Path, head: Path) -> nn.Module:
        with as_hub({f"checkpoints/{backbone.name}": sound(backbone)}):
            return single(name)(head)

    return build


def lpips_squeeze(path: Path) -> nn.Module:
    """LPIPS-SqueezeNet from one file that holds backbone and heads."""
    from safetensors.torch import load_file

    return _squeeze_filled(load_file(sound(path)), path)


def lpips_squeeze_parts(backbone: Path, heads: Path) -> nn.Module:
    """The same from torchvision's SqueezeNet and pyiqa's heads."""
    trunk = torch.load(sound(backbone), map_location="cpu", weights_only=True)
    values = torch.load(sound(heads), map_location="cpu", weights_only=True)
    net = _squeeze()
    for name in net.state_dict():
        # net.slice2.3.squeeze.weight is torchvision's features.3.squeeze.weight.
        if name.startswith("net.slice"):
            values[name] = trunk["features." + name.split(".", 2)[2]]
    return _squeeze_filled(values, heads)


def _squeeze() -> nn.Module:
    from pyiqa.archs.lpips_arch import LPIPS

    with warnings.catch_warnings(action="ignore"):  # pyiqa calls torchvision in a deprecated way
        return LPIPS(net="squeeze", pnet_rand=True, pretrained=False)


def _squeeze_filled(values: dict[str, torch.Tensor], path: Path) -> nn.Module:
    net = _squeeze()
    left = net.load_state_dict(values, strict=False)
    # `lins.*` are aliases of `lin*`, the scaling layer's two constants are set in code
    missing = [k for k in left.missing_keys if not k.startswith(("lins.", "scaling_layer."))]
    if missing or left.unexpected_keys:
        raise UserError(
            f"{path}: not the weights of LPIPS-SqueezeNet (missing {missing[:2]}, unknown "
            f"{left.unexpected_keys[:2]}); use lpips_squeeze_v0.1.safetensors"
        )
    return net.requires_grad_(False).eval()


class _InDouble(TorchFunctionMode):
    """Every `.float()` gives float64."""

    def __torch_function__(self, func, kinds, args=(), kwargs=None):
        if func is torch.Tensor.float:
            return args[0].double()
        return func(*args, **(kwargs or {}))


class Vif(nn.Module):
    """pyiqa's VIF in float64.

    In float32 its differences of squares vary by 4e-4 between processors (measured).
    """

    def __init__(self):
        super().__init__()
        self.net = pyiqa_metric("vif")()

    def forward(self, restored: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Scores [B] of images and their originals, both float [B, 3, H, W] in [0, 1]."""
        with _InDouble():
            return self.net(restored.double(), reference.double())


def clipiqa(path: Path) -> nn.Module:
    """CLIP-IQA on OpenAI's CLIP.

    CLIP's file is a TorchScript archive, which runs code: only the published one is loaded.

    Raises:
        UserError: The file is another one.
    """
    weight = known()["clip_rn50"]
    published = weight.sha256 or ""
    if digest(path) != published:
        raise UserError(
            f"{path}: not OpenAI's CLIP RN50 (SHA-256 differs from {published[:12]}…); "
            f"fetch it again from {weight.url}"
        )
    import_clip()
    with as_hub({f"clip/{path.name}": path}):
        return pyiqa_metric("clipiqa")()


def import_clip() -> None:
    """Import openai-clip, which asks setuptools' pkg_resources for `packaging`.

    setuptools >= 82 has no pkg_resources.
    """
    if "clip" in sys.modules:
        return
    if importlib.util.find_spec("pkg_resources") is not None:
        importlib.import_module("clip")
        return
    import packaging.version

    shim = types.ModuleType("pkg_resources")
    vars(shim)["packaging"] = packaging
    sys.modules["pkg_resources"] = shim
    try:
        importlib.import_module("clip")
    finally:
        del sys.modules["pkg_resources"]


def maniqa(path: Path) -> nn.Module:
    """MANIQA from one file.

    pyiqa has timm download ImageNet weights that the checkpoint then overwrites: that is left out.
    """
    import timm

    create = timm.create_model
    timm.create_model = lambda name, pretrained=False, **options: create(
        name, pretrained=False, **options
    )
    try:
        metric = pyiqa_metric("maniqa-pipal", pretrained=False)()
    finally:
        timm.create_model = create
    values = torch.load(sound(path), map_location="cpu", weights_only=True)
    metric.get_submodule("net").load_state_dict(values, strict=True)
    return metric


def inception(path: Path) -> nn.Module:
    """The network whose features FID compares."""
    from eval.metric.fid import Inception

    # pyiqa calls torchvision in a deprecated way.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(action="ignore"):
        return Inception(sound(path))


def niqe(path: Path) -> nn.Module:
    """NIQE in the arithmetic of the published tables."""
    from eval.metric.niqe import Niqe

    return Niqe(sound(path))
