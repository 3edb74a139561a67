"""A teacher of training: a network whose images the student learns to make.

It is one of our models, or any file that spandrel reads. (A folder of pairs needs no network:
compress/data/pairs.py.)
"""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from compress.core.errors import UserError
from compress.process.resample import SCALE
from compress.recipe.checkpoint import FORMAT, MODEL_FILE, load_model

# Low-resolution image [B, 3, h, w] -> image [B, 3, 4h, 4w], both in [0, 1].
Network = Callable[[torch.Tensor], torch.Tensor]


def teacher_file(path: str | Path) -> Path:
    """The weight file of the teacher `path`: a run directory's, or the file itself.

    Raises:
        UserError: There is none.
    """
    path = Path(path)
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
    network = load_model(path) if _is_ours(file) else _load_foreign(file)
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


def _load_foreign(file: Path) -> torch.nn.Module:
    """The network of a file that spandrel reads.

    Raises:
        UserError: It reads it not, or the network is no x4 super-resolution of RGB images.
    """
    try:
        import spandrel
    except ImportError:
        raise UserError(
            f"teacher.path: {file} is no weight file of this toolkit, and spandrel, "
            "which reads others, is not installed; install it with: "
            "pip install 'diffusion-sr-compress[teacher]'"
        ) from None
    try:
        descriptor = spandrel.ModelLoader().load_from_file(file)
    # Each of spandrel's architectures and file formats fails in a way of its own.
    except Exception as error:
        raise UserError(
            f"teacher.path: spandrel cannot read {file} ({type(error).__name__}: {error}); "
            "give a weight file of an architecture that it knows, or one of this toolkit"
        ) from None
    scale = getattr(descriptor, "scale", None)
    inputs = getattr(descriptor, "input_channels", None)
    outputs = getattr(descriptor, "output_channels", None)
    is_fit = (scale, inputs, outputs) == (SCALE, 3, 3)
    if not is_fit or not isinstance(descriptor, spandrel.ImageModelDescriptor):
        raise UserError(
            f"teacher.path: {file} is a {descriptor.architecture.name} of scale {scale} with "
            f"{inputs} input and {outputs} output channels; give one that makes an RGB image "
            f"{SCALE} times as large"
        )
    descriptor.model.eval().requires_grad_(False)
    return descriptor
