"""Upscale photographs with the model in this folder: python run.py IMAGE... [-o DIR]

Needs the runtime that manifest.json names, numpy and Pillow; nothing of the toolkit that wrote the folder. It is also
the reference for an application: padding, tiles, the arithmetic between the networks and the colour correction are
here.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Graph = Callable[[np.ndarray], np.ndarray]


# ---- runtimes: (entry of a graph in the manifest, folder, threads) -> function of one float32 array -------------------
def onnx(graph: dict, folder: Path, threads: int | None) -> Graph:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.inter_op_num_threads = 1
    # x86 before VNNI: the kernels without overflow in 16 bits.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    loaded = ort.InferenceSession(str(folder / graph["file"]), options, providers=["CPUExecutionProvider"])
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
    options.add_provider_for_devices([device], {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), **graph["provider"]})
    loaded = ort.InferenceSession(str(folder / graph["file"]), options)
    source = loaded.get_inputs()[0].name
    return lambda x: loaded.run(None, {source: x})[0]


def openvino(graph: dict, folder: Path, threads: int | None) -> Graph:
    import openvino as ov

    # Some CPUs would take bfloat16 by themselves; an application that wants speed may leave this out.
    settings = {"INFERENCE_PRECISION_HINT": "f32"} | ({} if threads is None else {"INFERENCE_NUM_THREADS": threads})
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

    loaded = Interpreter(model_path=str(folder / graph["file"]), num_threads=threads or os.cpu_count())
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
        raise SystemExit("error: Core ML predicts on macOS only; copy this folder to a Mac and run it there")
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
    if net.load_param(str(folder / graph["file"])) or net.load_model(str(folder / graph["weights"])):
        raise SystemExit(f"error: ncnn cannot load {folder / graph['file']}")

    def run(x: np.ndarray) -> np.ndarray:
        with net.create_extractor() as extractor:
            # A Mat on an array borrows its memory, and layers that work in place would write there.
            extractor.input(graph["inputs"][0]["name"], runtime.Mat(np.ascontiguousarray(x[0])).clone())
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

    engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine((folder / graph["engine"]).read_bytes())
    context, (stream,) = engine.create_execution_context(), call(cuda.cudaStreamCreate())
    arrays = [np.empty(tuple(engine.get_tensor_shape(engine.get_tensor_name(i))), np.float32) for i in range(2)]
    pointers = [call(cuda.cudaMalloc(array.nbytes))[0] for array in arrays]
    for i, pointer in enumerate(pointers):
        context.set_tensor_address(engine.get_tensor_name(i), pointer)

    def run(x: np.ndarray) -> np.ndarray:
        x, y = np.ascontiguousarray(x, np.float32), np.empty_like(arrays[1])
        call(cuda.cudaMemcpy(pointers[0], x.ctypes.data, x.nbytes, cuda.cudaMemcpyKind.cudaMemcpyHostToDevice))
        context.execute_async_v3(stream)
        call(cuda.cudaStreamSynchronize(stream))
        call(cuda.cudaMemcpy(y.ctypes.data, pointers[1], y.nbytes, cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost))
        return y

    return run


RUNTIMES = {"onnx": onnx, "qnn": qnn, "openvino": openvino, "executorch": executorch, "litert": litert, "coreml": coreml,
            "ncnn": ncnn, "tensorrt": tensorrt}


def load(folder: Path, names: list[str] | None = None, threads: int | None = None) -> dict[str, Graph]:
    """The graphs of an exported folder (all, or `names`) as functions of float32 arrays in the manifest's shapes."""
    manifest = json.loads((folder / "manifest.json").read_text())
    graphs = manifest["graphs"]
    return {name: RUNTIMES[manifest["target"]](graphs[name], folder, threads) for name in names or graphs}


# ---- image arithmetic: arrays are float32 [1, C, height, width] -------------------------------------------------------
def reflect(image: np.ndarray, bottom: int, right: int) -> np.ndarray:
    """Mirror at the lower and right edge without repeating the edge; where more is wanted than there is, again."""
    while right or bottom:
        y, x = min(bottom, image.shape[2] - 1), min(right, image.shape[3] - 1)
        image = np.pad(image, ((0, 0), (0, 0), (0, y), (0, x)), mode="reflect")
        bottom, right = bottom - y, right - x
    return image


