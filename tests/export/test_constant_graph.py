"""Graphs that read none of their inputs: their outputs are a file, also on the HTP."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from support.tiny_families import tiny_family

from compress.recipe.export_options import ExportOptions
from export.targets.constant_graph import constant_outputs, store
from export.targets.export_folder import export, finish
from export.targets.host.runtimes import load, read_outputs


def write(path, *nodes, output):
    shapes = {"x": [1, 2, 4, 4], "y": [1, 2, 4, 4], "z": [3]}
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    }
    graph = helper.make_graph(nodes, "g", [values["x"]], [values[name] for name in output])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    return path


def numbers(name, array):
    value = onnx.numpy_helper.from_array(np.asarray(array, np.float32), name)
    return helper.make_node("Constant", [], [name], value=value)


def test_outputs_are_stored_and_read(tmp_path):
    y = np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32)
    path = write(tmp_path / "n.onnx", numbers("y", y), numbers("z", [1, 2, 3]), output=["y", "z"])
    entry = store(path, constant_outputs(path))
    assert not path.exists()
    first, second = read_outputs(entry, tmp_path)
    assert np.array_equal(first, y)
    assert second.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("nodes", "output"),
    [
        ([helper.make_node("Relu", ["x"], ["y"])], ["y"]),
        ([numbers("z", [1, 2, 3])], ["z", "x"]),
    ],
)
def test_what_reads_its_input_is_none(tmp_path, nodes, output):
    assert constant_outputs(write(tmp_path / "n.onnx", *nodes, output=output)) is None


def test_fixed_noise_of_a_whole_model(tmp_path, monkeypatch):
    monkeypatch.setattr("export.targets.to_qnn.find_python", lambda python: None)
    model = tiny_family("ccsr", 2, autoencoder=False)
    options = ExportOptions(
        target="qnn", lr_size=(16, 16), images=1, dtype="fp16", components=("noise",)
    )
    made = export(model, tmp_path / "q", options)
    assert made.notes == ["noise: the same for every image, stored as noise.bin"]
    folder = finish(tmp_path / "q", None)
    graph = json.loads((folder / "manifest.json").read_text())["graphs"]["noise"]
    assert [value["example_shape"] for value in graph["outputs"]] == graph["shapes"]
    latent = torch.zeros(graph["inputs"][0]["example_shape"])
    expected = model.noise(latent)
    found = load(folder)["noise"](latent.numpy())
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(one.numpy(), other)
