"""Small weight files of other people's networks, with random values."""

from pathlib import Path

import torch
from safetensors.torch import save_file

WIDTH = 8


def compact(scale: int = 4) -> dict[str, torch.Tensor]:
    """Tensors of a tiny SRVGGNetCompact, under Real-ESRGAN's names."""
    torch.manual_seed(0)
    return {
        "body.0.weight": torch.randn(WIDTH, 3, 3, 3) / 9,
        "body.0.bias": torch.zeros(WIDTH),
        "body.1.weight": torch.full((WIDTH,), 0.2),
        "body.2.weight": torch.randn(WIDTH, WIDTH, 3, 3) / 9,
        "body.2.bias": torch.zeros(WIDTH),
        "body.3.weight": torch.full((WIDTH,), 0.2),
        "body.4.weight": torch.randn(3 * scale**2, WIDTH, 3, 3) / 50,
        "body.4.bias": torch.zeros(3 * scale**2),
    }


def compact_file(folder: Path, scale: int = 4) -> Path:
    """A file with them."""
    path = folder / "compact.safetensors"
    save_file(compact(scale), path)
    return path


def span_file(folder: Path) -> Path:
    """A file of a tiny SPAN, whose convolutions are folded from branches at each run."""
    from spandrel.architectures.SPAN import SPAN  # an extra

    torch.manual_seed(0)
    network = SPAN(num_in_ch=3, num_out_ch=3, feature_channels=WIDTH, img_range=1.0)
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    path = folder / "span.safetensors"
    save_file(tensors, path)
    return path
