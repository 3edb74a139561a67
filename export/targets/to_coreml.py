"""Core ML programs (.mlpackage): float32, float16, or float16 with weights of fewer bits.

Those weights are int8, or entries of a palette: a table of 16, 64 or 256 values for each layer,
which k-means chooses. The Neural Engine reads palettes as they are. With dtype `lut` each layer has
a palette of its own size, by `export.targets.palette_bits`.

They are converted anywhere, and predict on macOS.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.core.errors import UserError
from compress.core.files import write_text
from compress.process.strips import phases
from compress.recipe.export_options import MIXED_PALETTES
from export.targets.contract import Exported, Parts
from export.targets.hush import hushed
from export.targets.palette_bits import MEASURED, choose_bits, rows_of, simulate
from export.targets.palettes import WEIGHTS_FILE, WIDTHS, Weight, find_weights, weights_bytes
from export.targets.parts import check_no_packed_weights, check_no_rewrite

PRODUCTS = ("conv", "conv_transpose", "linear", "matmul")
CHOICES = ("reduce_argmin", "reduce_argmax")
MACOS = "darwin"
PALETTES = {"lut4": 4, "lut6": 6, "lut8": 8}  # bits of an index
PALETTES_FILE = "palettes.json"
FLOAT_DTYPES = ("fp32", "fp16")
INT8_WEIGHTS = {
    "by": "coremltools linear_quantize_weights",
    "weights": "int8, symmetric, per output channel",
    "activations": "float16",
    "placement": "weights only",
}


def chooses(op: Any) -> bool:
    """Whether a MIL operator does nothing but choose an index, from the last product on.

    `export.targets.searches` says why that matters.
    """
    if op.op_type in CHOICES:
        return True
    readers = [reader for value in op.outputs for reader in value.child_ops]
    if not readers:
        return False
    return all(reader.op_type not in PRODUCTS and chooses(reader) for reader in readers)


def bicubic_kernels(scale: int, channels: int) -> np.ndarray:
    """Kernels of a bicubic enlargement, with a pixel shuffle behind them.

    Returns:
        float32 [channels * scale^2, 1, 5, 5], for a convolution in `channels` groups.
    """
    rows = np.array(phases(scale))
    kernels = np.einsum("yi,xj->yxij", rows, rows).reshape(scale * scale, 1, 5, 5)
    return np.tile(kernels, (channels, 1, 1, 1)).astype(np.float32)


def register_operators() -> None:
    """Teach coremltools two operators of torch.

    One is bicubic enlargement by a whole factor, which Core ML has not: every phase of the output
    is a 5x5 convolution of the input with its edges repeated, and a pixel shuffle puts them in
    place. The other is `int` of an array of one number, where coremltools 9.0 takes what numpy 2.4
    refuses.
    """
    from coremltools.converters.mil import Builder, register_torch_op
    from coremltools.converters.mil.frontend.torch import ops

    general = ops._int

    @register_torch_op(torch_alias=["int"], override=True)
    def _int(context: Any, node: Any) -> None:
        x = context[node.inputs[0]]
        if isinstance(x.val, np.ndarray) and x.val.size == 1:
            context.add(Builder.const(val=int(x.val.ravel()[0]), name=node.name))
        else:
            general(context, node)

    @register_torch_op(override=True)
    def upsample_bicubic2d(context: Any, node: Any) -> None:
        x = context[node.inputs[0]]
        is_aligned = context[node.inputs[2]].val
        factor = None if is_aligned else whole_factor(context[node.inputs[-1]])
        if factor is None:
            raise UserError(
                "Core ML gets bicubic enlargement by one whole factor only; choose another target"
            )
        channels = x.shape[1]
        padded = Builder.pad(x=x, pad=[0, 0, 0, 0, 2, 2, 2, 2], mode="replicate", constant_val=0.0)
        pixels = Builder.conv(
            x=padded, weight=bicubic_kernels(factor, channels), groups=channels, pad_type="valid"
        )
        context.add(Builder.pixel_shuffle(x=pixels, upscale_factor=factor, name=node.name))


def whole_factor(factors: Any) -> int | None:
    """The one whole number in a MIL value of scale factors; None where it is not that."""
    if factors is None or factors.val is None:
        return None
    values = {float(value) for value in np.ravel(factors.val)}
    if len(values) != 1 or not min(values).is_integer():
        return None
    return int(values.pop())


def compress_weights(model: Any, dtype: str) -> Any:
    """A copy of a program with int8 weights or palettes.

    What only chooses an index stays in float, and so do layers of fewer than 2048 weights.

    Args:
        model: A program of coremltools.
        dtype: w8, or one of PALETTES.
    """
    from coremltools.optimize.coreml import (
        OpLinearQuantizerConfig,
        OpPalettizerConfig,
        OptimizationConfig,
        linear_quantize_weights,
        palettize_weights,
    )

    if dtype in PALETTES:
        kind: Any = OpPalettizerConfig(mode="kmeans", nbits=PALETTES[dtype])
        compress = palettize_weights
    else:
        kind = OpLinearQuantizerConfig(mode="linear_symmetric")
        compress = linear_quantize_weights
    operators = model._mil_program.functions["main"].operations
    settings = OptimizationConfig(
        op_type_configs=dict.fromkeys(PRODUCTS, kind),
        op_name_configs=dict.fromkeys([op.name for op in operators if chooses(op)]),
    )
    return compress(model, config=settings)


def mix_palettes(model: Any, bits: dict[str, int]) -> Any:
    """A copy of a program with a palette of its own size for each weight.

    Args:
        model: A program of coremltools in float16.
        bits: Name of a weight in it -> 4, 6 or 8. The rest stays in float.
    """
    from coremltools.optimize.coreml import (
        OpPalettizerConfig,
        OptimizationConfig,
        palettize_weights,
    )

    settings = OptimizationConfig(
        op_name_configs={
            name: OpPalettizerConfig(mode="kmeans", nbits=number) for name, number in bits.items()
        }
    )
    return palettize_weights(model, config=settings)


def palettise(
    parts: Parts, programs: dict[str, Any]
) -> tuple[dict[str, Any], list[tuple[Weight, int]], dict[str, Any]]:
    """The programs with palettes of one size, or of a size for each layer within a budget.

    Args:
        parts: Its dtype is `lut` or one of PALETTES.
        programs: Graph -> program in float16.

    Returns:
        The programs, every weight that has a palette with its bits, and what palettes.json says of
        the choice.

    Raises:
        UserError: As `choose_bits`.
    """
    mixed = parts.dtype == MIXED_PALETTES
    widths = WIDTHS if mixed else (PALETTES[parts.dtype],)
    made: dict[str, Any] = {}
    weights = []
    for stem, program in programs.items():
        with hushed():
            copies = {bits: compress_weights(program, f"lut{bits}") for bits in widths}
        weights += find_weights(parts, stem, program, copies)
        made[stem] = copies[widths[-1]]
    if not mixed:
        return made, [(weight, widths[0]) for weight in weights], {}
    choice = choose_bits(parts, weights, sum(map(weights_bytes, programs.values())))
    chosen = list(zip(weights, choice.bits, strict=True))
    for stem, program in programs.items():
        own = {weight.name: bits for weight, bits in chosen if weight.graph == stem}
        with hushed():
            made[stem] = mix_palettes(program, own)
    said = {"budget": parts.options.budget, "errors": choice.table, "without": choice.unknown}
    return made, chosen, said


def _report_palettes(
    parts: Parts, folder: Path, chosen: list[tuple[Weight, int]], size: int, said: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Write palettes.json; returns what the manifest and the terminal say of it."""
    psnr = simulate(parts, chosen)
    counts = {bits: [own for _, own in chosen].count(bits) for bits in WIDTHS}
    summary = {
        **said,
        "weights_bytes": size,
        "counts": {str(bits): count for bits, count in counts.items() if count},
        "simulated_psnr_db": psnr,
    }
    rows = rows_of(parts, chosen)
    write_text(folder / PALETTES_FILE, json.dumps({**summary, "rows": rows}, indent=1) + "\n")
    counted = ", ".join(f"{count} of {bits} bits" for bits, count in counts.items() if count)
    notes = [
        f"palettes: {counted or 'none'}; weights of all files {size / 1e6:.4f} MB",
        f"torch with their values is at {psnr:.2f} dB to torch as it is; Core ML did not run",
    ]
    if said:
        where = "" if said["errors"] == MEASURED else "from "
        lacking = len(said["without"])
        rest = f"; {lacking} layers are not in it and have {max(WIDTHS)} bits" if lacking else ""
        notes.append(f"errors of layers: {where}{said['errors']}{rest}")
    return {"palettes": summary}, notes


