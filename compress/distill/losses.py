"""Training losses on images [B, 3, H, W] in [0, 1] and on latents; each returns a scalar."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torchvision import models

from compress.errors import UserError


def kl(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL divergence to the unit Gaussian, mean over all latent elements, in nats."""
    return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()


def gan_generator(fake_logits: torch.Tensor) -> torch.Tensor:
    """Non-saturating generator loss: softplus(-D(fake))."""
    return F.softplus(-fake_logits).mean()


def gan_discriminator(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """softplus(D(fake)) + softplus(-D(real))."""
    return F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()


@contextmanager
def _without_download() -> Iterator[None]:
    """pyiqa fetches the AlexNet and VGG backbones whatever it is told; `weights` holds them already."""
    kept = {name: getattr(models, name) for name in ("alexnet", "vgg16")}
    try:
        for name, build in kept.items():
            setattr(models, name, lambda build=build, **_: build(weights=None))
        yield
    finally:
        for name, build in kept.items():
            setattr(models, name, build)


def lpips(weights: str | Path, net: str = "squeeze") -> nn.Module:
    """LPIPS (arXiv 1801.03924) through pyiqa with weights from a local file; called as loss(image, target).

    `weights` holds pyiqa's names (`net.*`, `lin*`), safetensors or a torch file. The module is frozen.
    """
    from pyiqa.archs.lpips_arch import LPIPS

    path = Path(weights)
    if not path.is_file():
        raise UserError(f"LPIPS weights {path} do not exist; set losses.lpips_weights to a file with pyiqa's names "
                        "for the chosen network, or remove the lpips loss")
    with warnings.catch_warnings(), _without_download():
        warnings.simplefilter("ignore", UserWarning)  # torchvision renamed an argument that pyiqa passes
        metric = LPIPS(net=net, pretrained=False, pnet_rand=True)
    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    expected = metric.state_dict()
    # `lins.*` are the same tensors as `lin*`; the scaling layer is constant.
    missing = [k for k in expected if k not in state and not k.startswith(("lins.", "scaling_layer"))]
    unfit = [k for k, v in state.items() if k not in expected or expected[k].shape != v.shape]
    if missing or unfit:
        raise UserError(f"LPIPS weights {path} do not fit the '{net}' network: missing {missing[:3]}, "
                        f"unfit {unfit[:3]}; name the file of that network")
    metric.load_state_dict(state, strict=False)
    return metric.requires_grad_(False).eval()
