"""Inputs of a graph from embedded photographs, to run it on."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from compress.core.errors import UserError

if TYPE_CHECKING:
    import torch

Feeds = list[dict[str, np.ndarray]]


def feeds_for(model: onnx.ModelProto, run: Path | None, images: int = 2) -> Feeds:
    """Photographs themselves for the input `lr`, otherwise what the torch model makes of them.

    Args:
        model: The graph.
        run: The run of the torch model, for a component's graph.
        images: How many inputs.

    Returns:
        Input name -> float32 array, one dictionary a run. Empty where none can be had: without
        static sizes, with several inputs, or where `lr` is no image of three channels in float32.

    Raises:
        UserError: The run's model gives an input of another shape.
    """
    given = _only_input(model)
    if given is None:
        return []
    sides = [side.dim_value for side in given.type.tensor_type.shape.dim]
    if given.name == "lr":
        if len(sides) != 4 or sides[:2] != [1, 3]:
            return []
        return [{"lr": picture.numpy()} for picture in _pictures(sides[2], sides[3], images)]
    notes = {prop.key: prop.value for prop in model.metadata_props}
    if run is None or not {"lr_size", "component"} <= notes.keys():
        return []
    height, width = map(int, notes["lr_size"].split("x"))
    latents = _reaching(run, notes["component"], _pictures(height, width, images))
    if list(latents[0].shape) != sides:
        raise UserError(
            f"--run {run}: its {given.name} has the shape {list(latents[0].shape)} and the file's "
            f"{sides}; give the run that the file was exported from"
        )
    return [{given.name: latent.numpy()} for latent in latents]


def _only_input(model: onnx.ModelProto) -> onnx.ValueInfoProto | None:
    """The only input of a graph, where it is float32 with static sides."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    kind = inputs[0].type.tensor_type
    sides = [side.dim_value for side in kind.shape.dim]
    if len(inputs) > 1 or kind.elem_type != onnx.TensorProto.FLOAT or not sides or not all(sides):
        return None
    return inputs[0]


def _pictures(height: int, width: int, count: int) -> "list[torch.Tensor]":
    """Embedded photographs [1, 3, height, width]."""
    from compress.data.calibration import calibration_images

    crops = calibration_images("embedded", count, max(height, width), 0)
    return [crop[..., :height, :width] for crop in crops]


def _reaching(run: Path, stem: str, pictures: "list[torch.Tensor]") -> "list[torch.Tensor]":
    """What a component of one input gets of these pictures in the model of a run.

    Raises:
        UserError: The run's model has no such component.
    """
    import torch

    from compress.data.calibration import as_values
    from compress.recipe.checkpoint import load_model
    from export.graphs.components import graphs_of, reaching

    model = load_model(run)
    graphs = graphs_of(model)
    if stem not in graphs:
        raise UserError(
            f"--run {run}: its model has no {stem}; give the run that the file was exported from"
        )
    with torch.no_grad():
        tuples = [reaching(model, stem, values)[0] for values in as_values(model, pictures)]
    return [x for (x, *_) in tuples]
