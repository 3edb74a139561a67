"""Palettes of Core ML: bits of each layer within a budget, and what their values cost in torch."""

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.tiny_model import tiny

from compress.core.errors import UserError
from compress.recipe.export_options import ExportOptions
from export.targets import palette_bits
from export.targets.export_folder import export, finish
from export.targets.hush import hushed
from export.targets.palette_bits import (
    MEASURED,
    choose_bits,
    read_errors,
    rows_of,
    simulate,
    with_table_of,
)
from export.targets.palettes import WIDTHS, Weight, held, stored
from export.targets.parts import choose_parts
from export.targets.table import TARGETS, check_options

needs_coreml = pytest.mark.skipif(
    importlib.util.find_spec("coremltools") is None, reason="coremltools is not installed"
)
LAYERS = (
    "denoiser.unet.mid_block.resnets.0.conv1",
    "denoiser.unet.mid_block.resnets.0.conv2",
    "denoiser.unet.down_blocks.0.resnets.0.conv1",
)


def decoder(values: torch.Tensor, bits: int) -> SimpleNamespace:
    """As an operator of coremltools, with values on a grid of so many steps."""
    step = 2 * values.abs().max() / 2**bits
    rounded = ((values / step).round() * step).to(torch.float16).numpy()
    return SimpleNamespace(
        outputs=[SimpleNamespace(shape=rounded.shape)], materialized_val_inference=lambda: rounded
    )


def request(**changes) -> ExportOptions:
    fields = {"target": "coreml", "dtype": "lut", "lr_size": (32, 32), "images": 1}
    return ExportOptions(**{**fields, **changes})


def parts_of_tiny(**changes):
    options = request(**changes)
    return choose_parts(tiny(), TARGETS["coreml"], options)


def weights_of(parts):
    found = []
    for layer in LAYERS:
        values = parts.model.get_parameter(f"{layer}.weight").detach()
        lookups = {bits: decoder(values, bits) for bits in WIDTHS}
        found.append(Weight("denoiser", layer, f"{layer}.weight", lookups))
    return found


def float_bytes(weights) -> int:
    return sum(weight.stored_in_float16 for weight in weights)


def table(tmp_path, errors):
    rows = [
        {"layer": layer, "width": width, "mse": mse, "psnr": 0.0}
        for (layer, width), mse in errors.items()
    ]
    file = tmp_path / "sensitivity.json"
    file.write_text(json.dumps({"rows": rows}))
    return file


def test_the_layer_that_fewer_bits_harm_keeps_them(tmp_path):
    errors = {
        (layer, f"W{bits}A16"): (1e-2 if layer == LAYERS[1] else 1e-6) / bits
        for layer in LAYERS
        for bits in WIDTHS
    }
    parts = parts_of_tiny(budget="5.8KB", sensitivity=str(table(tmp_path, errors)))
    weights = weights_of(parts)
    choice = choose_bits(parts, weights, float_bytes(weights))
    assert choice.bits == [4, 8, 4]
    assert choice.table == "sensitivity.json"
    assert not choice.unknown


def test_of_several_widths_the_finest_input_counts(tmp_path):
    layer = LAYERS[0]
    file = table(tmp_path, {(layer, "W4A4"): 3.0, (layer, "W4A16"): 1.0, (layer, "W4A8"): 2.0})
    assert read_errors(file) == {(layer, 4): 1.0}


def test_a_layer_that_a_table_lacks_keeps_most_bits(tmp_path):
    errors = {(layer, f"W{bits}A8"): 1e-6 for layer in LAYERS[:2] for bits in WIDTHS}
    parts = parts_of_tiny(budget="5.8KB", sensitivity=str(table(tmp_path, errors)))
    weights = weights_of(parts)
    choice = choose_bits(parts, weights, float_bytes(weights))
    assert choice.bits[2] == 8
    assert choice.unknown == [LAYERS[2]]


def test_without_a_table_errors_are_measured_here():
    """Rounding one layer to 4 bits harms more than to 8, and the sum is within the budget."""
    parts = parts_of_tiny(budget="5KB")
    weights = weights_of(parts)
    before = [parts.model.get_parameter(weight.parameter).clone() for weight in weights]
    errors = palette_bits.measure_errors(parts, weights)
    assert errors.keys() == {(layer, bits) for layer in LAYERS for bits in WIDTHS}
    assert all(errors[layer, 4] > errors[layer, 8] for layer in LAYERS)
    choice = choose_bits(parts, weights, float_bytes(weights))
    assert choice.table == MEASURED
    taken = sum(weight.stored(bits) for weight, bits in zip(weights, choice.bits, strict=True))
    assert taken <= 5000
    for weight, values in zip(weights, before, strict=True):
        assert torch.equal(parts.model.get_parameter(weight.parameter), values)


