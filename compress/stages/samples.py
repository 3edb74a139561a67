"""Pictures of what a model makes while it is trained, for whoever looks at the training."""

from pathlib import Path

import torch

from compress.data.degradation import degrade
from compress.data.folder import RandomCrops
from compress.data.presets import Degradation
from compress.model.sr_model import SRModel
from compress.process.resample import upsample

COUNT = 2
SIDE = 128  # of a crop in pixels; rounded up to what the model takes
SEED = 8  # of crops and degradation: the same in all trainings


def has_samples(model: SRModel, images: list[Path], shard: bool) -> bool:
    """Whether `samples` can be made: of one image alone, and by one process."""
    return bool(images) and not shard and not model.wiring.images


@torch.no_grad()
def samples(model: SRModel, images: list[Path], degradation: Degradation) -> torch.Tensor:
    """Crops of photographs: the input enlarged, what the model makes of it, the photograph.

    Draws nothing from torch's own generator, and leaves the model in the mode that it has.

    Args:
        model: With the values to show.
        images: Photographs.
        degradation: What makes the low-resolution images.

    Returns:
        Float [1, 3, COUNT * H, 3 * H] in [0, 1], on the CPU.
    """
    step = 4 * model.multiple
    crops = RandomCrops(images, -(-SIDE // step) * step, COUNT, SEED)
    hr = torch.stack([crops[i] for i in range(COUNT)])
    lr = degrade(hr, degradation, torch.Generator().manual_seed(SEED))
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        made = model.eval()(lr.to(device)).float().clamp(0, 1).cpu()
    for module, mode in modes:
        module.training = mode
    rows = torch.cat([upsample(lr).clamp(0, 1), made, hr], -1)
    return torch.cat(list(rows), -2).unsqueeze(0)
