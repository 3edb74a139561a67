"""ONNX files of any size, with weights inside or beside them: read, checked, typed, run, written.

A protobuf message ends at 2 GiB, and short of that it is costly: 1.8 GB of weights took 3.4 GiB
more memory to write and 1.4 GiB more to load inside the graph than beside it. What needs only the
structure of a graph gets it without the weights; what runs it gets a file.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, external_data_helper

from compress.core.errors import UserError

EMBED_LIMIT = 2**30  # bytes of weights; more go to a file beside the graph
SMALL = 2**16  # bytes; shapes, scales and axes are smaller, and are always read
GROUP_NORM, INSTANCE_NORM = "GroupNormalization", "InstanceNormalization"


def tensors_of(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every stored tensor: initializers, and constants in nodes, subgraphs and functions."""
    for graph in (model.graph, *model.functions):
        yield from _tensors(graph)


def _tensors(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[TensorProto]:
    yield from getattr(graph, "initializer", ())
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in attribute.graphs:
                yield from _tensors(inner)
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)


def tensor_bytes(tensor: TensorProto) -> int:
    """What a tensor's declared shape and type take, in bytes; 0 for strings and unknown types."""
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (TypeError, ValueError):
        return 0
    return math.ceil(math.prod(tensor.dims) * bits / 8)


def weight_bytes(model: onnx.ModelProto | ir.Model) -> int:
    """Bytes of all initializers."""
    if isinstance(model, ir.Model):
        tensors = [value.const_value for value in model.graph.initializers.values()]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)
    return sum(tensor_bytes(tensor) for tensor in model.graph.initializer)


def _external_file(tensor: TensorProto, path: Path) -> Path:
    """Where the data of an external tensor of the model at `path` lies.

    Raises:
        UserError: It is not a regular file within the model's folder, or too short for the tensor.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    what = f"{path}: the tensor {tensor.name or '(without a name)'}"
    if not _is_within(path, location):
        raise UserError(
            f"{what} says that its data is in '{location}'; data is read from the folder of the "
            "model only: save the model again with its weights beside it"
        )
    file = (path.parent / location).resolve()
    if not file.is_file():
        raise UserError(
            f"{what} has its data in {location}, which is not there; copy that file beside the "
            "model"
        )
    offset = entries.get("offset", "0")
    length = entries.get("length")
    if not all(number.isdecimal() for number in (offset, length or "0")):
        raise UserError(
            f"{what} has an offset '{offset}' and a length '{length}' that are no numbers of "
            "bytes; save the model again"
        )
    needed = tensor_bytes(tensor)
    size = file.stat().st_size
    given = size - int(offset) if length is None else int(length)
    if given < needed or int(offset) + given > size:
        raise UserError(
            f"{what} needs {needed} bytes of {location} from {offset} on and the file has "
            f"{size}; copy it again, or save the model again"
        )
    return file


def _is_within(path: Path, location: str) -> bool:
    """Whether a place named in a model is within the model's folder, on every system."""
    if not location or Path(location).is_absolute() or "\\" in location:
        return False
    return (path.parent / location).resolve().is_relative_to(path.resolve().parent)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever a reader of ONNX raises into a UserError with its first line."""
    try:
        yield
    except Exception as error:  # the errors of protobuf and onnx_ir share no base class
        said = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable ONNX file ({said})") from error


def read_structure(path: Path) -> onnx.ModelProto:
    """The graph at `path` without its external data.

    Raises:
        UserError: There is no file, it is no ONNX file, or a tensor's data lies outside its folder
            or is incomplete.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such ONNX file; export it first with python -m export.run")
    with _readable(path):
        model = onnx.load(path, load_external_data=False)
    for tensor in tensors_of(model):
        if external_data_helper.uses_external_data(tensor):
            _external_file(tensor, path)
    return model


