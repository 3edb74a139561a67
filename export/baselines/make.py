"""From a float model to the files of one method."""

from pathlib import Path

import numpy as np
import torch

from compress.core.errors import UserError
from compress.core.files import replacing
from compress.model.sr_model import SRModel
from export.baselines.methods import Job, check
from export.graphs.components import GRAPHS, check_size
from export.graphs.export_onnx import export_onnx

COMPONENTS = ("encoder", "denoiser", "decoder")


@torch.no_grad()
def inputs_of(model: SRModel, images: list[torch.Tensor]) -> dict[str, list[np.ndarray]]:
    """What every component reads while the float model restores `images`."""
    latents = [model.encoder(image) for image in images]
    clean_latents = [model.clean_latent(latent) for latent in latents]
    inputs = {"encoder": images, "denoiser": latents, "decoder": clean_latents}
    return {stem: [x.numpy() for x in tensors] for stem, tensors in inputs.items()}


def make(
    name: str,
    model: SRModel,
    width: tuple[int, int | None],
    images: list[torch.Tensor],
    folder: Path,
    lr_size: tuple[int, int] = (128, 128),
) -> dict[str, Path]:
    """Write encoder.onnx, denoiser.onnx and decoder.onnx as a method quantises them.

    Args:
        name: A key of METHODS.
        model: In float.
        width: Bits of weights and activations; None for float activations.
        images: Low-resolution calibration images, float32 [1, 3, h, w] in [0, 1], of `lr_size`.
        folder: Where to; it gets the float files too, in `float`.
        lr_size: Height and width: the graphs are static.

    Returns:
        Name of a component -> its file.

    Raises:
        UserError: What `check` refuses, images of another size, or a model of several steps.
    """
    weights, activations = width
    method = check(name, weights, activations)
    check_size(model, lr_size)
    if not images or any(tuple(image.shape) != (1, 3, *lr_size) for image in images):
        raise UserError(
            f"baselines calibrate on images of the exported size, {lr_size[0]}x{lr_size[1]}; give "
            "at least one, all of that size"
        )
    if model.process.steps > 1:
        raise UserError(
            f"the model takes {model.process.steps} steps, and baselines know one file a component"
        )
    source = folder / "float"
    if not all((source / f"{stem}.onnx").is_file() for stem in COMPONENTS):
        export_onnx(model, source, lr_size=lr_size, end_to_end=False)
    inputs = inputs_of(model, images)
    written = {}
    for stem in COMPONENTS:
        module = GRAPHS[stem].build(model).eval()
        file = source / f"{stem}.onnx"
        target = folder / f"{stem}.onnx"
        with replacing(target) as partial:
            method(Job(stem, file, module, inputs[stem], weights, activations), partial)
        written[stem] = target
    return written
