"""Which graphs of a model a target gets, in which arithmetic, and whether it can."""

import numpy as np
import torch

from compress.core.errors import UserError, nearest
from compress.model.sr_model import SRModel
from compress.quant.layers import QuantLayer
from compress.recipe.export_options import ExportOptions
from export.graphs.components import (
    MODEL,
    check_process,
    check_size,
    graphs_of,
    has_parts,
    outputs_of,
    parts_of,
)
from export.graphs.layers import quantised_layers
from export.targets.contract import Parts
from export.targets.host.chain import run_process, stages
from export.targets.target import Target

WEIGHTS_ALONE = "w8"
WIDE_BITS = 8  # more are written as 16
SUM_TOLERANCE = 1e-3  # of the greatest magnitude


def choose_parts(model: SRModel, target: Target, options: ExportOptions) -> Parts:
    """Which graphs, and in which arithmetic.

    Args:
        model: In float, or with the codes of a quantize pass; on meta tensors as well.
        target: That of `options`.
        options: `check_options` has nothing against them.

    Raises:
        UserError: A size, a component or a dtype that the model cannot have, or a number of steps
            that is not fixed.
    """
    check_process(model)
    check_size(model, options.lr_size)
    stems = _choose_stems(model, target, options.components)
    return Parts(model, stems, _choose_dtype(model, target, options), options)


def _choose_stems(
    model: SRModel, target: Target, components: tuple[str, ...] | None
) -> tuple[str, ...]:
    graphs = graphs_of(model)
    for component in components or ():
        if component not in graphs:
            raise UserError(
                f"component '{component}' is unknown{nearest(component, graphs)}; choose from "
                f"{', '.join(graphs)}"
            )
    parts = parts_of(model)
    if model.process.adaptive and MODEL in (components or ()):
        raise UserError(
            "the number of steps depends on the image, which one graph for all cannot hold; leave "
            "out --component model"
        )
    if components:
        stems = tuple(stem for stem in graphs if stem in components)
    elif not has_parts(model):
        stems = (MODEL,)
    else:
        stems = (MODEL, *parts) if target.whole and not model.process.adaptive else parts
    if not has_parts(model) and set(stems) != {MODEL}:
        raise UserError(
            f"the denoiser runs {model.process.steps} times with host code between or ranges of "
            "its own for each step, which one file a component cannot hold; export --component "
            "model"
        )
    return tuple(stems)


def _choose_dtype(model: SRModel, target: Target, options: ExportOptions) -> str:
    layers = [layer for layer in quantised_layers(model) if isinstance(layer, QuantLayer)]
    if not layers:
        return options.dtype or target.default
    if not target.takes_quantised:
        raise UserError(
            f"target {options.target} quantises float models by its own tools and cannot take the "
            "ranges of the quantize pass; export a run without that pass with --dtype w8a8, or "
            "choose onnx, qnn or openvino"
        )
    widest = max(layer.act_bits for layer in layers)
    own = "w8a16" if widest > WIDE_BITS else "w8a8"
    if options.dtype == WEIGHTS_ALONE and WEIGHTS_ALONE in target.dtypes:
        return WEIGHTS_ALONE  # the codes of weights hold without those of activations
    if options.dtype not in (None, own):
        raise UserError(
            f"the model is quantised ({own}) and its ranges hold for that; leave out --dtype "
            f"{options.dtype}, or export a run without the quantize pass"
        )
    return own


@torch.no_grad()
def check_host_arithmetic(parts: Parts) -> None:
    """Raise UserError unless the parts and the host's sums give the model's clean latent."""
    program = parts.program
    found = stages(program) if parts.are_whole else None
    if found is None:
        return
    before, _, after = found
    parts.tuples(after[-1])  # so that the clean latent is known
    values = parts.known[0]
    images = {"lr", *parts.model.wiring.given}
    tile = {name: values[name].numpy() for name in images}
    _run_stage(parts, before, tile)

    def run(stem: str, given: list[tuple]) -> list[tuple]:
        return [_run_module(parts, stem, arrays) for arrays in given]

    run_process(program, run, [tile])
    computed = tile["clean_latent"]
    expected = values["clean_latent"].numpy()
    agrees = computed.shape == expected.shape
    if agrees:
        error = np.abs(computed - expected).max()
        agrees = not error > SUM_TOLERANCE * np.abs(expected).max()
    if not agrees:
        raise UserError(
            f"between {parts.model.wiring.steps[-1].component} and {after[0]} this model needs "
            "more than a host program's sum of latent and prediction; export --component model"
        )


def _run_stage(parts: Parts, stems: list[str], tile: dict[str, np.ndarray]) -> None:
    for stem in stems:
        spec = parts.spec(stem)
        outputs = _run_module(parts, stem, tuple(tile[name] for name in spec.inputs))
        tile.update(zip(spec.outputs, outputs, strict=True))


def _run_module(parts: Parts, stem: str, arrays: tuple) -> tuple[np.ndarray, ...]:
    tensors = tuple(torch.from_numpy(array) for array in arrays)
    return tuple(x.numpy() for x in outputs_of(parts.module(stem), tensors))


def check_kit(parts: Parts) -> None:
    """Refuse a model that a kit for apps does not know how to run.

    Raises:
        UserError: It is not whole, takes further images, or its tiles take steps of their own.
    """
    if not parts.options.kit:
        return
    if parts.model.wiring.images:
        names = ", ".join(parts.model.wiring.images)
        raise UserError(
            f"a kit upscales one photograph, and this model also takes {names}; leave out --kit"
        )
    if parts.model.process.adaptive:
        raise UserError(
            "a kit has a fixed number of steps, and this model chooses it for each tile; leave out "
            "--kit"
        )
    if not parts.are_whole and MODEL not in parts.stems:
        raise UserError("a kit needs all parts of a model; leave out --component, or --kit")


def check_no_packed_weights(parts: Parts) -> None:
    """Raise UserError for packed weights of one or two bits, which only target onnx unpacks."""
    packed = [getattr(module, "weight_packed", None) for module in parts.model.modules()]
    if any(weight is not None for weight in packed):
        raise UserError(
            f"target {parts.target} cannot hold weights of one or two bits; choose onnx"
        )


def check_no_rewrite(parts: Parts, name: str) -> None:
    """Raise UserError for rewrites where a target is made from torch; `name` is what to call it."""
    if parts.options.rewrite:
        raise UserError(
            f"rewrites work on ONNX graphs, and {name} is made from torch; leave out --rewrite"
        )
