"""Detail that is drawn too strong, taken back in closed form in the last convolution.

A network trained with a discriminator draws details with more contrast than it is sure of. Mixing its image with a
little bicubic enlargement costs NIQE, which divides by local contrast, next to nothing and wins PSNR, SSIM and LPIPS.
Here no image is mixed: the last convolution takes on as much of the mixture as it can, by least squares over its own
inputs. Same network, same cost.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.errors import UserError
from compress.data.degradation import Degradation
from compress.model.sr_model import SRModel
from compress.process.resample import upsample
from compress.training.stages import seeded_pair

CROPS = 48
PIXELS = 2**14  # of every crop, at random
RIDGE = 1e-4  # of the mean square of an input


def last_convolution(model: SRModel, lr: torch.Tensor) -> tuple[nn.Conv2d, float]:
    """The convolution whose result is the image, but for a factor and an offset, and that factor."""
    ran: list[nn.Conv2d] = []
    handles = [
        m.register_forward_hook(lambda module, *_: ran.append(module))
        for m in model.decoder.modules()
        if isinstance(m, nn.Conv2d)
    ]
    try:
        image = model.network(lr)
    finally:
        for handle in handles:
            handle.remove()
    layer = ran[-1]
    if (
        layer.bias is None
        or layer.out_channels != image.shape[1]
        or layer.stride != (1, 1)
        or layer.groups != 1
    ):
        raise UserError(
            "soften: the decoder does not end with a plain convolution to pixels; leave soften out"
        )
    layer.bias.data += 0.1
    gain = (model.network(lr) - image).mean().item() / 0.1
    layer.bias.data -= 0.1
    return layer, gain


@torch.no_grad()
def soften(
    model: SRModel,
    crops: Iterable[torch.Tensor],
    degradation: Degradation,
    key: tuple[int, ...],
    share: float,
) -> float:
    """Move the image of `model` by `share` of its way to bicubic enlargement, as far as its last convolution can.

    `crops` are photographs [B, 3, 4h, 4w] in [0, 1], degraded as a function of `key`. Returns the part of the wanted
    change, of its mean square on these crops, that the convolution took on. Raises UserError for a decoder that ends
    otherwise.
    """
    layer, gain, square, product, wanted = None, 1.0, 0.0, 0.0, 0.0
    for number, hr in enumerate(crops):
        lr = seeded_pair(hr, degradation, *key, number)
        if layer is None:
            layer, gain = last_convolution(model, lr)
        seen: list[torch.Tensor] = []
        handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            change = share / gain * (upsample(lr) - model.network(lr))
        finally:
            handle.remove()
        rows = (
            F.unfold(seen[0].float(), layer.kernel_size, padding=layer.padding)
            .transpose(1, 2)
            .flatten(0, 1)
        )
        targets = change.float().flatten(2).transpose(1, 2).flatten(0, 1)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(number))
        picked = order[: PIXELS * len(hr)].to(rows.device)
        x = F.pad(rows[picked], (0, 1), value=1.0).double()
        y = targets[picked].double()
        square, product, wanted = (
            square + x.T @ x,
            product + x.T @ y,
            wanted + y.square().sum().item(),
        )
    if layer is None:
        raise UserError("soften: there are no crops to learn from")
    damping = (
        RIDGE
        * square.diagonal().mean()
        * torch.eye(len(square), dtype=torch.float64, device=square.device)
    )
    solution = torch.linalg.solve(square + damping, product)
    missed = (
        wanted
        - 2 * (solution * product).sum().item()
        + (solution * (square @ solution)).sum().item()
    )
    layer.weight.data += solution[:-1].T.reshape(layer.weight.shape).to(layer.weight)
    layer.bias.data += solution[-1].to(layer.bias)
    return 1 - missed / wanted
