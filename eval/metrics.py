"""Image quality by pyiqa, under the names and settings of the StableSR / OSEDiff benchmark.

PSNR and SSIM are taken on the luma of ITU-R BT.601 (ycbcr), without a cropped border; pyiqa's own default
(yiq) reads 1.32 dB lower. Every other metric has pyiqa's default settings.
"""

import contextlib
import hashlib
import importlib.util
import math
import sys
import types
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from compress.errors import UserError, nearest
from eval.weights import Weight, WeightsMissing, as_hub, find, sound

LUMA = {"test_y_channel": True, "color_space": "ycbcr"}
_TORCH = "https://download.pytorch.org/models/"
ALEXNET = Weight("alexnet-owt-7be5be79.pth", _TORCH + "alexnet-owt-7be5be79.pth", "checkpoints")
VGG16 = Weight("vgg16-397923af.pth", _TORCH + "vgg16-397923af.pth", "checkpoints")
CLIP_RN50 = Weight("RN50.pt", "https://openaipublic.azureedge.net/clip/models/"
                   "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt", "clip")

Build = Callable[..., nn.Module]


@dataclass(frozen=True)
class Metric:
    """How one metric is built from its weight files and read.

    `reference`: compares with the original image. `higher`: a higher score is better. `least`: shortest side in
    pixels that the implementation takes (measured).
    """

    reference: bool
    higher: bool
    build: Build
    weights: tuple[Weight, ...] = ()
    least: int = 1


def _pyiqa(name: str, **options) -> Build:
    def build() -> nn.Module:
        import pyiqa

        with contextlib.redirect_stdout(sys.stderr):
            return pyiqa.create_metric(name, device="cpu", **options)
    return build


def _single(name: str) -> Build:
    """A metric whose one weight file pyiqa takes by path."""
    def build(path: Path) -> nn.Module:
        return _pyiqa(name, pretrained_model_path=str(sound(path)))()
    return build


def _with_backbone(name: str) -> Build:
    """A metric of a torchvision backbone and a head."""
    def build(backbone: Path, head: Path) -> nn.Module:
        with as_hub({f"checkpoints/{backbone.name}": sound(backbone)}):
            return _single(name)(head)
    return build


def _lpips_squeeze(path: Path) -> nn.Module:
    from pyiqa.archs.lpips_arch import LPIPS
    from safetensors.torch import load_file

    with warnings.catch_warnings(action="ignore"):  # pyiqa calls torchvision in a deprecated way
        net = LPIPS(net="squeeze", pnet_rand=True, pretrained=False)
    left = net.load_state_dict(load_file(sound(path)), strict=False)
    # `lins.*` are aliases of `lin*`, the scaling layer's two constants are set in code
    missing = [k for k in left.missing_keys if not k.startswith(("lins.", "scaling_layer."))]
    if missing or left.unexpected_keys:
        raise UserError(f"{path}: not the weights of LPIPS-SqueezeNet (missing {missing[:2]}, unknown "
                        f"{left.unexpected_keys[:2]}); use lpips_squeeze_v0.1.safetensors")
    return net.requires_grad_(False).eval()


class _InDouble(TorchFunctionMode):
    """Every `.float()` gives float64."""

    def __torch_function__(self, func, kinds, args=(), kwargs=None):
        return args[0].double() if func is torch.Tensor.float else func(*args, **(kwargs or {}))


