"""The runtimes of exported graphs.

Each takes a graph's entry in the manifest, the folder and a number of CPU threads (None: the
runtime's choice), and returns a function of the graph's inputs in their order: arrays in the types
of the manifest. It gives one array, or a tuple where the graph has several outputs.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .processor import needs_exact_kernels, session_entries

Graph = Callable[..., Any]
ERRORS_ONLY = 3  # onnxruntime's log severity
REDUCED = 64  # weight codes up to this cannot overflow in 16-bit sums of two products
QNN_PROVIDER = "QNNExecutionProvider"
STORED = "outputs as little-endian float32"  # a graph that needs none of its inputs


def onnx(graph: dict, folder: Path, threads: int | None) -> Graph:
    """onnxruntime on the CPU, with integers that are exact on this processor."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.inter_op_num_threads = 1
    for key, value in session_entries().items():
        options.add_session_config_entry(key, value)
    if threads is not None:
        options.intra_op_num_threads = threads
    loaded = ort.InferenceSession(
        str(folder / graph["file"]), options, providers=["CPUExecutionProvider"]
    )
    return _by_names(loaded, graph)


def _by_names(loaded: Any, graph: dict) -> Graph:
    """The function of an onnxruntime session whose inputs and outputs have the graph's names."""
    names = [entry["name"] for entry in graph["inputs"]]
    results = [entry["name"] for entry in graph["outputs"]]

    def run(*arrays: np.ndarray) -> Any:
        return _one_or_all(loaded.run(results, dict(zip(names, arrays, strict=True))))

    return run


def _one_or_all(outputs: Sequence[np.ndarray]) -> Any:
    """The only array, or a tuple of several."""
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def read_outputs(graph: dict, folder: Path) -> tuple[np.ndarray, ...]:
    """The outputs of a graph that needs none of its inputs, from the file that holds them."""
    values = np.fromfile(folder / graph["file"], "<f4")
    outputs = []
    for shape in graph["shapes"]:
        count = int(np.prod(shape))
        outputs.append(values[:count].reshape(shape))
        values = values[count:]
    return tuple(outputs)


def stored(graph: dict, folder: Path, threads: int | None) -> Graph:
    """A graph that needs none of its inputs: what it puts out was stored."""
    outputs = read_outputs(graph, folder)

    def run(*arrays: np.ndarray) -> Any:
        return _one_or_all(outputs)

    return run


def qnn(graph: dict, folder: Path, threads: int | None) -> Graph:
    """Qualcomm's HTP, or its simulator on Linux x86-64.

    A Q/DQ file that was not compiled yet is compiled while loading.
    """
    import onnxruntime as ort
    import onnxruntime_qnn

    if QNN_PROVIDER not in {device.ep_name for device in ort.get_ep_devices()}:
        ort.register_execution_provider_library(QNN_PROVIDER, onnxruntime_qnn.get_library_path())
    device = next(device for device in ort.get_ep_devices() if device.ep_name == QNN_PROVIDER)
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_provider_for_devices(
        [device], {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), **graph["provider"]}
    )
    loaded = ort.InferenceSession(str(folder / graph["file"]), options)
    return _by_names(loaded, graph)


def openvino(graph: dict, folder: Path, threads: int | None) -> Graph:
    """OpenVINO on the CPU, in float32 where there are no codes."""
    import openvino as ov

    if graph.get("largest_weight_code", 0) > REDUCED and needs_exact_kernels():
        print(
            f"warning: {graph['file']}: OpenVINO's 8-bit products can overflow on this processor, "
            "which has no VNNI (one model's results were 33 dB from exact ones); export target "
            "onnx, or a model that was quantised with reduce_range",
            file=sys.stderr,
        )
    # Some CPUs would take bfloat16 by themselves. An application that wants speed may leave this
    # out.
    settings: dict[str, str | int] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    loaded = ov.Core().compile_model(folder / graph["file"], "CPU", settings)
    results = [loaded.output(entry["name"]) for entry in graph["outputs"]]
    names = [entry["name"] for entry in graph["inputs"]]

    def run(*arrays: np.ndarray) -> Any:
        outputs = loaded(dict(zip(names, arrays, strict=True)))
        return _one_or_all([outputs[result] for result in results])

    return run


