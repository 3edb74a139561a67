"""The rewrites by name, those of each target, and their application to graphs and files."""

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes

from compress.core.errors import UserError, nearest
from compress.core.files import MADE_BY
from compress.data.calibration import as_values
from compress.model.sr_model import SRModel
from export.graphs.components import graphs_of, reaching
from export.graphs.graph import tidy, write
from export.graphs.probes import probes
from export.graphs.storage import load_ir
from export.rewrites.activations import gelu, silu
from export.rewrites.arithmetic import division, finite_masks, selection
from export.rewrites.attention import attention_convolutions, attention_heads
from export.rewrites.convolutions import conv_bias, geglu
from export.rewrites.folding import fold_constants
from export.rewrites.four_d import four_d
from export.rewrites.fp16 import rescale
from export.rewrites.norms import group_norm, instance_statistics, layer_statistics
from export.rewrites.options import DEFAULTS, Options
from export.rewrites.orders import FOR
from export.rewrites.sampling import edge_padding, pixel_shuffle, resize_nearest
from export.rewrites.shuffle_order import shuffle_order

# Name -> function(model, options): changes the model in place, returns how many places.
REWRITES: dict[str, Callable[[ir.Model, Options], int]] = {
    "fold_constants": fold_constants,
    "silu": silu,
    "gelu": gelu,
    "resize_nearest": resize_nearest,
    "edge_padding": edge_padding,
    "finite_masks": finite_masks,
    "pixel_shuffle": pixel_shuffle,
    "shuffle_order": shuffle_order,
    "group_norm": group_norm,
    "instance_statistics": instance_statistics,
    "layer_statistics": layer_statistics,
    "selection": selection,
    "division": division,
    "attention_heads": attention_heads,
    "attention_convolutions": attention_convolutions,
    "four_d": four_d,
    "geglu": geglu,
    "conv_bias": conv_bias,
    "rescale": rescale,
}


def names_for(target: str) -> tuple[str, ...]:
    """The rewrites of a target, or of several names with commas between.

    Raises:
        UserError: A name is no rewrite.
    """
    if target in FOR:
        return FOR[target]
    names = tuple(target.split(","))
    for name in names:
        if name not in REWRITES:
            choices = [*FOR, *REWRITES]
            raise UserError(
                f"rewrite '{name}' is unknown{nearest(name, choices)}; choose a target "
                f"({', '.join(FOR)}) or rewrites with commas between ({', '.join(REWRITES)})"
            )
    return names


def rewrite(model: ir.Model, target: str, options: Options = DEFAULTS) -> dict[str, int]:
    """Apply the rewrites of a target to a graph, in place.

    Args:
        model: A graph of static shapes.
        target: See `names_for`.
        options: See `Options`.

    Returns:
        Rewrite -> how many places it changed.

    Raises:
        UserError: A rewrite is unknown, or a shape is not static.
    """
    names = names_for(target)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    done = dict.fromkeys(names, 0)
    for name in names:
        done[name] += REWRITES[name](model, options)
    return done


def rewrite_file(file: Path, out: Path, target: str, options: Options = DEFAULTS) -> dict[str, int]:
    """Rewrite an ONNX file into another; `file` and `out` may be the same.

    Args:
        file: A graph of static shapes.
        out: What is written; large weights go to `out`.data.
        target: See `names_for`.
        options: See `Options`.

    Returns:
        Rewrite -> how many places it changed.

    Raises:
        UserError: The file cannot be read; otherwise as `rewrite`.
    """
    model = load_ir(file)
    notes = dict(model.metadata_props)
    done = rewrite(model, target, options)
    tidy(model)
    write(model, Path(out), notes | {"rewrites": target, "made_by": MADE_BY})
    return done


@torch.no_grad()
def rewrite_exported(
    paths: list[Path], model: SRModel, target: str, lr_size: tuple[int, int]
) -> None:
    """Rewrite the files that `export_onnx` wrote for a model, in their place.

    Args:
        paths: The files.
        model: What they were exported from; it makes the inputs that `rescale` sees.
        target: See `names_for`.
        lr_size: Height and width that they were exported at.
    """
    known = as_values(model, list(probes(lr_size).values()))
    for path in paths:
        names = graphs_of(model)[path.stem].inputs
        tuples = [x for values in known for x in reaching(model, path.stem, values)]
        feeds = [
            {name: x.numpy() for name, x in zip(names, tensors, strict=True)} for tensors in tuples
        ]
        rewrite_file(path, path, target, Options(feeds=feeds))
