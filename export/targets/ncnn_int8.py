"""Eight-bit convolutions for ncnn, as its tools ncnn2table and ncnn2int8 write them.

Weights get symmetric codes from -127 to 127 per output channel, what a convolution reads gets them
per tensor (`src/layer/convolution.cpp` of ncnn, BSD-3). ncnn multiplies the codes in integers and
hands on floats. So zero points of a quantize pass have no place there, and ranges are calibrated
anew.
"""

from pathlib import Path
from typing import Any

import numpy as np

from export.targets.contract import Inputs
from export.targets.ncnn_files import (
    Layer,
    as_float,
    read_layers,
    split_weights,
    tagged_int8,
    write_layers,
)

KIND = "Convolution"
MOST = 127  # the greatest code
SCALE_TERM = "8"  # the parameter of a convolution that says: codes of weights, scales of both
WITH_SCALES = "2"
CLIPS = np.linspace(0.4, 1.0, 31)  # of the greatest magnitude, tried as the end of the range
MOST_VALUES = 1 << 16  # of one tensor in one sample, evenly spaced, that a range is searched with


def quantised_layers(layers: list[Layer]) -> list[Layer]:
    """The convolutions that get codes: not those that read what comes in, or write what goes out.

    An image has 256 values, and symmetric codes would leave it 127.
    """
    entering = _reach(layers, {layer.outputs[0] for layer in layers if layer.kind == "Input"})
    read = {blob for layer in layers for blob in layer.inputs}
    leaving = {blob for layer in layers for blob in layer.outputs} - read
    return [
        layer
        for layer in layers
        if layer.kind == KIND
        and layer.inputs[0] not in entering
        and layer.outputs[0] not in leaving
    ]


def _reach(layers: list[Layer], blobs: set[str]) -> set[str]:
    """Those blobs, and their copies."""
    found = set(blobs)
    for layer in layers:
        if layer.kind == "Split" and layer.inputs[0] in found:
            found.update(layer.outputs)
    return found


def _opened(graph: dict, folder: Path) -> Any:
    """A network that computes in float32 and keeps all its blobs."""
    import ncnn as runtime

    net = runtime.Net()
    net.opt.num_threads = 1
    net.opt.lightmode = False
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, option, False)
    net.opt.use_bf16_storage = False
    if net.load_param(str(folder / graph["file"])) or net.load_model(
        str(folder / graph["weights"])
    ):
        raise RuntimeError(f"ncnn cannot load {folder / graph['file']}")
    return net


def observed(
    graph: dict, folder: Path, blobs: list[str], samples: list[Inputs]
) -> dict[str, np.ndarray]:
    """Values of inner blobs over all samples.

    Args:
        graph: The entry of a float network in the manifest.
        folder: Where its files lie.
        blobs: Names.
        samples: Inputs of the graph.

    Returns:
        Blob -> float32 [values], at most MOST_VALUES of each sample.
    """
    import ncnn as runtime

    net = _opened(graph, folder)
    seen: dict[str, list[np.ndarray]] = {blob: [] for blob in blobs}
    for sample in samples:
        with net.create_extractor() as extractor:
            for name, x in zip(graph["blobs"]["inputs"], sample, strict=True):
                extractor.input(name, runtime.Mat(np.ascontiguousarray(x[0])).clone())
            for blob in blobs:
                code, values = extractor.extract(blob)
                if code:
                    raise RuntimeError(f"ncnn ended with code {code} at {blob} of {graph['file']}")
                flat = np.array(values).ravel()
                seen[blob].append(flat[:: max(1, len(flat) // MOST_VALUES)])
    return {blob: np.concatenate(parts) for blob, parts in seen.items()}


def search_scale(values: np.ndarray) -> float:
    """Codes per unit, with the least mean squared error over `values`."""
    greatest = float(np.abs(values).max())
    if greatest == 0:
        return 1.0
    errors = []
    for end in greatest * CLIPS:
        scale = MOST / end
        codes = np.clip(np.rint(values * scale), -MOST, MOST)
        errors.append(float(np.square(codes / scale - values).mean()))
    return MOST / float(greatest * CLIPS[int(np.argmin(errors))])


def codes_of(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of a convolution's weights, and their scales.

    Args:
        weights: float32 [outputs, inputs x window].

    Returns:
        int8 of the same shape, and codes per unit, float32 [outputs].
    """
    greatest = np.abs(weights).max(axis=1)
    scales = (MOST / np.where(greatest > 0, greatest, 1)).astype(np.float32)
    return np.rint(weights * scales[:, None]).astype(np.int8), scales


def quantise(graph: dict, folder: Path, samples: list[Inputs]) -> int:
    """Write a network's files anew, with codes in its convolutions.

    Args:
        graph: Its entry in the manifest.
        folder: Where its files lie, with weights in float32.
        samples: Inputs of the graph to calibrate with.

    Returns:
        How many convolutions got codes.
    """
    param, weights_file = folder / graph["file"], folder / graph["weights"]
    layers = read_layers(param)
    chosen = quantised_layers(layers)
    if not chosen:
        return 0
    weights = split_weights(layers, weights_file.read_bytes())
    values = observed(graph, folder, sorted({layer.inputs[0] for layer in chosen}), samples)
    scales = {blob: search_scale(found) for blob, found in values.items()}
    for layer in chosen:
        floats = as_float(weights[layer.name][0], layer.number(6))
        codes, per_channel = codes_of(floats.reshape(layer.number(0), -1))
        of_input = np.array([scales[layer.inputs[0]]], np.float32)
        bias = weights[layer.name][1:]
        weights[layer.name] = [
            tagged_int8(codes.ravel()),
            *bias,
            per_channel.tobytes(),
            of_input.tobytes(),
        ]
        layer.parameters[SCALE_TERM] = WITH_SCALES
    write_layers(param, layers)
    weights_file.write_bytes(b"".join(piece for layer in layers for piece in weights[layer.name]))
    return len(chosen)