def executorch(graph: dict, folder: Path, threads: int | None) -> Graph:
    """ExecuTorch's runtime, with XNNPACK on the CPU."""
    import torch
    from executorch.runtime import Runtime

    if threads is not None:
        from executorch.extension.pybindings import portable_lib

        if hasattr(portable_lib, "_unsafe_reset_threadpool"):
            portable_lib._unsafe_reset_threadpool(threads)
    method = Runtime.get().load_program(folder / graph["file"]).load_method("forward")

    def run(*arrays: np.ndarray) -> Any:
        outputs = method.execute([torch.from_numpy(np.ascontiguousarray(x)) for x in arrays])
        # They are the method's own memory, which the next call overwrites.
        return _one_or_all([output.numpy().copy() for output in outputs])

    return run


def litert(graph: dict, folder: Path, threads: int | None) -> Graph:
    """LiteRT on the CPU."""
    from ai_edge_litert.compiled_model import (
        CompiledModel,
        CpuOptions,
        HardwareAccelerator,
        Options,
    )

    processor = CpuOptions(num_threads=threads or os.cpu_count() or 1)
    options = Options(HardwareAccelerator.CPU, processor)
    with quiet():
        loaded = CompiledModel.from_file(str(folder / graph["file"]), options=options)
    key, names = next(iter(loaded.get_signature_list().items()))
    details = loaded.get_output_tensor_details(key)
    given, made = loaded.create_input_buffers(0), loaded.create_output_buffers(0)
    inputs = dict(zip(names["inputs"], given, strict=True))
    results = dict(zip(names["outputs"], made, strict=True))

    def run(*arrays: np.ndarray) -> Any:
        for name, array in zip(in_order(names["inputs"]), arrays, strict=True):
            inputs[name].write(array)
        loaded.run_by_index(0, given, made)
        outputs = []
        for name in in_order(names["outputs"]):
            shape, kind = details[name]["shape"], np.dtype(details[name]["dtype"])
            values = results[name].read(int(np.prod(shape)), kind)
            outputs.append(values.reshape(shape))
        return _one_or_all(outputs)

    return run


