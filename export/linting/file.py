"""An ONNX file for the lint: read, and checked to be a graph that means something."""

from pathlib import Path

import onnx

from compress.core.errors import UserError
from export.graphs.storage import SMALL, inferred, load_graph, tensor_bytes, tensors_of
from export.linting.graph import opset_of, type_name

IMAGE = "float32 [1, 3, height, width]"


def read_graph(file: Path) -> onnx.ModelProto:
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
    _check_opset(file, model)
    _check_order(file, graph, stored)
    _check_sizes(file, model)
    try:
        onnx.checker.check_model(_without_weights(model), full_check=True)
    except Exception as error:  # of the checker and of shape inference, which share no base class
        lines = [*str(error).splitlines(), type(error).__name__]
        said = next(line.strip() for line in lines if line.strip())
        raise UserError(f"{file}: not a valid ONNX graph ({said}); export it again") from error
    _check_image(file, graph)
    return model


def _check_opset(file: Path, model: onnx.ModelProto) -> None:
    """Raise UserError for a version of the operators that is not said, or not known here."""
    opset = opset_of(model)
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


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """For the checker: large weights as inputs of their type, and outputs with their shapes.

    The standard asks for these shapes, and files of others leave them out.
    """
    light = inferred(model)
    graph = light.graph
    external = onnx.TensorProto.EXTERNAL
    large = [tensor for tensor in graph.initializer if tensor.data_location == external]
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
    made: set[str] = set()
    for node in graph.node:
        made.update(node.output)
    ready = stored | {value.name for value in graph.input}
    for node in graph.node:
        early = next((name for name in node.input if name and name not in ready), None)
        if early is not None:
            label = node.name or next(iter(node.output), "")
            what = f"{file}: the operator {node.op_type} {label}".rstrip()
            raise UserError(f"{what} reads {early}{_unmade(early in made)}; export it again")
        ready.update(node.output)
    for value in graph.output:
        if value.name not in ready:
            raise UserError(
                f"{file}: the output {value.name} is made by no operator; export it again"
            )


def _unmade(later: bool) -> str:
    """What is wrong with a value that a node reads too early."""
    if later:
        return " before it is made: the graph has a cycle or is out of order"
    return ", which nothing in the graph makes"


def _check_image(file: Path, graph: onnx.GraphProto) -> None:
    """Raise UserError where the input `lr`, by which this toolkit names an image, cannot be one."""
    for value in graph.input:
        kind = value.type.tensor_type
        axes = len(kind.shape.dim)
        if value.name == "lr" and (kind.elem_type == onnx.TensorProto.STRING or axes != 4):
            raise UserError(
                f"{file}: its input lr is {type_name(kind.elem_type)} with {axes} axes, and an "
                f"image is {IMAGE}; export it again, or give the input another name"
            )
