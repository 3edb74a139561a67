"""A teacher of training: a network whose images the student learns to make.

It is one of our models, or any file that spandrel reads. (A folder of pairs needs no network:
compress/data/pairs.py.)
"""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from compress.core.errors import UserError
from compress.core.hub import local_file
from compress.networks.spandrel_network import read_descriptor
from compress.recipe.checkpoint import FORMAT, MODEL_FILE, load_model

# Low-resolution image [B, 3, h, w] -> image [B, 3, 4h, 4w], both in [0, 1].
Network = Callable[[torch.Tensor], torch.Tensor]


def teacher_file(path: str | Path) -> Path:
    """The weight file of the teacher `path`: a run directory's, or the file itself.

    Raises:
        UserError: There is none.
    """
    path = local_file(path, MODEL_FILE)
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"teacher.path: {path} is no teacher; give a run directory with {MODEL_FILE}, "
            "a weight file of this toolkit or one that spandrel reads, or a folder with "
            "LR/ and target/ images"
        )
    return file


def load_teacher(path: str | Path, device: torch.device | str = "cpu") -> Network:
    """The network of a teacher, frozen.

    Args:
        path: A run directory or a weight file.
        device: Where the network runs.

    Returns:
        Takes and returns tensors of the CPU.

    Raises:
        UserError: Neither this toolkit nor spandrel reads the file, or the network does not make
            an RGB image four times as large.
    """
    file = teacher_file(path)
    network = load_model(file) if _is_ours(file) else read_descriptor(file, "teacher.path")
    network = network.to(device)

    @torch.inference_mode()
    def run(lr: torch.Tensor) -> torch.Tensor:
        return network(lr.to(device)).float().clamp(0, 1).cpu()

    return run


def _is_ours(file: Path) -> bool:
    """Whether this toolkit wrote `file`: the format in its header says so, whatever its version."""
    if file.suffix != ".safetensors":
        return False
    try:
        with safe_open(file, framework="pt") as reader:
            header = reader.metadata() or {}
            name, _, _ = header.get("format", "").partition("/")
            return name == FORMAT.partition("/")[0]
    except SafetensorError as error:
        raise UserError(
            f"teacher.path: {file} is not a readable safetensors file ({error}); fetch it again"
        ) from None
