"""From a float model to the files of one method."""

from pathlib import Path

import numpy as np
import torch

from compress.core.errors import UserError
from compress.core.files import replacing
from compress.data.calibration import as_values
from compress.model.sr_model import SRModel
from export.baselines.methods import Job, check
from export.graphs.components import build, check_process, check_size, graphs_of, parts_of, reaching
from export.graphs.export_onnx import export_onnx


@torch.no_grad()
def inputs_of(model: SRModel, images: list[torch.Tensor]) -> dict[str, list[np.ndarray]]:
    """What every component, of one input each, reads while the float model restores `images`."""
    known = as_values(model, images)
    inputs = {}
    for stem in parts_of(model):
        known = [model.values_before(stem, values) for values in known]
        inputs[stem] = [reaching(model, stem, values)[0][0].numpy() for values in known]
    return inputs


def make(
    name: str,
    model: SRModel,
    width: tuple[int, int | None],
    images: list[torch.Tensor],
    folder: Path,
    lr_size: tuple[int, int] = (128, 128),
) -> dict[str, Path]:
    """Write the ONNX file of each component as a method quantises it.

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
        UserError: What `check` refuses, images of another size, or a model of several steps or
            with a component of several inputs.
    """
    weights, activations = width
    method = check(name, weights, activations)
    check_size(model, lr_size)
    if not images or any(tuple(image.shape) != (1, 3, *lr_size) for image in images):
        raise UserError(
            f"baselines calibrate on images of the exported size, {lr_size[0]}x{lr_size[1]}; give "
            "at least one, all of that size"
        )
    check_process(model)
    if model.process.steps > 1:
        raise UserError(
            f"the model takes {model.process.steps} steps, and baselines know one file a component"
        )
    graphs = graphs_of(model)
    stems = parts_of(model)
    for stem in stems:
        if len(graphs[stem].inputs) > 1 or len(graphs[stem].outputs) > 1:
            raise UserError(
                f"{stem} has the inputs {', '.join(graphs[stem].inputs)}, and baselines know "
                "components of one input and one output"
            )
    source = folder / "float"
    if not all((source / f"{stem}.onnx").is_file() for stem in stems):
        export_onnx(model, source, lr_size=lr_size, end_to_end=False)
    inputs = inputs_of(model, images)
    written = {}
    for stem in stems:
        names = graphs[stem].inputs[0], graphs[stem].outputs[0]
        file = source / f"{stem}.onnx"
        target = folder / f"{stem}.onnx"
        with replacing(target) as partial:
            job = Job(stem, names, file, build(model, stem), inputs[stem], weights, activations)
            method(job, partial)
        written[stem] = target
    return written
