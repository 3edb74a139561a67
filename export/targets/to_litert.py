"""LiteRT (.tflite): float32, float16 weights, or static int8 and int8 x int16 by ai-edge-quantizer.

In integers it computes convolutions and linear layers. With every operator that the quantizer knows, the squares, sums
and roots of a GroupNorm went into integers too, and what was left was noise: 15 dB, at 8 bits as at 16. BATCH_MATMUL,
the products of attention, alone gave 18 dB at 16 bits on a small model with stored keys: it stays in float as well. So
does the search of a code: SinSR's in 8 bits took 7 dB.

litert-torch wants other versions of some packages than this toolkit does: an environment of its own.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from compress.core.errors import UserError
from export.targets.hush import hushed
from export.targets.parts import Exported, Options, Parts, example, float_model

PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE", "FULLY_CONNECTED")
Operator = tuple[
    str, list[int], list[int]
]  # its kind, and the numbers of the tensors that it reads and writes


def observed(
    calibrate: Callable[[np.ndarray], dict[str, dict]], samples: list[np.ndarray]
) -> dict[str, dict]:
    """Least and greatest value of every tensor over all samples, from `calibrate` of each alone: over several at once
    the quantizer takes a moving average, and what lies beyond it is cut off."""
    ranges: dict[str, dict] = {}
    for sample in samples:
        for name, found in calibrate(sample).items():
            kept = ranges.setdefault(name, dict(found))
            for end, choose in (("min", np.minimum), ("max", np.maximum)):
                if end in found:
                    kept[end] = choose(kept[end], found[end])
    return ranges


def searches(operators: list[Operator]) -> list[int]:
    """What the products put out whose results an ARG_MIN or ARG_MAX compares, see export/targets/qdq.py."""
    producer = {number: (kind, inputs) for kind, inputs, outputs in operators for number in outputs}
    waiting, seen = (
        [
            number
            for kind, inputs, _ in operators
            if kind in ("ARG_MIN", "ARG_MAX")
            for number in inputs
        ],
        set(),
    )
    found = set()
    while waiting:
        number = waiting.pop()
        kind, inputs = producer.get(number, ("", []))
        if kind in (*PRODUCTS, "BATCH_MATMUL"):
            found.add(number)
        elif number not in seen:
            seen.add(number)
            waiting.extend(inputs)
    return sorted(found)


def left_in_float(file: Path) -> list[str]:
    """The quantizer's scopes, as regular expressions, of the products that only choose an index."""
    from ai_edge_litert.tools.flatbuffer_utils import opcode_to_name, read_model

    model, found = read_model(str(file)), []
    for graph in model.subgraphs:
        operators = [
            (opcode_to_name(model, o.opcodeIndex), list(o.inputs), list(o.outputs))
            for o in graph.operators
        ]
        found += [
            f"^{re.escape(graph.tensors[number].name.decode())};$" for number in searches(operators)
        ]
    return found


def quantise(source: Path, result: Path, parts: Parts, stem: str) -> None:
    """Write a quantised copy of a float32 file; its input and output stay float32."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName

    work, kept = quantizer.Quantizer(str(source)), left_in_float(source)

    def leave() -> None:
        """Behind the rules for all: the last that fits an operator holds."""
        for scope in kept:
            work.update_quantization_recipe(
                scope, TFLOperationName.ALL_SUPPORTED, algorithm_key=AlgorithmName.NO_QUANTIZE
            )

    if parts.dtype == "fp16":
        work.add_weight_only_config(
            ".*", TFLOperationName.ALL_SUPPORTED, 16, algorithm_key=AlgorithmName.FLOAT_CASTING
        )
        leave()
        work.quantize().export_model(str(result))
        return
    for name in PRODUCTS:
        work.add_static_config(".*", TFLOperationName[name], parts.activation_bits, 8)
    leave()
    signatures = Interpreter(model_path=str(source)).get_signature_list()
    key, names = next(iter(signatures.items()))
    ranges = observed(
        lambda x: work.calibrate({key: [{names["inputs"][0]: x}]}, num_threads=1),
        [x.numpy() for x in parts.inputs(stem)],
    )
    if not ranges:  # no product in it, as in an encoder that only unshuffles pixels
        shutil.copyfile(source, result)
        return
    work.quantize(ranges).export_model(str(result))


@torch.no_grad()
def write(parts: Parts, folder: Path, options: Options) -> Exported:
    import litert_torch

    float_model(parts)
    if options.rewrite:
        raise UserError(
            "rewrites work on ONNX graphs, and litert is made from torch; leave out --rewrite"
        )
    graphs = {}
    for stem in parts.stems:
        file = folder / f"{stem}.tflite"
        with hushed():
            litert_torch.convert(parts.module(stem), (example(parts, stem),)).export(str(file))
            if parts.dtype != "fp32":
                float_file = file.with_name(f"{stem}_float.tflite")
                file.replace(float_file)
                quantise(float_file, file, parts, stem)
                float_file.unlink()
        graphs[stem] = {"file": file.name, "format": "LiteRT flatbuffer"}
    kind = {}
    if parts.dtype.startswith("w"):
        kind = {
            "by": "ai-edge-quantizer, min-max",
            "weights": "int8, symmetric, per output channel",
            "activations": f"int{parts.activation_bits}, per tensor",
            "placement": "convolutions and linear layers; the rest, and what goes in and out, in float32",
        }
    return Exported(graphs, ("litert-torch", "ai-edge-litert", "ai-edge-quantizer"), kind)