def _describe_weights(dtype: str) -> dict[str, Any]:
    """What the manifest says of the weights; empty for floats."""
    if dtype in FLOAT_DTYPES:
        return {}
    if dtype == "w8":
        return INT8_WEIGHTS
    sizes = "16, 64 or 256" if dtype == MIXED_PALETTES else f"{2 ** PALETTES[dtype]}"
    return {
        **INT8_WEIGHTS,
        "by": "coremltools palettize_weights, k-means",
        "weights": f"palettes of {sizes} values, one for each layer",
    }


def _convert(parts: Parts, stem: str, precision: Any) -> Any:
    """One graph as a program of coremltools, in float."""
    import coremltools as ct

    spec = parts.spec(stem)
    example = parts.example(stem)
    with hushed():
        return ct.convert(
            torch.jit.trace(parts.module(stem), example, check_trace=False),
            convert_to="mlprogram",
            compute_precision=precision,
            inputs=[
                ct.TensorType(name=name, shape=tuple(x.shape))
                for name, x in zip(spec.inputs, example, strict=True)
            ],
            outputs=[ct.TensorType(name=name) for name in spec.outputs],
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
        )


def _programs(parts: Parts, precision: Any) -> Iterator[tuple[str, Any]]:
    """Each graph as a program, one after the other; of dtype w8 with its int8 weights."""
    for stem in parts.stems:
        program = _convert(parts, stem, precision)
        if parts.dtype == "w8":
            with hushed():
                program = compress_weights(program, "w8")
        yield stem, program


