"""The runtimes: (entry of a graph in the manifest, folder, threads) -> function of one float32 array."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .processor import needs_exact_kernels, session_entries

Graph = Callable[[np.ndarray], np.ndarray]


def onnx(graph: dict, folder: Path, threads: int | None) -> Graph:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.inter_op_num_threads = 1
    for key, value in session_entries().items():
        options.add_session_config_entry(key, value)
    if threads is not None:
        options.intra_op_num_threads = threads
    loaded = ort.InferenceSession(
        str(folder / graph["file"]), options, providers=["CPUExecutionProvider"]
    )
    name = graph["inputs"][0]["name"]
    return lambda x: loaded.run(None, {name: x})[0]


def qnn(graph: dict, folder: Path, threads: int | None) -> Graph:
    """The HTP, or its simulator on Linux x86-64. A QDQ file that was not compiled yet is compiled while loading."""
    import onnxruntime as ort
    import onnxruntime_qnn

    name = "QNNExecutionProvider"
    if name not in {device.ep_name for device in ort.get_ep_devices()}:
        ort.register_execution_provider_library(name, onnxruntime_qnn.get_library_path())
    device = next(device for device in ort.get_ep_devices() if device.ep_name == name)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_provider_for_devices(
        [device], {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), **graph["provider"]}
    )
    loaded = ort.InferenceSession(str(folder / graph["file"]), options)
    source = loaded.get_inputs()[0].name
    return lambda x: loaded.run(None, {source: x})[0]


def openvino(graph: dict, folder: Path, threads: int | None) -> Graph:
    import openvino as ov

    if graph.get("largest_weight_code", 0) > 64 and needs_exact_kernels():
        print(
            f"warning: {graph['file']}: OpenVINO's 8-bit products can overflow on this processor, "
            "which has no VNNI (one model's results were 33 dB from exact ones); export target onnx, "
            "or a model that was quantised with reduce_range",
            file=sys.stderr,
        )
    # Some CPUs would take bfloat16 by themselves; an application that wants speed may leave this out.
    settings = {"INFERENCE_PRECISION_HINT": "f32"} | (
        {} if threads is None else {"INFERENCE_NUM_THREADS": threads}
    )
    loaded = ov.Core().compile_model(folder / graph["file"], "CPU", settings)
    return lambda x: loaded(x)[0]


def executorch(graph: dict, folder: Path, threads: int | None) -> Graph:
    import torch
    from executorch.runtime import Runtime

    if threads is not None:
        from executorch.extension.pybindings import portable_lib

        if hasattr(portable_lib, "_unsafe_reset_threadpool"):
            portable_lib._unsafe_reset_threadpool(threads)
    method = Runtime.get().load_program(folder / graph["file"]).load_method("forward")
    # A method's outputs are its own memory, which the next call overwrites.
    return lambda x: method.execute([torch.from_numpy(np.ascontiguousarray(x))])[0].numpy().copy()


def litert(graph: dict, folder: Path, threads: int | None) -> Graph:
    from ai_edge_litert.interpreter import Interpreter

    loaded = Interpreter(
        model_path=str(folder / graph["file"]), num_threads=threads or os.cpu_count()
    )
    loaded.allocate_tensors()
    source, result = loaded.get_input_details()[0], loaded.get_output_details()[0]

    def run(x: np.ndarray) -> np.ndarray:
        loaded.set_tensor(source["index"], x)
        loaded.invoke()
        return loaded.get_tensor(result["index"])

    return run


def coreml(graph: dict, folder: Path, threads: int | None) -> Graph:
    import coremltools

    if sys.platform != "darwin":
        raise SystemExit(
            "error: Core ML predicts on macOS only; copy this folder to a Mac and run it there"
        )
    loaded = coremltools.models.MLModel(str(folder / graph["file"]))
    source, result = graph["inputs"][0]["name"], graph["outputs"][0]["name"]
    return lambda x: loaded.predict({source: x})[result]


def ncnn(graph: dict, folder: Path, threads: int | None) -> Graph:
    import ncnn as runtime

    net = runtime.Net()
    net.opt.num_threads = threads or os.cpu_count()
    if graph["precision"] == "fp32":
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.opt.use_bf16_storage = False
    # They return 0, and the line about a missing file on stderr is all there is besides.
    if net.load_param(str(folder / graph["file"])) or net.load_model(
        str(folder / graph["weights"])
    ):
        raise SystemExit(f"error: ncnn cannot load {folder / graph['file']}")

    def run(x: np.ndarray) -> np.ndarray:
        with net.create_extractor() as extractor:
            # A Mat on an array borrows its memory, and layers that work in place would write there.
            extractor.input(
                graph["inputs"][0]["name"], runtime.Mat(np.ascontiguousarray(x[0])).clone()
            )
            code, result = extractor.extract(graph["outputs"][0]["name"])
            if code:
                raise SystemExit(f"error: ncnn ended with code {code} in {graph['file']}")
            return np.array(result)[None]

    return run


def tensorrt(graph: dict, folder: Path, threads: int | None) -> Graph:
    """An engine that build.py made on this machine: engines hold for one GPU and one TensorRT version."""
    import tensorrt as trt
    from cuda.bindings import runtime as cuda

    def call(result: tuple) -> tuple:
        if int(result[0]):
            raise SystemExit(f"error: CUDA answered {result[0]}")
        return result[1:]

    engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(
        (folder / graph["engine"]).read_bytes()
    )
    context, (stream,) = engine.create_execution_context(), call(cuda.cudaStreamCreate())
    arrays = [
        np.empty(tuple(engine.get_tensor_shape(engine.get_tensor_name(i))), np.float32)
        for i in range(2)
    ]
    pointers = [call(cuda.cudaMalloc(array.nbytes))[0] for array in arrays]
    for i, pointer in enumerate(pointers):
        context.set_tensor_address(engine.get_tensor_name(i), pointer)

    def run(x: np.ndarray) -> np.ndarray:
        x, y = np.ascontiguousarray(x, np.float32), np.empty_like(arrays[1])
        call(
            cuda.cudaMemcpy(
                pointers[0], x.ctypes.data, x.nbytes, cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
            )
        )
        context.execute_async_v3(stream)
        call(cuda.cudaStreamSynchronize(stream))
        call(
            cuda.cudaMemcpy(
                y.ctypes.data, pointers[1], y.nbytes, cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
            )
        )
        return y

    return run


RUNTIMES = {
    "onnx": onnx,
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
    """The graphs of an exported folder (all, or `names`) as functions of float32 arrays in the manifest's shapes."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    graphs = manifest["graphs"]
    return {
        name: RUNTIMES[manifest["target"]](graphs[name], folder, threads)
        for name in names or graphs
    }