def cubic(t: float) -> float:
    """Keys' kernel with a = -0.75."""
    t = abs(t)
    if t <= 1:
        return 1.25 * t**3 - 2.25 * t**2 + 1
    return -0.75 * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def phases(scale: int) -> list[list[float]]:
    """For each of `scale` output pixels between two input pixels, the weights of five neighbours i-2 ... i+2."""
    return [[cubic(k - 2 - ((p + 0.5) / scale - 0.5)) for k in range(5)] for p in range(scale)]


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Bicubic, pixel centres aligned, edges repeated."""
    for axis in (2, 3):
        widths = [(0, 0)] * 4
        widths[axis] = (2, 2)
        padded, side = np.pad(image, widths, mode="edge"), image.shape[axis]
        rows = [sum(w * np.take(padded, range(k, k + side), axis) for k, w in enumerate(row)) for row in phases(scale)]
        stacked = np.stack(rows, axis=axis + 1)  # [..., side, scale, ...]
        image = stacked.reshape(*image.shape[:axis], side * scale, *image.shape[axis + 1:])
    return image.astype(np.float32)


def statistics(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased variance of each channel."""
    wide = image.astype(np.float64)
    return wide.mean((2, 3), keepdims=True), wide.var((2, 3), keepdims=True, ddof=1)


def adain(image: np.ndarray, lr: np.ndarray, scale: int) -> np.ndarray:
    (mean, variance), (wanted, spread) = statistics(image.clip(0, 1)), statistics(enlarge(lr, scale))
    return (image.clip(0, 1) - mean) / np.sqrt(variance + 1e-5) * np.sqrt(spread + 1e-5) + wanted


def mean_std(image: np.ndarray, lr: np.ndarray, scale: int) -> np.ndarray:
    (mean, variance), (wanted, spread) = statistics(image), statistics(lr)
    flat = np.sqrt(variance) < 1e-6
    return np.where(flat, wanted, (image - mean) / np.sqrt(np.where(flat, 1.0, variance)) * np.sqrt(spread) + wanted)


def low_frequency(image: np.ndarray) -> np.ndarray:
    """Five blurs by [1, 2, 1] / 4 at distances 1, 2, 4, 8, 16."""
    for distance in (1, 2, 4, 8, 16):
        for axis in (2, 3):
            widths = [(0, 0)] * 4
            widths[axis] = (distance, distance)
            padded, side = np.pad(image, widths, mode="edge"), image.shape[axis]
            image = sum(w * np.take(padded, range(k * distance, k * distance + side), axis)
                        for k, w in enumerate((0.25, 0.5, 0.25)))
    return image


def wavelet(image: np.ndarray, lr: np.ndarray, scale: int) -> np.ndarray:
    image = image.clip(0, 1)
    return image - low_frequency(image) + low_frequency(enlarge(lr, scale))


FIXES = {"adain": adain, "mean_std": mean_std, "wavelet": wavelet, "none": lambda image, lr, scale: image}


