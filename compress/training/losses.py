"""Training losses on images [B, 3, H, W] in [0, 1] and on latents; each returns a scalar."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torchvision import models

from compress.core.errors import UserError
from compress.core.hub import local_file
from compress.core.tensors import UNREADABLE, State

BACKBONES = ("alexnet", "vgg16")  # of torchvision, which pyiqa builds metrics on
RGB = 3
POOLED_SLICES = ("slice2", "slice3", "slice4")  # of pyiqa's VGG16, that begin with pooling
FIRST_KERNEL = "net.slice1.0.weight"
FLAT = 1e-6  # added to a squared gradient
# Of the texture loss: the side of a block, the step between blocks, and the blocks that one
# strength is taken over, along each side. All but the last in pixels.
BLOCK = 8
BLOCK_STEP = 4
BLOCKS_TOGETHER = 3
FAINT = 1e-5  # added to a mean square: a strength of 0 has no derivative


def kl(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL divergence to the unit Gaussian, mean over all latent elements, in nats."""
    return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()


def frequency(image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 between the 2-D Fourier transforms of two images [B, C, H, W].

    The transform is orthonormal (divided by sqrt(H * W)), so that the loss does not grow with the
    image and is of the size of the L1 of the pixels. It is the mean over the half plane that
    `rfft2` gives, both parts of every value. Every frequency weighs the same, so that fine detail,
    which has little energy, counts as much as the rest.
    """
    with torch.autocast(image.device.type, enabled=False):  # sixteen bits do not hold the sums
        difference = torch.fft.rfft2(image.float() - target.float(), norm="ortho")
        return torch.view_as_real(difference).abs().mean()


def cosines(side: int) -> torch.Tensor:
    """The orthonormal 2-D cosine transform of a block, without its mean.

    Returns:
        Filters [side * side - 1, 1, side, side], each of norm 1.
    """
    position = torch.arange(side) + 0.5
    order = torch.arange(side)
    waves = torch.cos(torch.pi / side * order[:, None] * position)  # [order, position]
    waves = F.normalize(waves, dim=1)
    pairs = torch.einsum("ay,bx->abyx", waves, waves)
    return pairs.reshape(side * side, 1, side, side)[1:]


def texture(image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """How much the strength of detail differs between two images [B, C, H, W].

    Blocks of 8 x 8 pixels, every 4 pixels, are transformed by cosines. The strength of a wave at a
    place is the root of its mean square over 3 x 3 blocks, 16 x 16 pixels. The loss is the mean L1
    of the strengths of all waves, channels and places.

    It does not ask where a wave has its crests. So an image whose detail cannot be told from the
    input pays for being soft, and not for putting its grain elsewhere. L1 alone does the reverse.
    """
    with torch.autocast(image.device.type, enabled=False):
        filters = cosines(BLOCK).to(image.device)

        def strengths(x: torch.Tensor) -> torch.Tensor:
            planes = x.float().flatten(0, 1)[:, None]  # [B * C, 1, H, W]
            waves = F.conv2d(planes, filters, stride=BLOCK_STEP)
            return (F.avg_pool2d(waves.square(), BLOCKS_TOGETHER, 1) + FAINT).sqrt()

        return F.l1_loss(strengths(image), strengths(target))


def gan_generator(fake_logits: torch.Tensor) -> torch.Tensor:
    """The generator's non-saturating loss: softplus(-D(fake)), D being the logits."""
    return F.softplus(-fake_logits).mean()


def gan_discriminator(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """The discriminator's loss: softplus(D(fake)) + softplus(-D(real)), D being the logits."""
    return F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()


def hinge_generator(fake_logits: torch.Tensor) -> torch.Tensor:
    """The generator's loss of a hinge GAN: -D(fake), D being the logits."""
    return -fake_logits.mean()


def hinge_discriminator(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """The discriminator's hinge loss: (relu(1 - D(real)) + relu(1 + D(fake))) / 2."""
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())


def gan_paired(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The relativistic loss softplus(D(second) - D(first)) of logits of one scene (1807.00734).

    It falls as `first` is taken for more real than `second`. The discriminator has the real image
    first, the generator its own.
    """
    return F.softplus(second - first).mean()


@contextmanager
def _without_download() -> Iterator[None]:
    """Inside, torchvision builds its networks without weights.

    pyiqa fetches the AlexNet and VGG backbones whatever it is told, and the weight files that are
    read here hold them already.
    """
    builders = {name: getattr(models, name) for name in BACKBONES}
    try:
        for name, build in builders.items():
            setattr(models, name, _without_weights(build))
        yield
    finally:
        for name, build in builders.items():
            setattr(models, name, build)


def _without_weights(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """`build` that ignores what it is told, and gives random weights."""
    return lambda **_: build(weights=None)


def _read(weights: str | Path, loss: str, network: str) -> State:
    """The named tensors of a safetensors or torch file.

    Raises:
        UserError: There is no such file, or it holds something else.
    """
    path = local_file(weights)
    try:
        return _named_tensors(path)
    except _UnfitError as problem:
        raise UserError(
            f"{loss.upper()} weights {path} {problem}; set {loss}_weights to a safetensors or "
            f"torch file with pyiqa's names for {network}, or remove the loss"
        ) from None


class _UnfitError(Exception):
    """Why a file holds no named tensors, as the end of a sentence about its weights."""


def _named_tensors(path: Path) -> State:
    if not path.is_file():
        raise _UnfitError("do not exist")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, *UNREADABLE) as error:
        raise _UnfitError(f"cannot be read ({type(error).__name__})") from None
    if not isinstance(state, dict):
        raise _UnfitError("are not named tensors alone")
    if not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise _UnfitError("are not named tensors alone")
    return state


def _fill(metric: nn.Module, state: State, where: str, derived: re.Pattern) -> nn.Module:
    """`metric` with the tensors of `state`, frozen.

    Raises:
        UserError: Names or shapes do not fit. Names that match `derived` may be missing.
    """
    expected = metric.state_dict()
    missing = [k for k in expected if k not in state and not derived.match(k)]
    unfit = [k for k, v in state.items() if k not in expected or expected[k].shape != v.shape]
    if missing or unfit:
        raise UserError(
            f"{where}: missing {missing[:3]}, unfit {unfit[:3]}; name a file of that network"
        )
    metric.load_state_dict(state, strict=False)
    return metric.requires_grad_(False).eval()


def lpips(weights: str | Path, net: str = "squeeze") -> nn.Module:
    """LPIPS (arXiv 1801.03924) through pyiqa, with weights from a local file.

    Args:
        weights: A safetensors or torch file with pyiqa's names (`net.*`, `lin*`).
        net: The backbone: squeeze, alex or vgg.

    Returns:
        A frozen module, called as loss(image, target); one distance for each image.

    Raises:
        UserError: The file cannot be read, or is of another network.
    """
    from pyiqa.archs.lpips_arch import LPIPS

    network = f"the '{net}' network"
    state = _read(weights, "lpips", network)
    with warnings.catch_warnings(), _without_download():
        # torchvision renamed an argument that pyiqa passes.
        warnings.simplefilter("ignore", UserWarning)
        metric = LPIPS(net=net, pretrained=False, pnet_rand=True)
    # `lins.*` are the same tensors as `lin*`; the scaling layer is constant.
    return _fill(
        metric,
        state,
        f"LPIPS weights {weights} do not fit {network}",
        re.compile(r"lins\.|scaling_layer"),
    )


def sobel(image: torch.Tensor) -> torch.Tensor:
    """Gradient magnitude [B, 3, H, W] of the mean over channels, equal in all three channels.

    It is 8 times the slope per pixel, as in the code of the group that defined EA-DISTS
    (jkwang28/OSDFace, `edge_aware_dists_demo.py`). That code pads with zeros, which draws a frame
    around every image; here the border is replicated.
    """
    grey = F.pad(image.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = torch.tensor(
        [[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]],
        device=image.device,
        dtype=image.dtype,
    )
    gradient = F.conv2d(grey, torch.stack([across, across.T])[:, None])  # [B, 2, H, W]
    # The root has no derivative at 0, where an image is flat.
    squared = gradient.square().sum(dim=1, keepdim=True)
    return (squared + FLAT).sqrt().expand(-1, 3, -1, -1)


class EdgeAware(nn.Module):
    """A metric of the images plus that of their edges, mean over the batch."""

    def __init__(self, metric: nn.Module):
        """`metric` gives one distance for each image."""
        super().__init__()
        self.metric = metric

    def forward(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The distance, a scalar, of images [B, 3, H, W] in [0, 1]."""
        # Variances are differences of means: sixteen bits do not hold them.
        with torch.autocast(image.device.type, enabled=False):
            image = image.float()
            target = target.float()
            edges = self.metric(sobel(image), sobel(target))
            return (self.metric(image, target) + edges).mean()


def ea_dists(weights: str | Path) -> nn.Module:
    """EA-DISTS of DFOSD (arXiv 2410.04224): DISTS(x, y) + DISTS(S(x), S(y)) with S = `sobel`.

    DISTS (arXiv 2004.07728) comes through pyiqa.

    Args:
        weights: The state dict of `pyiqa.archs.dists_arch.DISTS`: `alpha`, `beta` and the backbone
            `stage*`, which pyiqa's own download lacks.

    Returns:
        A frozen module, called as loss(image, target).

    Raises:
        UserError: The file cannot be read, or is of another network.
    """
    from pyiqa.archs.dists_arch import DISTS

    state = _read(weights, "dists", "DISTS with its backbone")
    with _without_download():
        metric = DISTS(pretrained=False)
    # Constants of the architecture: the normalisation and the windows of the pooling.
    return EdgeAware(
        _fill(
            metric,
            state,
            f"DISTS weights {weights} do not fit DISTS with its backbone",
            re.compile(r"mean|std|.*\.filter"),
        )
    )


def ea_lpips(weights: str | Path, net: str = "squeeze") -> nn.Module:
    """EA-LPIPS of DFOSD: LPIPS(x, y) + LPIPS(S(x), S(y)) with S = `sobel`.

    Arguments and errors are those of `lpips`.

    Returns:
        A frozen module, called as loss(image, target).
    """
    return EdgeAware(lpips(weights, net))


def latent_lpips(weights: str | Path, channels: int) -> nn.Module:
    """LPIPS on latents, InvSR's (arXiv 2412.09013): VGG16 without its pooling but the last one.

    Latents are small and are not scaled. A first convolution of three channels is widened as the
    authors began their training: its red kernel stands for every channel.

    Args:
        weights: A safetensors or torch file with pyiqa's names for LPIPS of vgg, whose first
            convolution takes three channels or `channels`.
        channels: Of the latents.

    Returns:
        A frozen module, called as loss(latent, target); one distance for each latent.

    Raises:
        UserError: The file cannot be read, or is of another network.
    """
    from pyiqa.archs.lpips_arch import LPIPS

    state = _read(weights, "latent_lpips", "the 'vgg' network")
    kernel = state.get(FIRST_KERNEL)
    if kernel is not None and kernel.ndim == 4 and kernel.shape[1] == RGB:
        state = {**state, FIRST_KERNEL: kernel[:, :1].repeat(1, channels, 1, 1)}
    with warnings.catch_warnings(), _without_download():
        warnings.simplefilter("ignore", UserWarning)
        # Version 0.0 is that without a scaling of its input.
        metric = LPIPS(net="vgg", version="0.0", pretrained=False, pnet_rand=True)
    for name in POOLED_SLICES:
        getattr(metric.net, name)[0] = nn.Identity()
    first = metric.net.slice1[0]
    metric.net.slice1[0] = nn.Conv2d(channels, first.out_channels, 3, padding=1)
    where = f"latent LPIPS weights {weights} do not fit the 'vgg' network"
    return _OnLatents(_fill(metric, state, where, re.compile(r"lins\.|scaling_layer")))


class _OnLatents(nn.Module):
    def __init__(self, metric: nn.Module):
        super().__init__()
        self.metric = metric

    def forward(self, latent: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        distance: torch.Tensor = self.metric(latent, target, normalize=False)
        return distance