def load_graph(path: Path, largest: int | None = None) -> onnx.ModelProto:
    """The graph at `path` with its weights in memory.

    Args:
        path: An ONNX file; data beside it is found.
        largest: Leave the data of external tensors of more bytes where it is, for those who need
            the structure only.

    Raises:
        UserError: As `read_structure`.
    """
    model, folder = read_structure(path), str(Path(path).parent)
    for tensor in tensors_of(model):
        wanted = largest is None or tensor_bytes(tensor) <= largest
        if wanted and external_data_helper.uses_external_data(tensor):
            external_data_helper.load_external_data_for_tensor(tensor, folder)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
    return model


def load_ir(path: Path) -> ir.Model:
    """The graph at `path` for rewrites; weights beside it are read when somebody looks at them.

    Raises:
        UserError: As `read_structure`.
    """
    read_structure(path)
    with _readable(path):
        model = ir.load(path)
    return model


def files_of(path: Path) -> list[Path]:
    """The ONNX file and the files that hold its weights."""
    external = [
        _external_file(tensor, path)
        for tensor in tensors_of(read_structure(path))
        if external_data_helper.uses_external_data(tensor)
    ]
    return list(dict.fromkeys([Path(path), *external]))


def save_graph(
    model: onnx.ModelProto | ir.Model, path: Path, embed_limit: int = EMBED_LIMIT
) -> list[Path]:
    """Write a graph.

    Args:
        model: A graph with its weights in memory, or an `ir.Model`; it keeps them.
        path: The file.
        embed_limit: Bytes of weights, beyond which they go to `path`.data.

    Returns:
        The files written.
    """
    graph = model if isinstance(model, ir.Model) else ir.from_proto(model)
    if weight_bytes(graph) > embed_limit:
        data = path.with_name(f"{path.name}.data")
        ir.save(graph, path, external_data=data.name)
        return [path, data]
    ir.external_data.load_to_model(graph)  # nothing may go on pointing at the model's old file
    ir.save(graph, path)
    return [path]


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` whose initializers of more than SMALL bytes have no values.

    They keep their shape and type.
    """
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.metadata_props.extend(model.metadata_props)
    graph, source = light.graph, model.graph
    graph.name = source.name
    for field in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(graph, field).extend(getattr(source, field))
    for tensor in source.initializer:
        hollow = TensorProto(
            name=tensor.name,
            dims=tensor.dims,
            data_type=tensor.data_type,
            data_location=TensorProto.EXTERNAL,
        )
        graph.initializer.append(hollow if tensor_bytes(tensor) > SMALL else tensor)
    return light


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The skeleton of `model` with the type and shape of every value.

    ONNX infers nothing for GroupNormalization. InstanceNormalization, with as many inputs, lends
    its name for it.
    """
    light = skeleton(model)
    norms = [i for i, node in enumerate(light.graph.node) if node.op_type == GROUP_NORM]
    for i in norms:
        light.graph.node[i].op_type = INSTANCE_NORM
    light = onnx.shape_inference.infer_shapes(light, data_prop=True)
    for i in norms:
        light.graph.node[i].op_type = GROUP_NORM
    return light


def add_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give `model` itself the types and shapes of all values; returns it."""
    typed = inferred(model).graph
    for field in ("value_info", "output"):
        del getattr(model.graph, field)[:]
        getattr(model.graph, field).extend(getattr(typed, field))
    return model


@contextmanager
def on_disk(model: onnx.ModelProto | ir.Model | Path) -> Iterator[Path]:
    """A temporary file of `model`, or the file that it is; it is gone when the context ends."""
    if isinstance(model, str | Path):
        yield Path(model)
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save_graph(model, path, embed_limit=SMALL)
        yield path


def with_outputs(path: Path, outputs: list[onnx.ValueInfoProto], out: Path) -> None:
    """Write the graph at `path` with further outputs.

    Its external data stays where it is, or goes along to another folder.
    """
    if out.resolve().parent == path.resolve().parent:
        model = read_structure(path)
        model.graph.output.extend(outputs)
        onnx.save(model, out)
    else:
        model = load_graph(path)
        model.graph.output.extend(outputs)
        save_graph(model, out)


def open_session(
    model: onnx.ModelProto | ir.Model | Path, options: ort.SessionOptions
) -> ort.InferenceSession:
    """An onnxruntime session on the CPU, of a file or of a graph in memory with its weights."""
    with on_disk(model) as path:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
