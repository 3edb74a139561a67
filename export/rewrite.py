"""Rewrites of an exported graph for phone NPUs: python -m export.rewrite FILE.onnx --for qnn -o OUT.onnx

They work on the ONNX graph and not on the torch model, so that every family, float or quantised, goes through the same
code; what is stored as integers stays so. The graph must have static shapes.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes

from compress.core.errors import UserError, command, nearest
from compress.core.files import MADE_BY, check_file
from compress.model.sr_model import SRModel
from export.graphs.export_onnx import GRAPHS
from export.graphs.graph import tidy, write
from export.graphs.storage import load_ir
from export.parity.verify import probes
from export.rewrites.attention import attention_convolutions, attention_heads, conv_bias, geglu
from export.rewrites.edit import Options
from export.rewrites.four_d import four_d
from export.rewrites.fp16 import rescale
from export.rewrites.norms import group_norm, instance_statistics, layer_statistics
from export.rewrites.operators import (
    division,
    edge_padding,
    finite_masks,
    fold_constants,
    gelu,
    pixel_shuffle,
    resize_nearest,
    selection,
    silu,
)

# Name -> function(model, options): changes the model in place, returns how many places.
REWRITES: dict[str, Callable[[ir.Model, Options], int]] = {
    "fold_constants": fold_constants,
    "silu": silu,
    "gelu": gelu,
    "resize_nearest": resize_nearest,
    "edge_padding": edge_padding,
    "finite_masks": finite_masks,
    "pixel_shuffle": pixel_shuffle,
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

_FIRST = (
    "fold_constants",
    "silu",
    "gelu",
    "resize_nearest",
    "edge_padding",
    "finite_masks",
    "pixel_shuffle",
    "group_norm",
)
_LAST = ("four_d", "fold_constants", "conv_bias", "geglu", "rescale")
# Target -> its rewrites, in order.
FOR: dict[str, tuple[str, ...]] = {
    "qnn": (*_FIRST, "attention_heads", *_LAST),
    # Its list has no division, no selection and no product of two computed tensors.
    "mediatek": (*_FIRST, "selection", "division", "attention_convolutions", *_LAST),
    # These two have no InstanceNorm; their LayerNorm is decomposed anyway, and here without a transpose.
    "coreml": (*_FIRST, "instance_statistics", "layer_statistics", "attention_heads", *_LAST),
    "litert": (*_FIRST, "instance_statistics", "layer_statistics", "attention_heads", *_LAST),
}


def names_for(target: str) -> tuple[str, ...]:
    """The rewrites of a target, or of several names with commas between."""
    if target in FOR:
        return FOR[target]
    names = tuple(target.split(","))
    for name in names:
        if name not in REWRITES:
            choices = [*FOR, *REWRITES]
            raise UserError(
                f"rewrite '{name}' is unknown{nearest(name, choices)}; choose a target ({', '.join(FOR)}) "
                f"or rewrites with commas between ({', '.join(REWRITES)})"
            )
    return names


def rewrite(model: ir.Model, target: str, options: Options = Options()) -> dict[str, int]:
    """Apply the rewrites of `target` (see `names_for`) to `model` in place; returns how many places each changed."""
    names = names_for(target)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    done = dict.fromkeys(names, 0)
    for name in names:
        done[name] += REWRITES[name](model, options)
    return done


def rewrite_file(
    file: Path, out: Path, target: str, options: Options = Options()
) -> dict[str, int]:
    """Rewrite an ONNX file into another. Raises UserError where it cannot be read."""
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
    """Rewrite the files that `export_onnx` wrote for `model`, in their place; `rescale` sees the probe pictures."""
    lrs = list(probes(lr_size).values())
    for path in paths:
        source = GRAPHS[path.stem][1]
        inputs = lrs if source == "lr" else [model.encoder(lr) for lr in lrs]
        if source == "clean_latent":
            inputs = [model.clean_latent(x) for x in inputs]
        rewrite_file(path, path, target, Options(feeds=[{source: x.numpy()} for x in inputs]))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m export.rewrite", description=__doc__.split(":")[0])
    p.add_argument("file", metavar="FILE.onnx", type=Path)
    p.add_argument(
        "--for",
        dest="target",
        required=True,
        help=f"{', '.join(FOR)}, or rewrites with commas between",
    )
    p.add_argument(
        "--chunk", type=int, help="queries that one attention product sees at most (default all)"
    )
    p.add_argument("-o", "--out", type=Path, required=True)
    return p


@command
def main(argv: list[str]) -> int:
    arguments = parser().parse_args(argv)
    if arguments.chunk is not None and arguments.chunk < 1:
        raise UserError(
            f"--chunk {arguments.chunk} is too small; give the number of queries, 1 at least, such as 512"
        )
    data = arguments.out.with_name(f"{arguments.out.name}.data")
    check_file(
        arguments.out,
        "-o",
        [arguments.file, arguments.file.with_name(f"{arguments.file.name}.data")],
    )
    if data.exists() and not arguments.out.exists():
        raise UserError(
            f"-o {arguments.out}: its weights may go to {data}, which exists and is not ours; give another "
            "name"
        )
    for name, count in rewrite_file(
        arguments.file, arguments.out, arguments.target, Options(chunk=arguments.chunk)
    ).items():
        print(f"{name:24}{count:5}")
    print(arguments.out)
    return 0


if __name__ == "__main__":
    main()
