"""LiteRT (.tflite): float32, float16 weights, or static int8 and int8 x int16.

The codes are of ai-edge-quantizer. In integers it computes convolutions and linear layers. With
every operator that the quantizer knows, the squares, sums and roots of a GroupNorm went into
integers too, and what was left was noise: 15 dB, at 8 bits as at 16. BATCH_MATMUL, the products of
attention, alone gave 18 dB at 16 bits on a small model with stored keys: it stays in float as well.
So does the search of a code: SinSR's in 8 bits took 7 dB.

litert-torch wants other versions of some packages than this toolkit does: an environment of its
own.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.recipe.export_options import GPU
from export.targets.contract import Exported, Inputs, Parts
from export.targets.folded_constants import with_constants_folded
from export.targets.host.runtimes import in_order
from export.targets.hush import hushed
from export.targets.litert_gpu import OnGPU
from export.targets.litert_npu import compile_file
from export.targets.parts import check_no_packed_weights, check_no_rewrite
from export.targets.plain_functions import plain_functions
from export.targets.plain_operators import (
    stored_codes,
    with_plain_group_norms,
    without_gathers,
)
from export.targets.plain_resampling import resampling_matrix
from export.targets.room_for_biases import with_room_for_biases
from export.targets.safe_norms import with_safe_norms

PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE", "FULLY_CONNECTED")
ALL_PRODUCTS = (*PRODUCTS, "BATCH_MATMUL")
CHOICES = ("ARG_MIN", "ARG_MAX")
LINEAR = "FULLY_CONNECTED"
SUM_TOLERANCE = 1e-5  # of the weights of a resampled pixel
ANYTHING = ".*"  # of the quantizer's scopes
# Functions that LiteRT's delegate for GPUs does not take as torch has them.
PLAIN = ("resampling", "repetition", "limits", "windows")
PACKAGES = ("litert-torch", "ai-edge-litert", "ai-edge-quantizer")
# Its kind, and the numbers of the tensors that it reads and writes.
Operator = tuple[str, list[int], list[int]]
Ranges = dict[str, dict[str, np.ndarray]]


def observed(calibrate: Callable[[Inputs], Ranges], samples: list[Inputs]) -> dict[str, dict]:
    """The least and the greatest value of every tensor over all samples.

    Each sample is calibrated alone. Over several at once the quantizer takes a moving average, and
    what lies beyond it is cut off.

    Args:
        calibrate: Sample -> tensor name -> `min` and `max`, and what else there is.
        samples: Inputs of the graph.
    """
    ranges: dict[str, dict] = {}
    for sample in samples:
        for name, seen in calibrate(sample).items():
            widest = ranges.setdefault(name, dict(seen))
            if "min" in seen:
                widest["min"] = np.minimum(widest["min"], seen["min"])
            if "max" in seen:
                widest["max"] = np.maximum(widest["max"], seen["max"])
    return ranges


def searches(operators: list[Operator]) -> list[int]:
    """What the products give whose results an ARG_MIN or ARG_MAX compares.

    `export.targets.searches` says why they are looked for.

    Returns:
        Numbers of tensors, in rising order.
    """
    producer: dict[int, tuple[str, list[int]]] = {}
    waiting: list[int] = []
    for kind, inputs, outputs in operators:
        for number in outputs:
            producer[number] = (kind, inputs)
        if kind in CHOICES:
            waiting.extend(inputs)
    seen: set[int] = set()
    compared: set[int] = set()
    while waiting:
        number = waiting.pop()
        kind, inputs = producer.get(number, ("", []))
        if kind in ALL_PRODUCTS:
            compared.add(number)
        elif number not in seen:
            seen.add(number)
            waiting.extend(inputs)
    return sorted(compared)


def left_in_float(file: Path, tables: list[np.ndarray]) -> list[str]:
    """The quantizer's scopes, as regular expressions, of the products that have to be exact.

    Those are what only chooses an index, products with stored codes, and resampling.

    Args:
        file: In float32.
        tables: What is stored of codes, [1, inputs, outputs].
    """
    from ai_edge_litert.tools.flatbuffer_utils import opcode_to_name, read_model

    model = read_model(str(file))
    scopes = []
    for graph in model.subgraphs:
        operators = [
            (opcode_to_name(model, o.opcodeIndex), list(o.inputs), list(o.outputs))
            for o in graph.operators
        ]
        exact = searches(operators)
        for kind, inputs, outputs in operators:
            if kind != LINEAR:
                continue
            weights = graph.tensors[inputs[1]]
            stored = model.buffers[weights.buffer].data
            if stored is not None and is_exact(
                np.frombuffer(stored, np.float32).reshape(weights.shape), tables
            ):
                exact.append(outputs[0])
        for number in exact:
            name = graph.tensors[number].name.decode()
            scopes.append(f"^{re.escape(name)};$")
    return scopes


def is_exact(weights: np.ndarray, tables: list[np.ndarray]) -> bool:
    """Whether a linear layer's weights [outputs, inputs] are a table, or resample an axis."""
    if any(np.array_equal(weights.T, table[0]) for table in tables):
        return True
    if np.abs(weights.sum(axis=1) - 1).max() > SUM_TOLERANCE:
        return False
    after, before = weights.shape
    return np.array_equal(weights.T, resampling_matrix(before, after, False)[0].numpy())


