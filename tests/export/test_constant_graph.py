"""Graphs that read none of their inputs: their outputs are a file, also on the HTP."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from support.guided_family import guided_family
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


def stored_on_the_htp(model, name, out, monkeypatch):
    """The manifest's entry of a graph of a qnn export, and what run.py loads of it."""
    monkeypatch.setattr("export.targets.to_qnn.find_python", lambda python: None)
    options = ExportOptions(
        target="qnn", lr_size=(16, 16), images=1, dtype="fp16", components=(name,)
    )
    made = export(model, out, options)
    assert made.notes == [f"{name}: the same for every image, stored as {name}.bin"]
    folder = finish(out, None)
    graph = json.loads((folder / "manifest.json").read_text())["graphs"][name]
    assert [value["example_shape"] for value in graph["outputs"]] == graph["shapes"]
    return graph, load(folder)[name]


def check_equal(found, expected):
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(one.numpy(), other)


def test_fixed_noise_of_a_whole_model(tmp_path, monkeypatch):
    model = tiny_family("ccsr", 2, autoencoder=False)
    graph, run = stored_on_the_htp(model, "noise", tmp_path / "q", monkeypatch)
    latent = torch.zeros(graph["inputs"][0]["example_shape"])
    check_equal(run(latent.numpy()), model.noise(latent))


def test_the_texts_of_guidance(tmp_path, monkeypatch):
    model = guided_family("invsr")
    _, run = stored_on_the_htp(model, "text_encoder", tmp_path / "q", monkeypatch)
    check_equal(run(np.zeros((1, 3, 16, 16), np.float32)), model.text_encoder())