# ---- the model --------------------------------------------------------------------------------------------------------
def clean_latent(factors: dict, latent: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """latent * a + prediction * b; where a is 0, the two may differ in their channels."""
    clean = factors["prediction"] * prediction
    return (clean + factors["latent"] * latent if factors["latent"] else clean).astype(np.float32)


def chain(manifest: dict, graphs: dict[str, Graph], lr: np.ndarray) -> np.ndarray:
    """One tile [1, 3, h, w] in [0, 1] -> [1, 3, 4h, 4w]: all in one graph, or encoder, denoiser and decoder."""
    if "model" in graphs:
        return graphs["model"](lr)
    latent = graphs["encoder"](lr)
    return graphs["decoder"](clean_latent(manifest["host"]["clean_latent"], latent, graphs["denoiser"](latent)))


def weights(side: int) -> np.ndarray:
    x = (np.arange(side) - (side - 1) / 2) / side
    return np.exp(-(x**2) / 0.02)


def upscale(manifest: dict, graphs: dict[str, Graph], lr: np.ndarray) -> np.ndarray:
    """[1, 3, h, w] in [0, 1] of any size -> [1, 3, 4h, 4w]: Gaussian-weighted tiles, then one colour correction."""
    host, scale = manifest["host"], manifest["scale"]
    (height, width), align, tile = lr.shape[2:], host["align"], list(manifest["lr_size"])
    if manifest["dynamic"]:  # a small image need not fill a tile
        tile = [min(t, max(host["smallest"], -(-side // align) * align))
                for t, side in zip(tile, (height, width), strict=True)]
    step = [max(align, (t - min(host["overlap"], t // 2)) // align * align) for t in tile]
    count = [max(0, -(-(side - t) // s)) + 1 for side, t, s in zip((height, width), tile, step, strict=True)]
    wanted = [t + (n - 1) * s for t, n, s in zip(tile, count, step, strict=True)]
    padded = reflect(lr, wanted[0] - height, wanted[1] - width)
    total = np.zeros((1, 3, wanted[0] * scale, wanted[1] * scale))
    shares = np.zeros((1, 1, *total.shape[2:]))
    weight = np.outer(weights(tile[0] * scale), weights(tile[1] * scale))
    for row in range(count[0]):
        for column in range(count[1]):
            top, left = row * step[0], column * step[1]
            piece = chain(manifest, graphs, np.ascontiguousarray(padded[:, :, top:top + tile[0], left:left + tile[1]]))
            area = (..., slice(top * scale, (top + tile[0]) * scale), slice(left * scale, (left + tile[1]) * scale))
            total[area] += piece * weight
            shares[area] += weight
    image = (total / shares)[:, :, :height * scale, :width * scale].astype(np.float32)
    alone = count == [1, 1] and wanted == [height, width]
    if "model" not in graphs or not alone:  # model.* corrects its own tile already, which is not the image
        image = FIXES[host["colour_fix"] if count == [1, 1] else host["colour_fix_of_tiles"]](image, lr, scale)
    return image.clip(0, 1).astype(np.float32)


def chosen(manifest: dict, wanted: str | None) -> list[str]:
    """The graphs to run: the parts where they are all there, because one colour correction then serves all tiles."""
    parts = [name for name in ("encoder", "denoiser", "decoder") if name in manifest["graphs"]]
    if wanted == "model" or (wanted is None and len(parts) < 3):
        if "model" not in manifest["graphs"]:
            raise SystemExit(f"error: this folder holds {', '.join(manifest['graphs'])}, which is no whole model; export "
                             "it again without --component")
        return ["model"]
    return parts


def profile(folder: Path, repeats: int, threads: int | None) -> dict:
    """Of every graph: seconds to load, peak memory of this process in MiB before and after, ms of each run."""
    manifest, found = json.loads((folder / "manifest.json").read_text()), {}
    random = np.random.default_rng(0)
    for name, graph in manifest["graphs"].items():
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        run = load(folder, [name], threads)[name]
        loaded = time.perf_counter() - began
        shape = [d if isinstance(d, int) else s for d, s in zip(graph["inputs"][0]["shape"],
                                                                graph["inputs"][0]["example_shape"], strict=True)]
        x, times = random.random(shape, dtype=np.float32), []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            run(x)
            times.append((time.perf_counter() - began) * 1e3)
        unit = 1024 if sys.platform != "darwin" else 2**20
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found[name] = {"load_s": loaded, "first_ms": times[0], "ms": times[1:], "peak_mib": peak / unit,
                       "more_mib": (peak - before) / unit}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("images", nargs="*", type=Path, help="photographs (8-bit; others are converted)")
    parser.add_argument("-o", "--out", type=Path, default=Path("upscaled"), help="folder for NAME.png")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the runtime's)")
    parser.add_argument("--graphs", choices=["model", "parts"], help="one graph for all, or the three parts (default)")
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent, help=argparse.SUPPRESS)
    parser.add_argument("--profile", type=int, metavar="RUNS", help="print load time, memory and latency as JSON")
    arguments = parser.parse_args()
    if arguments.profile:
        print(json.dumps(profile(arguments.folder, arguments.profile, arguments.threads)))
        return 0
    if not arguments.images:
        parser.error("give one image or more")
    from PIL import Image, ImageOps

    manifest = json.loads((arguments.folder / "manifest.json").read_text())
    try:
        graphs = load(arguments.folder, chosen(manifest, arguments.graphs), arguments.threads)
    except ModuleNotFoundError as error:
        print(f"error: this folder needs the package {error.name}; run: {manifest['install']}", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in arguments.images:
        if not path.is_file():
            print(f"error: {path}: no such image file", file=sys.stderr)
            return 2
        with Image.open(path) as image:
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.float32) / 255
        if min(pixels.shape[:2]) < 16:
            print(f"error: {path}: both sides must be at least 16 pixels", file=sys.stderr)
            return 2
        began = time.perf_counter()
        sr = upscale(manifest, graphs, pixels.transpose(2, 0, 1)[None])
        if not np.isfinite(sr).all():
            print(f"error: {path}: the model gave values that are not finite", file=sys.stderr)
            return 1
        target = arguments.out / f"{path.stem}.png"
        Image.fromarray(np.uint8(np.rint(sr[0].transpose(1, 2, 0) * 255))).save(target)
        print(f"{target}  {sr.shape[3]}x{sr.shape[2]}  {time.perf_counter() - began:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
