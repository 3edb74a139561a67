"""Bits of the palette of each layer, by what fewer of them cost the restored image.

The errors that single layers cause are taken to add up, as `compress.bits.allocate` has it, whose
integer program chooses. They come from a table of `compress.sensitivity`, or are measured here with
the palettes' own values in torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from compress.bits.allocate import choose
from compress.bits.measure import Metrics
from compress.bits.probing import Stages
from compress.bits.widths import Budget, parse_budget, parse_width
from compress.core.errors import UserError
from compress.core.json_files import read_json
from compress.data.calibration import calibration_images
from compress.recipe.export_options import MIXED_PALETTES, ExportOptions
from export.targets.contract import Parts
from export.targets.palettes import WIDTHS, Weight, held, signal_to_error

IMAGES, SIDE = 4, 64  # crops that errors are measured on; those of compress.sensitivity
FULL = max(WIDTHS)  # bits of what no error is known of
RUN_TABLE = "sensitivity.json"  # in a run
MEASURED = "measured here"
TABLE = "a table of python -m compress.sensitivity"
Errors = dict[tuple[str, int], float]  # (layer, bits) -> mean square error of the restored image


class Table(TypedDict):
    """What is read of a table of sensitivities."""

    rows: list[dict]


@dataclass(frozen=True)
class Choice:
    """Bits for each weight.

    Attributes:
        bits: One for each of the weights, in their order.
        table: Where the errors of layers come from.
        unknown: Layers that it has no errors of, which have the most bits.
    """

    bits: list[int]
    table: str
    unknown: list[str]


def read_palette_budget(text: str) -> Budget:
    """'2.1MB' or '850KB': what the files of weights may have together.

    Raises:
        UserError: It is anything else.
    """
    budget = parse_budget(text)
    if budget.unit == "ms":
        raise UserError(
            f"--budget '{text}': palettes change sizes alone, for Core ML computes in float16; "
            "write a size like 2.1MB or 850KB"
        )
    return budget


def check_request(options: ExportOptions) -> None:
    """Raise UserError for a budget or a table of sensitivities that cannot be used."""
    read_palette_budget(str(options.budget))
    if options.sensitivity is not None:
        read_errors(Path(options.sensitivity))


def with_table_of(options: ExportOptions, run: Path) -> ExportOptions:
    """`options` of mixed palettes with a run's own table of sensitivities, if they name none.

    Args:
        options: What was asked for.
        run: The folder of the run.
    """
    table = run / RUN_TABLE
    if options.dtype != MIXED_PALETTES or options.sensitivity or not table.is_file():
        return options
    return options.model_copy(update={"sensitivity": str(table)})


def probing_images(parts: Parts) -> list[torch.Tensor]:
    """Low-resolution crops float32 [1, 3, side, side] in [0, 1] for simulations in torch."""
    multiple = parts.model.multiple
    side = -(-SIDE // multiple) * multiple
    return calibration_images(parts.options.calibration, IMAGES, side, parts.options.seed)


def read_errors(path: Path) -> Errors:
    """Errors of layers from a table of `compress.sensitivity`.

    Of several widths with the same bits of weights the one with the most for the input counts, for
    Core ML does not round inputs.

    Raises:
        UserError: It is no such table.
    """
    errors: Errors = {}
    finest: dict[tuple[str, int], int] = {}
    for row in read_json(path, TABLE, Table)["rows"]:
        try:
            width = parse_width(row["width"])
            place, error = (str(row["layer"]), int(width.weights or 0)), float(row["mse"])
        except (KeyError, TypeError, ValueError, UserError):
            raise UserError(f"{path}: is no {TABLE.partition(' ')[2]}; measure it again") from None
        activations = int(width.activations or 0)
        if activations > finest.get(place, 0):
            finest[place], errors[place] = activations, error
    return errors


@torch.no_grad()
def measure_errors(parts: Parts, weights: list[Weight]) -> Errors:
    """Errors of layers, each measured alone with the values of its palettes in torch."""
    stages = Stages(parts.model, probing_images(parts))
    metrics = Metrics(stages.restored, None)
    layers = by_layer(weights)
    errors = {}
    with tqdm(total=len(layers) * len(WIDTHS), desc="palettes") as bar:
        for layer, own in layers.items():
            for bits in WIDTHS:
                with held(parts, [(weight, bits) for weight in own]):
                    restored = stages.restore(layer.partition(".")[0])
                errors[layer, bits] = metrics(restored)["mse"]
                bar.update()
    return errors


def by_layer(weights: list[Weight]) -> dict[str, list[Weight]]:
    """Full name of a layer -> its weights in all graphs; without those that no parameter is."""
    found: dict[str, list[Weight]] = {}
    for weight in weights:
        if weight.layer is not None:
            found.setdefault(weight.layer, []).append(weight)
    return found


def choose_bits(parts: Parts, weights: list[Weight], float_bytes: int) -> Choice:
    """The bits of the least summed error within the budget.

    Args:
        parts: Its options have the budget and perhaps a table of sensitivities.
        weights: All that can have palettes.
        float_bytes: What the files of weights take without any palette.

    Raises:
        UserError: The budget is below what the fewest bits need, or the table is of another model.
    """
    budget = read_palette_budget(str(parts.options.budget))
    path = parts.options.sensitivity
    layers = by_layer(weights)
    if not layers:
        raise UserError("no layer of this model is large enough for a palette; choose dtype fp16")
    rest = float_bytes - sum(weight.stored_in_float16 for weight in weights)
    _check_least(budget, rest + _cost(weights, min(WIDTHS)))
    errors = measure_errors(parts, weights) if path is None else read_errors(Path(path))
    known = [layer for layer in layers if all((layer, bits) in errors for bits in WIDTHS)]
    if not known:
        raise UserError(
            f"{path}: has no layer of this model with weights of {_words(WIDTHS)} bits; measure it "
            "with python -m compress.sensitivity MODEL --bits w4a16 w6a16 w8a16"
        )
    rest += _cost([weight for weight in weights if weight.layer not in known], FULL)
    costs = np.array([[_cost(layers[layer], bits) for bits in WIDTHS] for layer in known])
    _check_least(budget, rest + costs.min(axis=1).sum())
    table = np.array([[errors[layer, bits] for bits in WIDTHS] for layer in known])
    columns = choose(table, costs, budget.limit - rest)
    picked = {layer: WIDTHS[column] for layer, column in zip(known, columns, strict=True)}
    return Choice(
        [picked.get(weight.layer or "", FULL) for weight in weights],
        MEASURED if path is None else Path(path).name,
        [layer for layer in layers if layer not in picked],
    )


def _check_least(budget: Budget, least: float) -> None:
    if least > budget.limit:
        raise UserError(
            f"--budget {budget} is below the {least / 1e6:.4f} MB that the fewest bits need; raise "
            "it"
        )


def _cost(weights: list[Weight], bits: int) -> int:
    return sum(weight.stored(bits) for weight in weights)


def _words(numbers: tuple[int, ...]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}"


@torch.no_grad()
def simulate(parts: Parts, chosen: list[tuple[Weight, int]]) -> float:
    """PSNR in dB of torch with the palettes' values to torch as it is, over a few crops.

    All else is computed in float32, so it says what palettes cost, and nothing of a runtime.
    """
    images = probing_images(parts)
    metrics = Metrics(Stages(parts.model, images).restored, None)
    with held(parts, chosen):
        return metrics(Stages(parts.model, images).restored)["psnr"]


def rows_of(parts: Parts, chosen: list[tuple[Weight, int]]) -> list[dict[str, Any]]:
    """A row for each palette: where it is, its bits and bytes, and how near it is to torch."""
    return [
        {
            "graph": weight.graph,
            "weight": weight.name,
            "layer": weight.layer,
            "bits": bits,
            "bytes": weight.stored(bits),
            "signal_to_error_db": signal_to_error(parts, weight, bits),
        }
        for weight, bits in chosen
    ]