def test_a_simulation_has_the_values_of_palettes():
    parts = parts_of_tiny(budget="5KB")
    weights = weights_of(parts)
    coarse = [(weight, 4) for weight in weights]
    fine = [(weight, 8) for weight in weights]
    assert simulate(parts, fine) > simulate(parts, coarse) + 12
    with held(parts, coarse):
        inside = parts.model.get_parameter(f"{LAYERS[0]}.weight")
        assert len(inside.unique()) <= 2**4 + 1
    rows = rows_of(parts, fine)
    assert [row["layer"] for row in rows] == list(LAYERS)
    assert all(row["signal_to_error_db"] > 30 for row in rows)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "give one, such as --budget 2.1MB"),
        ({"budget": "12ms"}, "palettes change sizes alone"),
        ({"budget": "much"}, "--budget 'much' is none"),
        ({"budget": "1MB", "dtype": "lut4"}, "budget is an option of target coreml with dtype lut"),
        ({"dtype": "fp16", "sensitivity": "s.json"}, "sensitivity is an option of target coreml"),
        ({"budget": "1MB", "sensitivity": "none.json"}, "none.json: is not there"),
    ],
)
def test_a_mistake_is_told_before_a_model_is_loaded(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        check_options(request(**changes))


def test_a_file_that_is_no_table(tmp_path):
    file = tmp_path / "s.json"
    file.write_text(json.dumps({"rows": [{"layer": "a", "width": "wide", "mse": 1}]}))
    with pytest.raises(UserError, match=r"s\.json: is no table of python -m compress\.sensitivity"):
        check_options(request(budget="1MB", sensitivity=str(file)))


@pytest.mark.parametrize(
    ("budget", "layer", "sentence"),
    [
        ("1KB", LAYERS[0], "is below the 0.0040 MB that the fewest bits need"),
        ("1MB", "another", "has no layer of this model"),
    ],
)
def test_what_a_budget_and_a_table_lack(tmp_path, budget, layer, sentence):
    file = table(tmp_path, {(layer, f"W{bits}A8"): 1e-6 for bits in WIDTHS})
    parts = parts_of_tiny(budget=budget, sensitivity=str(file))
    weights = weights_of(parts)
    with pytest.raises(UserError, match=sentence):
        choose_bits(parts, weights, float_bytes(weights))


def test_a_run_has_its_own_table(tmp_path):
    asked = request(budget="1MB")
    assert with_table_of(asked, tmp_path) is asked
    file = table(tmp_path, {})
    assert with_table_of(asked, tmp_path).sensitivity == str(file)
    own = request(budget="1MB", sensitivity="mine.json")
    assert with_table_of(own, tmp_path) is own


def stored_bits(folder, stem):
    """Name of a weight -> bits of its indices, from the files alone."""
    import coremltools as ct

    with hushed():
        model = ct.models.MLModel(str(folder / f"{stem}.mlpackage"), skip_model_load=True)
    (block,) = model.get_spec().mlProgram.functions["main"].block_specializations.values()
    found = {}
    for op in block.operations:
        if op.type == "constexpr_lut_to_dense":
            (side,) = op.attributes["lut"].type.tensorType.dimensions
            name = op.outputs[0].name.removesuffix("_palettized")
            found[name] = int(np.log2(side.constant.size))
    return found


@needs_coreml
def test_a_mixed_export_holds_the_bits_that_were_chosen(tmp_path):
    options = request(budget="56KB", components=("denoiser",))
    export(tiny(), tmp_path / "o", options)
    folder = finish(tmp_path / "o", None)
    told = json.loads((folder / "palettes.json").read_text())
    (file,) = folder.rglob("weight.bin")
    assert told["weights_bytes"] == file.stat().st_size <= 56_000
    assert len(told["counts"]) > 1
    bits = {row["weight"]: row["bits"] for row in told["rows"]}
    assert stored_bits(folder, "denoiser") == bits
    assert all(row["layer"] is not None for row in told["rows"])
    assert all(row["signal_to_error_db"] > 15 for row in told["rows"])
    said = json.loads((folder / "manifest.json").read_text())["quantisation"]["palettes"]
    assert said["simulated_psnr_db"] == told["simulated_psnr_db"] > 20


def test_a_tensor_begins_at_a_multiple_of_64_bytes():
    assert [stored(1), stored(64), stored(65)] == [128, 128, 192]
