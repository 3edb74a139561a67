"""The images that an exported graph is compared with torch on."""

import torch

from compress.core.errors import UserError, nearest
from compress.data.calibration import calibration_images
from export.graphs.probes import probes

PHOTOGRAPH = "photo"  # how the names of photographs begin
PHOTOGRAPH_SEED = 1000  # a calibration with a small seed sees other crops
SMALL = (16, 16)  # pixels; enough to ask for names


def photographs(
    lr_size: tuple[int, int], count: int = 2, seed: int = PHOTOGRAPH_SEED
) -> dict[str, torch.Tensor]:
    """Crops of degraded embedded photographs.

    Args:
        lr_size: Height and width in pixels.
        count: How many.
        seed: Of the crops.

    Returns:
        `photo 1`, `photo 2`, ... -> float32 [1, 3, height, width] in [0, 1].
    """
    height, width = lr_size
    crops = calibration_images("embedded", count, max(lr_size), seed)
    return {
        f"{PHOTOGRAPH} {i}": crop[..., :height, :width].contiguous()
        for i, crop in enumerate(crops, start=1)
    }


def parity_images(
    lr_size: tuple[int, int], seed: int, names: tuple[str, ...] | None = None
) -> dict[str, torch.Tensor]:
    """The probes and two photographs, or those of them that are named.

    Args:
        lr_size: Height and width in pixels.
        seed: Of the probes.
        names: None for all.

    Returns:
        Name -> float32 [1, 3, height, width] in [0, 1].

    Raises:
        UserError: There is no image of that name.
    """
    images = probes(lr_size, seed) | photographs(lr_size)
    if names is None:
        return images
    check_probes(names)
    return {name: images[name] for name in names}


def check_probes(names: tuple[str, ...]) -> None:
    """Raise UserError for a name that none of the images has."""
    known = (*probes(SMALL), *photographs(SMALL))
    for name in names:
        if name not in known:
            raise UserError(
                f"probe '{name}' is unknown{nearest(name, known)}; choose from {', '.join(known)}"
            )
