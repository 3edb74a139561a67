"""ONNX: the whole model as one file, and one file per component."""

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from compress import __version__
from compress.core.errors import UserError
from compress.model.sr_model import SCALE, SRModel
from compress.quant.placement import Placement
from compress.quant.points import placement_of, placements_in
from export.graphs.components import (
    MODEL,
    build,
    check_process,
    check_size,
    dynamic_axes,
    example,
    graphs_of,
    has_parts,
    parts_of,
)
from export.graphs.graph import (
    OPSET_16_BIT,
    check_opset,
    check_packed,
    check_quantised,
    tidy,
    write,
)
from export.graphs.layers import (
    distinct_weights,
    has_16_bits,
    low_bit_layers,
    packed_bytes,
    quantised_layers,
    summary,
)

__all__ = [
    "OPSET",
    "OPSET_16_BIT",
    "OnnxOptions",
    "check_low_bits",
    "check_size",
    "export_onnx",
    "low_bit_layers",
    "packed_bytes",
    "quantised_layers",
    "quiet",
    "resolve_opset",
    "summary",
]

PROJECT = "diffusion-sr-compress"
# 18 to 20 keep GroupNorm as InstanceNormalization, which onnxruntime has a kernel for. From 21 on
# it inlines GroupNormalization. From 23 on SDPA becomes Attention, whose CPU kernel is slower than
# the plain products.
OPSET = 20
PACKED = "packed"


@dataclass(frozen=True)
class OnnxOptions:
    """How a model is exported to ONNX.

    Attributes:
        lr_size: Height and width of the low-resolution image.
        dynamic: Shapes from twice `model.multiple` up in whole multiples, not static ones.
        opset: None chooses: 20, or 21 for 16-bit activations and int4, 25 for int2.
        low_bits: What weights of one or two bits become: `packed` bytes, or `int2`, `int4`.
        per_component: Write a file per component.
        end_to_end: Write a file of the whole model.
        stems: The graphs to write, in the place of the two above.
        for_cpu: Have graphs in the forms of export/graphs/cpu_forms. None: those of a model that is
            quantised for it (placement `cpu`).
    """

    lr_size: tuple[int, int] = (128, 128)
    dynamic: bool = False
    opset: int | None = None
    low_bits: str = PACKED
    per_component: bool = True
    end_to_end: bool = True
    stems: tuple[str, ...] | None = None
    for_cpu: bool | None = None


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the exporter's warnings, which say nothing to a user; its errors pass."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def check_low_bits(model: nn.Module, low_bits: str) -> None:
    """Refuse a form of packed weights that there is not, or that the model has nothing for.

    Raises:
        UserError: It is such a form.
    """
    from export.graphs.packed import INTEGERS

    if low_bits not in (PACKED, *INTEGERS):
        raise UserError(f"low_bits '{low_bits}' is unknown; choose packed, {' or '.join(INTEGERS)}")
    if low_bits != PACKED and not packed_bytes(model):
        raise UserError(
            f"low_bits '{low_bits}' is for packed weights and this model has none; "
            "list the passes binarize and pack, or leave low_bits out"
        )


def resolve_opset(opset: int | None, sixteen_bit: bool, low_bits: str) -> int:
    """The opset of an export.

    Args:
        opset: The one asked for, or None for the first that suffices.
        sixteen_bit: Whether something is quantised to 16 bits.
        low_bits: What packed weights become.

    Raises:
        UserError: The one asked for is out of bounds, or too old.
    """
    from export.graphs.packed import INTEGERS

    needed = OPSET_16_BIT if sixteen_bit else OPSET
    if low_bits in INTEGERS:
        needed = max(needed, INTEGERS[low_bits][1])
    chosen = needed if opset is None else opset
    check_opset(chosen, sixteen_bit)
    if low_bits in INTEGERS and chosen < needed:
        raise UserError(
            f"opset {chosen} has no {low_bits}; choose {needed} or later, or low_bits packed"
        )
    return chosen


