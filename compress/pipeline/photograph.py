"""A photograph as people have it in Python: a file, Pillow's image, an array or a tensor."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from compress.core.errors import UserError
from compress.core.image import check_image_tensor, read_image

Photograph = str | Path | Image.Image | np.ndarray | torch.Tensor


def as_tensor(photograph: Photograph) -> torch.Tensor:
    """A photograph as float [1, 3, h, w] in [0, 1].

    Raises:
        UserError: It cannot be read, or is an array of another kind.
    """
    if isinstance(photograph, str | Path):
        return read_image(photograph)
    if isinstance(photograph, Image.Image):
        photograph = np.asarray(photograph.convert("RGB"))
    if isinstance(photograph, np.ndarray):
        if photograph.dtype != np.uint8 or photograph.ndim != 3 or photograph.shape[2] != 3:
            raise UserError(
                f"the photograph is an array {photograph.dtype} {list(photograph.shape)}; "
                "give uint8 [height, width, 3], or a float tensor"
            )
        pixels = torch.from_numpy(photograph.astype(np.float32) / 255)
        photograph = pixels.permute(2, 0, 1)
    if not isinstance(photograph, torch.Tensor):
        raise UserError(
            f"the photograph is a {type(photograph).__name__}; give a file, Pillow's image, uint8 "
            "[height, width, 3], or a float tensor"
        )
    if photograph.ndim == 3:
        photograph = photograph.unsqueeze(0)
    return check_image_tensor(photograph, "the photograph")
