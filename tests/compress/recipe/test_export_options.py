"""What may be asked of an export: one config for recipes, the command line and code."""

from pathlib import Path

import pytest

from compress.core.errors import UserError
from compress.recipe.export_options import ExportOptions, parse_shape, parse_size
from compress.recipe.inputs import paths_in
from compress.recipe.recipe import parse_recipe
from export.run import options_of, parser

OTHERWISE = ("target", "lr_size", "reference")  # --lr-size is text; a recipe alone has a reference


@pytest.mark.parametrize(
    ("values", "folder"),
    [
        ({"target": "qnn"}, "qnn"),
        ({"target": "qnn", "dtype": "w8a8"}, "qnn_w8a8"),
        ({"target": "onnx", "low_bits": "int2"}, "onnx_int2"),
        ({"target": "onnx", "dtype": "fp16", "low_bits": "int4"}, "onnx_fp16_int4"),
    ],
)
def test_the_folder_says_what_differs(values, folder):
    assert ExportOptions(**values).folder == folder


def test_every_key_is_described():
    assert all(field.description for field in ExportOptions.model_fields.values())


def test_every_key_is_an_option():
    destinations = {action.dest for action in parser()._actions}
    assert set(ExportOptions.model_fields) - set(OTHERWISE) <= destinations


def test_a_recipe_and_the_command_line_say_the_same():
    data = {"target": "qnn", "dtype": "w8a8", "images": 2, "eight_bit_io": True}
    recipe = parse_recipe(
        {
            "name": "r",
            "source": {"family": "osediff", "size": "nano"},
            "passes": [],
            "export": [{**data, "lr_size": [32, 48], "components": ["decoder"]}],
            "eval": {"data": ["embedded"], "metrics": ["psnr"]},
        },
        "r.yaml",
    )
    words = "RUN --target qnn --dtype w8a8 --images 2 --eight-bit-io --lr-size 32x48"
    arguments = parser().parse_args([*words.split(), "--component", "decoder"])
    assert recipe.export == [options_of(arguments)]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("RUN --lr-size 32 --shape 1x3x32x32", "say the same"),
        ("RUN --target onnx --chip v75", "chip is an option of target qnn"),
        ("RUN --target qnn --chip v1", "chip 'v1' is unknown"),
        ("RUN --tolerance nan", "nan is not finite"),
        ("RUN --seed -1", "greater than or equal to 0"),
        ("RUN --target qnn --opset 21", "options of target onnx"),
    ],
)
def test_refusals(words, told):
    with pytest.raises(UserError) as refused:
        options_of(parser().parse_args(words.split()))
    assert told in str(refused.value)


def test_the_first_name_of_an_option_still_works():
    arguments = parser().parse_args(["RUN", "--target", "qnn", "--eight-bit-doors"])
    assert options_of(arguments).eight_bit_io


def test_a_folder_to_calibrate_on_is_an_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    options = ExportOptions(target="qnn", calibration="photos")
    assert paths_in(options.model_dump(mode="json")) == [Path("photos")]


def test_sizes():
    assert parse_size("128x96") == (128, 96)
    assert parse_size("64") == (64, 64)
    assert parse_shape("1x3x128x96") == (128, 96)
