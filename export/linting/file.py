"""An ONNX file for the lint: read, checked to be a graph that means something, and given inputs
to run on."""

from pathlib import Path

import numpy as np
import onnx

from compress.core.errors import UserError
from export.graphs.storage import SMALL, inferred, load_graph, tensor_bytes, tensors_of

IMAGE = "float32 [1, 3, height, width]"


def check(file: Path) -> onnx.ModelProto:
    """The graph in `file` without its large weights.

    Raises:
        UserError: It cannot be read, it is no valid ONNX graph, or there is nothing in it to check.
    """
    model = load_graph(file, SMALL)
    graph = model.graph
    if not graph.node:
        raise UserError(
            f"{file}: the graph has no operators; export the model again with python -m export.run"
        )
    stored = {tensor.name for tensor in graph.initializer}
    if all(value.name in stored for value in graph.input):
        raise UserError(
            f"{file}: the graph has no input, so that a device has nothing to compute; export the "
            "model again"
        )
    opset = max(
        (o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=None
    )
    if opset is None:
        raise UserError(
            f"{file}: the file does not say which version of the ONNX operators it uses "
            "(opset_import); export it again"
        )
    newest = onnx.defs.onnx_opset_version()
    if not 1 <= opset <= newest:
        raise UserError(
            f"{file}: the file uses ONNX operators of version {opset}, and the onnx package here "
            f"knows 1 to {newest}; export it with a lower --opset, or install a newer onnx"
        )
    _check_order(file, graph, stored)
    _check_sizes(file, model)
    try:
        onnx.checker.check_model(_without_weights(model), full_check=True)
    except Exception as error:  # of the checker and of shape inference, which share no base class
        said = next(
            (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
        )
        raise UserError(f"{file}: not a valid ONNX graph ({said}); export it again") from error
    _check_image(file, graph)
    return model


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """For the checker: large weights as inputs of their type, and outputs with the shapes that
    follow, which the standard asks for and files of others leave out."""
    light = inferred(model)
    graph = light.graph
    large = [t for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    known = {value.name for value in graph.input}
    for tensor in large:
        graph.initializer.remove(tensor)
        if tensor.name not in known:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    for value in (*graph.input, *graph.output):
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()  # of no axes where nothing is known
    return light


def _check_sizes(file: Path, model: onnx.ModelProto) -> None:
    """Raise UserError for a tensor whose bytes are not those of its shape and type."""
    for tensor in tensors_of(model):
        wanted = tensor_bytes(tensor)
        if tensor.HasField("raw_data") and wanted and len(tensor.raw_data) != wanted:
            raise UserError(
                f"{file}: the tensor {tensor.name} has {len(tensor.raw_data)} bytes, and its shape "
                f"{list(tensor.dims)} needs {wanted}; export it again"
            )


def _check_order(file: Path, graph: onnx.GraphProto, stored: set[str]) -> None:
    """Raise UserError for a value that nothing makes, or that is read before it is made."""
    stored = stored | {tensor.values.name for tensor in graph.sparse_initializer}
    made = {name: node for node in graph.node for name in node.output if name}
    ready = stored | {value.name for value in graph.input}
    for node in graph.node:
        label = node.name or next(iter(node.output), "")
        what = f"{file}: the operator {node.op_type} {label}".rstrip()
        for name in node.input:
            if name and name not in made and name not in ready:
                raise UserError(
                    f"{what} reads {name}, which nothing in the graph makes; export it again"
                )
            if name and name not in ready:
                raise UserError(
                    f"{what} reads {name} before it is made: the graph has a cycle or is out of "
                    "order; export it again"
                )
        ready.update(node.output)
    for value in graph.output:
        if value.name not in ready:
            raise UserError(
                f"{file}: the output {value.name} is made by no operator; export it again"
            )


def _check_image(file: Path, graph: onnx.GraphProto) -> None:
    """Raise UserError where the input `lr`, by which this toolkit names an image, cannot be one."""
    for value in graph.input:
        kind = value.type.tensor_type
        if value.name == "lr" and (
            kind.elem_type == onnx.TensorProto.STRING or len(kind.shape.dim) != 4
        ):
            name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
            raise UserError(
                f"{file}: its input lr is {name} with {len(kind.shape.dim)} axes, and an image is "
                f"{IMAGE}; "
                "export it again, or give the input another name"
            )


def feeds_for(
    model: onnx.ModelProto, run: Path | None, images: int = 2
) -> list[dict[str, np.ndarray]]:
    """Inputs of a graph made from embedded photographs: themselves for `lr`, otherwise with the
    torch model of `run`.

    Empty where neither can be had: without static sizes, with several inputs, or where `lr` is
    no image of three channels in float32."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    given = inputs[0]
    kind = given.type.tensor_type
    sides = [d.dim_value for d in kind.shape.dim]
    notes = {p.key: p.value for p in model.metadata_props}
    image = given.name == "lr" and len(sides) == 4 and sides[:2] == [1, 3]
    if len(inputs) > 1 or kind.elem_type != onnx.TensorProto.FLOAT or not sides or not all(sides):
        return []
    if not image and (given.name == "lr" or run is None or "lr_size" not in notes):
        return []
    from compress.data.calibration import calibration_images

    height, width = sides[2:] if image else map(int, notes["lr_size"].split("x"))
    pictures = [
        x[..., :height, :width]
        for x in calibration_images("embedded", images, max(height, width), 0)
    ]
    if image:
        return [{"lr": x.numpy()} for x in pictures]
    import torch

    from compress.recipe.checkpoint import load_model

    torch_model = load_model(run)
    with torch.no_grad():
        latents = [torch_model.encoder(x) for x in pictures]
        if given.name == "clean_latent":
            latents = [torch_model.clean_latent(x) for x in latents]
    if list(latents[0].shape) != sides:
        raise UserError(
            f"--run {run}: its {given.name} has the shape {list(latents[0].shape)} and the file's "
            f"{sides}; "
            "give the run that the file was exported from"
        )
    return [{given.name: x.numpy()} for x in latents]
