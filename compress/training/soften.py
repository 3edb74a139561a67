"""Detail that is drawn too strong, taken back in closed form in the last convolution.

A network trained with a discriminator draws details with more contrast than it is sure of. Mixing
its image with a little bicubic enlargement costs NIQE, which divides by local contrast, next to
nothing, and wins PSNR, SSIM and LPIPS. Here no image is mixed. The last convolution takes on as
much of the mixture as it can, by least squares over its own inputs. It stays the same network, at
the same cost.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.errors import UserError
from compress.data.presets import Degradation
from compress.data.seeded import seeded_pair
from compress.model.sr_model import SRModel
from compress.process.resample import upsample

CROPS = 48
PIXELS = 2**14  # of every crop, at random
RIDGE = 1e-4  # of the mean square of an input
PROBE = 0.1  # how far a bias is moved to see what becomes of it in the image


def last_convolution(model: SRModel, lr: torch.Tensor) -> tuple[nn.Conv2d, float]:
    """The convolution whose result is the image, but for a factor and an offset.

    Args:
        model: Is run on `lr` and ends unchanged.
        lr: A low-resolution image [B, 3, h, w] in [0, 1].

    Returns:
        The convolution, and the factor.

    Raises:
        UserError: The decoder ends with something else.
    """
    layer, image = _last_that_runs(model, lr)
    is_plain = layer.stride == (1, 1) and layer.groups == 1
    if layer.bias is None or not is_plain or layer.out_channels != image.shape[1]:
        raise UserError(
            "soften: the decoder does not end with a plain convolution to pixels; leave soften out"
        )
    layer.bias.data += PROBE
    gain = (model.network(lr) - image).mean().item() / PROBE
    layer.bias.data -= PROBE
    return layer, gain


def _last_that_runs(model: SRModel, lr: torch.Tensor) -> tuple[nn.Conv2d, torch.Tensor]:
    """(the last convolution of the decoder that runs, the model's image of `lr`)."""
    ran: list[nn.Conv2d] = []
    handles = [
        module.register_forward_hook(lambda layer, *_: ran.append(layer))
        for module in model.decoder.modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        image = model.network(lr)
    finally:
        for handle in handles:
            handle.remove()
    return ran[-1], image


class _LeastSquares:
    """The sums of a least-squares problem, from rows that come piece by piece."""

    def __init__(self, inputs: int, outputs: int, device: torch.device):
        self.square = torch.zeros(inputs, inputs, dtype=torch.float64, device=device)
        self.product = torch.zeros(inputs, outputs, dtype=torch.float64, device=device)
        self.wanted = 0.0

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Rows [N, inputs] and what they should give, [N, outputs]."""
        self.square = self.square + x.T @ x
        self.product = self.product + x.T @ y
        self.wanted = self.wanted + y.square().sum().item()

    def solve(self) -> tuple[torch.Tensor, float]:
        """(solution [inputs, outputs], the part of the wanted sum of squares that it gives)."""
        eye = torch.eye(len(self.square), dtype=torch.float64, device=self.square.device)
        damping = RIDGE * self.square.diagonal().mean() * eye
        solution = torch.linalg.solve(self.square + damping, self.product)
        cross = (solution * self.product).sum().item()
        own = (solution * (self.square @ solution)).sum().item()
        missed = self.wanted - 2 * cross + own
        return solution, 1 - missed / self.wanted


def _patches(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """What `layer` sees at every pixel of its input `x`: [B * H * W, C * kh * kw]."""
    if isinstance(layer.padding, str):
        raise UserError(
            f"soften: the last convolution pads by '{layer.padding}', not by a number of pixels; "
            "leave soften out"
        )
    columns = F.unfold(x.float(), layer.kernel_size, padding=layer.padding)
    return columns.transpose(1, 2).flatten(0, 1)


@torch.no_grad()
def soften(
    model: SRModel,
    crops: Iterable[torch.Tensor],
    degradation: Degradation,
    key: tuple[int, ...],
    share: float,
) -> float:
    """Move the image of `model` towards bicubic enlargement, as far as its last convolution can.

    Args:
        model: Is changed in place, in its last convolution alone.
        crops: Photographs [B, 3, 4h, 4w] in [0, 1].
        degradation: Makes low-resolution images of them.
        key: The degraded images are a function of it.
        share: How far: 0 not at all, 1 the whole way.

    Returns:
        The part of the wanted change, of its mean square on these crops, that the convolution
        took on.

    Raises:
        UserError: The decoder does not end with a plain convolution, or there are no crops.
    """
    layer: nn.Conv2d | None = None
    problem: _LeastSquares | None = None
    gain = 1.0
    for number, hr in enumerate(crops):
        lr = seeded_pair(hr, degradation, *key, number)
        if layer is None:
            layer, gain = last_convolution(model, lr)
        x, y = _rows(model, layer, lr, share / gain)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(number))
        picked = order[: PIXELS * len(hr)].to(x.device)
        inputs = F.pad(x[picked], (0, 1), value=1.0).double()  # the bias is one input more
        if problem is None:
            problem = _LeastSquares(inputs.shape[1], y.shape[1], x.device)
        problem.add(inputs, y[picked].double())
    if layer is None or layer.bias is None or problem is None:
        raise UserError("soften: there are no crops to learn from")
    solution, taken = problem.solve()
    layer.weight.data += solution[:-1].T.reshape(layer.weight.shape).to(layer.weight)
    layer.bias.data += solution[-1].to(layer.bias)
    return taken


def _rows(
    model: SRModel, layer: nn.Conv2d, lr: torch.Tensor, factor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `layer` sees at every pixel, and `factor` of the way from there to bicubic.

    Shapes are [B * H * W, C * kh * kw] and [B * H * W, 3].
    """
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        change = factor * (upsample(lr) - model.network(lr))
    finally:
        handle.remove()
    targets = change.float().flatten(2).transpose(1, 2).flatten(0, 1)
    return _patches(layer, seen[0]), targets