def graphs_to_write(model: SRModel, options: OnnxOptions) -> tuple[str, ...]:
    """The graphs that an export writes.

    Raises:
        UserError: There are none, a model of several steps has no file per component, or the number
            of steps is not fixed.
    """
    check_process(model)
    stems = options.stems
    if stems is None:
        whole = (MODEL,) if options.end_to_end else ()
        stems = (*whole, *parts_of(model)) if options.per_component else whole
    if not stems:
        raise UserError("nothing to export: choose end_to_end, per_component or both")
    if set(stems) - {MODEL} and not has_parts(model):
        raise UserError(
            f"the denoiser runs {model.process.steps} times with host code between or ranges of "
            "its own for each step, which one file a component cannot hold; export end to end only "
            "(per_component=False)"
        )
    return stems


@torch.no_grad()
def export_onnx(model: SRModel, out_dir: Path, **options: Any) -> list[Path]:
    """Write `model.onnx` (lr -> sr) and one file for each component that has an input.

    Quantised layers become QuantizeLinear/DequantizeLinear pairs around integer weights. Weights of
    more than 1 GiB go to a `.data` file beside the graph.

    Args:
        model: The model; it is set to evaluation meanwhile.
        out_dir: The folder; it is made.
        **options: The fields of OnnxOptions.

    Returns:
        The ONNX files.

    Raises:
        UserError: A size or opset is illegal, onnxscript is missing, or layers have no ranges.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise UserError(
            "ONNX export needs the package onnxscript; run: pip install 'onnxscript>=0.7.2,<0.8'"
        )
    chosen = OnnxOptions(**options)
    _check_sizes(model, chosen)
    quantised_layers(model)  # raises where ranges are missing
    check_low_bits(model, chosen.low_bits)
    opset = resolve_opset(chosen.opset, has_16_bits(model), chosen.low_bits)
    stems = graphs_to_write(model, chosen)
    written = []
    was_training = model.training
    model.eval()
    for stem in stems:
        module = build(model, stem)
        graph = _to_ir(module, model, stem, opset, chosen)
        path = Path(out_dir) / f"{stem}.onnx"
        written += write(graph, path, _metadata(module, model, stem, chosen))
    model.train(was_training)
    return [path for path in written if path.suffix == ".onnx"]


def _check_sizes(model: SRModel, options: OnnxOptions) -> None:
    check_size(model, options.lr_size)
    least = 2 * model.multiple
    if options.dynamic and min(options.lr_size) < least:
        height, width = options.lr_size
        raise UserError(
            f"lr size {height}x{width} is too small to trace dynamic shapes; take at least "
            f"{least}x{least}"
        )


def _to_ir(
    module: nn.Module, model: SRModel, stem: str, opset: int, options: OnnxOptions
) -> ir.Model:
    """The graph of a module, in its final form."""
    from export.graphs.cpu_forms import cpu_forms
    from export.graphs.packed import INTEGERS, add_functions, as_integers
    from export.graphs.quick_export import quick_export
    from export.graphs.translate import TABLE, drop_unit_factors

    spec = graphs_of(model)[stem]
    with quiet(), quick_export():
        program = torch.onnx.export(
            module,
            example(model, stem, options.lr_size),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=list(spec.inputs),
            output_names=list(spec.outputs),
            custom_translation_table=TABLE,
            dynamic_shapes=dynamic_axes(model, stem) if options.dynamic else None,
        )
    if program is None:
        raise RuntimeError(f"{stem}: torch.onnx.export gave no graph")
    graph = program.model
    drop_unit_factors(graph)
    for_cpu = options.for_cpu
    if for_cpu is None:
        for_cpu = Placement.CPU in placements_in(module)
    if for_cpu:
        cpu_forms(graph)
    tidy(graph)
    check_packed(graph, packed_bytes(module), stem)
    if options.low_bits in INTEGERS:
        as_integers(graph, options.low_bits)
    add_functions(graph)
    check_quantised(graph, distinct_weights(module), stem)
    return graph


def _metadata(
    module: nn.Module, model: SRModel, stem: str, options: OnnxOptions
) -> dict[str, str | dict]:
    """What the file says of itself."""
    height, width = options.lr_size
    return {
        "project": PROJECT,
        "version": __version__,
        "component": stem,
        "scale": str(SCALE),
        "lr_size": f"{height}x{width}",
        "dynamic": str(options.dynamic).lower(),
        "colour_fix": model.colour_fix if stem == MODEL else "none",
        "quantised_layers": summary(module),
        "placement": placement_of(module),
    }