class _Vif(nn.Module):
    """pyiqa's VIF in float64: in float32 its differences of squares vary by 4e-4 between CPUs (measured)."""

    def __init__(self):
        super().__init__()
        self.net = _pyiqa("vif")()

    def forward(self, restored: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        with _InDouble():
            return self.net(restored.double(), reference.double())


def _clipiqa(path: Path) -> nn.Module:
    expected = CLIP_RN50.url.split("/")[-2]
    if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise UserError(f"{path}: not OpenAI's CLIP RN50 (SHA-256 differs from {expected[:12]}…); "
                        f"fetch it again from {CLIP_RN50.url}")
    if importlib.util.find_spec("pkg_resources") is None:
        # openai-clip asks setuptools' pkg_resources for `packaging`; setuptools >= 82 no longer has the module
        import packaging.version

        shim = types.ModuleType("pkg_resources")
        shim.packaging = packaging
        sys.modules["pkg_resources"] = shim
    with as_hub({f"clip/{path.name}": path}):
        return _pyiqa("clipiqa")()


def _maniqa(path: Path) -> nn.Module:
    """pyiqa has timm download ImageNet weights that the checkpoint then overwrites (strict): leave that out."""
    import timm

    create = timm.create_model
    timm.create_model = lambda name, pretrained=False, **options: create(name, pretrained=False, **options)
    try:
        metric = _pyiqa("maniqa-pipal", pretrained=False)()
    finally:
        timm.create_model = create
    metric.net.load_state_dict(torch.load(sound(path), map_location="cpu", weights_only=True), strict=True)
    return metric


METRICS: dict[str, Metric] = {
    # name                 reference higher  factory                         weight files
    "psnr": Metric(True, True, _pyiqa("psnr", **LUMA)),
    "ssim": Metric(True, True, _pyiqa("ssim", **LUMA)),
    "psnr-rgb": Metric(True, True, _pyiqa("psnr")),
    "ssim-rgb": Metric(True, True, _pyiqa("ssimc")),
    "lpips": Metric(True, False, _with_backbone("lpips"), (ALEXNET, Weight("LPIPS_v0.1_alex-df73285e.pth"))),
    "lpips-squeeze": Metric(True, False, _lpips_squeeze, (Weight("lpips_squeeze_v0.1.safetensors", url=None),)),
    "dists": Metric(True, False, _with_backbone("dists"), (VGG16, Weight("DISTS_weights-f5e65c96.pth"))),
    "niqe": Metric(False, False, _single("niqe"), (Weight("niqe_modelparameters.mat"),), least=96),
    "brisque": Metric(False, False, _single("brisque"), (Weight("brisque_svm_weights.pth"),)),
    "musiq": Metric(False, True, _single("musiq"), (Weight("musiq_koniq_ckpt-e95806b9.pth"),)),
    "clipiqa": Metric(False, True, _clipiqa, (CLIP_RN50,)),
    "maniqa-pipal": Metric(False, True, _maniqa, (Weight("MANIQA_PIPAL-ae6d356b.pth"),)),
    "ms_ssim": Metric(True, True, _pyiqa("ms_ssim"), least=164),
    "cw_ssim": Metric(True, True, _pyiqa("cw_ssim"), least=64),
    "gmsd": Metric(True, False, _pyiqa("gmsd")),
    "nlpd": Metric(True, False, _pyiqa("nlpd")),
    "vif": Metric(True, True, _Vif, least=33),
    "fsim": Metric(True, True, _pyiqa("fsim")),
    "vsi": Metric(True, True, _pyiqa("vsi")),
    "mad": Metric(True, False, _pyiqa("mad")),
}
BENCHMARK = ("psnr", "ssim", "lpips", "lpips-squeeze", "dists", "niqe", "musiq", "clipiqa", "maniqa-pipal")


def check_names(names: Iterable[str]) -> list[str]:
    """`names` without repetitions; raises UserError for one that is not in METRICS or for none at all."""
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in METRICS:
            raise UserError(f"metric '{name}' is unknown{nearest(name, METRICS)}; choose from {', '.join(METRICS)}")
    if not names:
        raise UserError(f"no metric was asked for; choose from {', '.join(METRICS)}")
    return names


class Metrics:
    """The metrics asked for, ready to score; those that cannot be had are in `blank` with the reason and remedy."""

    def __init__(self, names: Iterable[str], weights: str | Path | None = None, device: str = "cpu"):
        self.names = check_names(names)
        self.device = device
        self.blank: dict[str, str] = {}
        folder = None if weights is None else Path(weights)
        if folder is not None and not folder.is_dir():
            raise UserError(f"--iqa-weights {folder}: no such folder; give the folder that holds the metrics' weights")
        self._nets: dict[str, nn.Module] = {}
        for name in self.names:
            try:
                paths = [find(weight, folder) for weight in METRICS[name].weights]
            except WeightsMissing as missing:
                files = " and ".join(weight.file for weight in METRICS[name].weights)
                self.blank[name] = f"{missing}; put {files} into a folder and pass it as --iqa-weights"
                continue
            self._nets[name] = METRICS[name].build(*paths).to(device)

    @torch.no_grad()
    def score(self, restored: torch.Tensor, reference: torch.Tensor | None) -> tuple[dict[str, float | None],
                                                                                    dict[str, str]]:
        """Scores of one image and, for each None among them, the reason.

        Both images float [1, 3, H, W] in [0, 1], multiples of 1/255. Metrics already in `blank` are left out.
        """
        scores: dict[str, float | None] = {}
        reasons: dict[str, str] = {}
        side = min(restored.shape[-2:])
        for name, net in self._nets.items():
            metric = METRICS[name]
            scores[name] = None
            if metric.reference and reference is None:
                reasons[name] = "it compares with the original image and the data has none; add HR images (--hr)"
            elif side < metric.least:
                reasons[name] = f"it needs images of at least {metric.least} pixels a side"
            else:
                scores[name] = _value(net, metric, restored.to(self.device), reference)
                if scores[name] is None:
                    reasons[name] = "it is undefined on an image without texture"
        return scores, reasons


def _value(net: nn.Module, metric: Metric, restored: torch.Tensor, reference: torch.Tensor | None) -> float | None:
    try:
        value = float(net(restored, reference.to(restored)) if metric.reference else net(restored))
    except torch.linalg.LinAlgError:  # NIQE's covariance of a flat image
        return None
    return value if math.isfinite(value) else None
