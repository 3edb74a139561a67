"""Training losses on images [B, 3, H, W] in [0, 1] and on latents; each returns a scalar."""

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

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


def lpips(weights: str | Path, net: str = "squeeze") -> nn.Module:
    """LPIPS (arXiv 1801.03924) through pyiqa with weights from a local file; called as loss(image, target).

    `weights` holds pyiqa's names (`net.*`, `lin*`), safetensors or a torch file. The module is frozen.
    """
    from pyiqa.archs.lpips_arch import LPIPS

    path = Path(weights)
    if not path.is_file():
        raise UserError(f"LPIPS weights {path} do not exist; set losses.lpips_weights to a file with pyiqa's names "
                        "for the chosen network, or remove the lpips loss")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchvision renamed an argument that pyiqa passes
        metric = LPIPS(net=net, pretrained=False, pnet_rand=True)
    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    missing, unexpected = metric.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.startswith(("lins.", "scaling_layer"))]
    if missing or unexpected:
        raise UserError(f"LPIPS weights {path} do not fit the '{net}' network: missing {missing[:3]}, "
                        f"unexpected {list(unexpected)[:3]}; name the file of that network")
    return metric.requires_grad_(False).eval()