@torch.no_grad()
def write(parts: Parts, folder: Path) -> Exported:
    """Convert every graph from torch."""
    with hushed():  # off macOS it reports what it cannot load
        import coremltools as ct

    check_no_packed_weights(parts)
    check_no_rewrite(parts, "Core ML")
    precision = ct.precision.FLOAT32
    if parts.dtype != "fp32":
        precision = ct.transform.FP16ComputePrecision(op_selector=lambda op: not chooses(op))
    register_operators()
    described = _describe_weights(parts.dtype)
    notes: list[str] = []
    graphs = {}
    has_palettes = parts.dtype == MIXED_PALETTES or parts.dtype in PALETTES
    programs: Iterable[tuple[str, Any]] = _programs(parts, precision)
    if has_palettes:
        by_stem, chosen, said = palettise(parts, dict(programs))
        programs = by_stem.items()
    for stem, program in programs:
        program.save(str(folder / f"{stem}.mlpackage"))
        graphs[stem] = {"file": f"{stem}.mlpackage", "format": "Core ML program, iOS 16"}
    if has_palettes:
        size = sum(path.stat().st_size for path in folder.rglob(WEIGHTS_FILE))
        told, notes = _report_palettes(parts, folder, chosen, size, said)
        described |= told
    runs = sys.platform == MACOS
    if not runs:
        notes.append("converted, not run: Core ML predicts on macOS only")
    return Exported(graphs, ("coremltools",), described, runs=runs, notes=notes)