def quantise(source: Path, result: Path, parts: Parts, stem: str, tables: list[np.ndarray]) -> None:
    """Write a copy of a float32 file in `parts.dtype`; its input and output stay float32.

    Args:
        source: The file in float32.
        result: The copy.
        parts: With images to calibrate on.
        stem: The graph.
        tables: As `left_in_float` takes them.
    """
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName

    everything = TFLOperationName.ALL_SUPPORTED
    work = quantizer.Quantizer(str(source))
    if parts.dtype == "fp16":
        work.add_weight_only_config(
            ANYTHING, everything, 16, algorithm_key=AlgorithmName.FLOAT_CASTING
        )
    else:
        for name in PRODUCTS:
            work.add_static_config(ANYTHING, TFLOperationName[name], parts.activation_bits, 8)
    # Behind the rules for all: the last that fits an operator holds.
    for scope in left_in_float(source, tables):
        work.update_quantization_recipe(scope, everything, algorithm_key=AlgorithmName.NO_QUANTIZE)
    if parts.dtype == "fp16":
        work.quantize().export_model(str(result))
        return
    samples = [tuple(x.numpy() for x in given) for given in parts.tuples(stem)]
    ranges = _calibrate(work, source, samples)
    if not ranges:  # no product in it, as in an encoder that only unshuffles pixels
        shutil.copyfile(source, result)
        return
    work.quantize(ranges).export_model(str(result))


def _calibrate(work: Any, source: Path, samples: list[Inputs]) -> dict[str, dict]:
    """The ranges of a file's tensors over `samples`."""
    from ai_edge_litert.interpreter import Interpreter

    signatures = Interpreter(model_path=str(source)).get_signature_list()
    key, names = next(iter(signatures.items()))
    inputs = in_order(names["inputs"])

    def calibrate(sample: Inputs) -> Ranges:
        feed = dict(zip(inputs, sample, strict=True))
        return work.calibrate({key: [feed]}, num_threads=1)

    return observed(calibrate, samples)


@torch.no_grad()
def write(parts: Parts, folder: Path) -> Exported:
    """Convert every graph from torch, and quantise the file where that is asked for."""
    import litert_torch

    check_no_packed_weights(parts)
    check_no_rewrite(parts, "litert")
    graphs: dict[str, dict[str, Any]] = {}
    for stem in parts.stems:
        file = folder / f"{stem}.tflite"
        example = parts.example(stem)
        module = without_gathers(parts.module(stem), example)
        if parts.dtype == "fp16":
            module = with_safe_norms(module, parts.tuples(stem))
        if parts.dtype == "w8a8":
            module = with_room_for_biases(module, parts.tuples(stem))
        if parts.options.delegate == GPU:
            module = with_plain_group_norms(module)
        with hushed(), plain_functions(*PLAIN):
            converted = litert_torch.convert(with_constants_folded(module, example), example)
            converted.export(str(file))
            if parts.dtype != "fp32":
                float_file = file.with_name(f"{stem}_float.tflite")
                file.replace(float_file)
                quantise(float_file, file, parts, stem, stored_codes(module))
                float_file.unlink()
        graphs[stem] = {"file": file.name, "format": "LiteRT flatbuffer"}
        if parts.options.npu is not None:
            graphs[stem]["npu"] = compile_file(file, parts.options.npu)
    kind = {}
    if parts.dtype.startswith("w"):
        kind = {
            "by": "ai-edge-quantizer, min-max",
            "weights": "int8, symmetric, per output channel",
            "activations": f"int{parts.activation_bits}, per tensor",
            "placement": "convolutions and linear layers; the rest, and what goes in and out, in "
            "float32",
        }
    runner = None
    if parts.options.delegate == GPU:
        runner = OnGPU(folder, graphs, full_precision=parts.dtype == "fp32")
    return Exported(graphs, PACKAGES, kind, runner=runner)