@contextmanager
def quiet() -> Iterator[None]:
    """Within, what libraries say on stderr is lost. LiteRT tells of every accelerator."""
    sys.stderr.flush()
    kept = os.dup(2)
    lost = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(lost, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(lost)


def in_order(names: list[str]) -> list[str]:
    """LiteRT's names of a graph's tensors, such as args_0 and output_10, by their numbers."""
    return sorted(names, key=lambda name: int(name.rpartition("_")[2]))


def coreml(graph: dict, folder: Path, threads: int | None) -> Graph:
    """Core ML, on macOS."""
    import coremltools

    if sys.platform != "darwin":
        raise SystemExit(
            "error: Core ML predicts on macOS only; copy this folder to a Mac and run it there"
        )
    loaded = coremltools.models.MLModel(str(folder / graph["file"]))
    names = [entry["name"] for entry in graph["inputs"]]
    results = [entry["name"] for entry in graph["outputs"]]

    def run(*arrays: np.ndarray) -> Any:
        outputs = loaded.predict(dict(zip(names, arrays, strict=True)))
        return _one_or_all([outputs[result] for result in results])

    return run


def ncnn(graph: dict, folder: Path, threads: int | None) -> Graph:
    """Run by ncnn on the CPU."""
    import ncnn as runtime

    net = runtime.Net()
    net.opt.num_threads = threads or os.cpu_count()
    if graph["precision"] == "fp32":
        net.opt.use_fp16_packed = False
        net.opt.use_fp16_storage = False
        net.opt.use_fp16_arithmetic = False
        net.opt.use_bf16_storage = False
    # Both return 0; a line on stderr about a missing file is all that there is besides.
    failed = net.load_param(str(folder / graph["file"]))
    failed = failed or net.load_model(str(folder / graph["weights"]))
    if failed:
        raise SystemExit(f"error: ncnn cannot load {folder / graph['file']}")
    names = graph["blobs"]["inputs"]
    shapes = [entry["example_shape"] for entry in graph["outputs"]]
    results = dict(zip(graph["blobs"]["outputs"], shapes, strict=True))

    def run(*arrays: np.ndarray) -> Any:
        outputs = []
        with net.create_extractor() as extractor:
            for name, x in zip(names, arrays, strict=True):
                # A Mat borrows the array's memory without holding it, and layers that work in place
                # would write there.
                lent = np.ascontiguousarray(x[0])
                extractor.input(name, runtime.Mat(lent).clone())
            for result, shape in results.items():
                code, output = extractor.extract(result)
                if code:
                    raise SystemExit(f"error: ncnn ended with code {code} in {graph['file']}")
                outputs.append(np.array(output).reshape(shape))
        return _one_or_all(outputs)

    return run


def tensorrt(graph: dict, folder: Path, threads: int | None) -> Graph:
    """Run an engine that build.py made on this machine.

    An engine holds for one GPU and one version of TensorRT.
    """
    import tensorrt as trt
    from cuda.bindings import runtime as cuda

    logger = trt.Logger(trt.Logger.WARNING)
    content = (folder / graph["engine"]).read_bytes()
    engine = trt.Runtime(logger).deserialize_cuda_engine(content)
    context = engine.create_execution_context()
    (stream,) = _cuda(cuda.cudaStreamCreate())
    names = [entry["name"] for entry in graph["inputs"]]
    results = [entry["name"] for entry in graph["outputs"]]
    shapes = {name: tuple(engine.get_tensor_shape(name)) for name in (*names, *results)}
    pointers = {}
    for name, shape in shapes.items():
        (pointers[name],) = _cuda(cuda.cudaMalloc(np.empty(shape, np.float32).nbytes))
        context.set_tensor_address(name, pointers[name])

    def run(*arrays: np.ndarray) -> Any:
        to_device = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        to_host = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        for name, array in zip(names, arrays, strict=True):
            x = np.ascontiguousarray(array, np.float32)
            _cuda(cuda.cudaMemcpy(pointers[name], x.ctypes.data, x.nbytes, to_device))
        context.execute_async_v3(stream)
        _cuda(cuda.cudaStreamSynchronize(stream))
        outputs = [np.empty(shapes[result], np.float32) for result in results]
        for result, y in zip(results, outputs, strict=True):
            _cuda(cuda.cudaMemcpy(y.ctypes.data, pointers[result], y.nbytes, to_host))
        return _one_or_all(outputs)

    return run


def _cuda(result: tuple) -> tuple[Any, ...]:
    """What a call of CUDA returned behind its code, which must be 0."""
    if int(result[0]):
        raise SystemExit(f"error: CUDA answered {result[0]}")
    return result[1:]


# Name of a target -> its runtime.
RUNTIMES: dict[str, Callable[[dict, Path, int | None], Graph]] = {
    "onnx": onnx,
    "web": onnx,  # the graphs for WASM
    "qnn": qnn,
    "openvino": openvino,
    "executorch": executorch,
    "litert": litert,
    "coreml": coreml,
    "ncnn": ncnn,
    "tensorrt": tensorrt,
}


def load(
    folder: Path, names: list[str] | None = None, threads: int | None = None
) -> dict[str, Graph]:
    """The graphs of an exported folder as functions of float32 arrays.

    Args:
        folder: The exported folder.
        names: Of its graphs; None for all.
        threads: CPU threads; None for the runtime's choice.

    Returns:
        Name of a graph -> its function; shapes are those in the manifest.
    """
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    start = RUNTIMES[manifest["target"]]
    loaded = {}
    for name in names or manifest["graphs"]:
        graph = manifest["graphs"][name]
        load_one = stored if graph.get("format") == STORED else start
        loaded[name] = load_one(graph, folder, threads)
    return loaded
