"""Graphs whose weights lie in files of their own: read, refused, and taken through everything that
the toolkit does.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.core.errors import UserError
from export.graphs.components import reaching
from export.graphs.maxima import absolute_maxima
from export.graphs.probes import probes
from export.graphs.storage import (
    SMALL,
    add_shapes,
    files_of,
    inferred,
    load_graph,
    load_ir,
    on_disk,
    open_session,
    read_structure,
    save_graph,
    skeleton,
    tensor_bytes,
    weight_bytes,
    with_outputs,
)
from export.lint import main as lint_main
from export.linting.rules import targets
from export.parity.drift import simulate, write_tapped
from export.parity.measure import psnr
from export.parity.rows import failures
from export.parity.session import session, session_options
from export.parity.verify import verify
from export.rewrites.apply import REWRITES, rewrite_file
from export.rewrites.options import Options
from export.rewrites.orders import FOR
from export.targets.float16 import as_float16
from export.targets.onnx_files import replace_file
from export.targets.qdq import quantise
from export.targets.to_tensorrt import as_fp8
from export.timing.files import compare

STEMS = ("model", "encoder", "denoiser", "decoder")


def outside(model: onnx.ModelProto, path, name: str = "weights.bin") -> None:
    """Write `model` with its weights in a file beside it; shapes stay inside, as onnxruntime
    demands.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save_model(copy, str(path), save_as_external_data=True, location=name, size_threshold=256)


@pytest.fixture(scope="module")
def external(float_files, tmp_path_factory):
    """The tiny model's files, and inputs of each."""
    model, folder = float_files
    out = tmp_path_factory.mktemp("external")
    for stem in STEMS:
        outside(onnx.load(folder / f"{stem}.onnx"), out / f"{stem}.onnx", f"{stem}.weights")
    lr = probes((32, 32))["textured"]
    inputs = dict(zip(STEMS, ("lr", "lr", "latent", "clean_latent"), strict=True))
    return out, {
        stem: {name: reaching(model, stem, {"lr": lr})[0][0].numpy()}
        for stem, name in inputs.items()
    }


def as_written() -> ort.SessionOptions:
    """Without optimisations: onnxruntime's own fail on signed activations, as TensorRT wants."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def run(path, feed: dict) -> np.ndarray:
    return session(path, 1).run(None, feed)[0]


def test_what_is_read(external, float_files):
    path = external[0] / "decoder.onnx"
    whole, light = load_graph(path), load_graph(path, SMALL)
    assert [f.name for f in files_of(path)] == ["decoder.onnx", "decoder.weights"]
    stored = read_structure(path).graph.initializer
    beside = [t for t in stored if t.data_location == TensorProto.EXTERNAL]
    assert len(beside) > 10
    assert all(tensor_bytes(t) > 200 for t in beside)
    assert all(t.data_location == TensorProto.DEFAULT for t in whole.graph.initializer)
    large = [t for t in light.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    assert all(tensor_bytes(t) > SMALL for t in large)
    embedded = {
        i.name: numpy_helper.to_array(i)
        for i in onnx.load(float_files[1] / "decoder.onnx").graph.initializer
    }
    assert (
        weight_bytes(whole)
        == sum(a.nbytes for a in embedded.values())
        == weight_bytes(load_ir(path))
    )
    for tensor in whole.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), embedded[tensor.name])


def test_shapes_need_no_weights():
    """A skeleton has no large weight and infers the same; add_shapes leaves the weights where they
    are.
    """
    kernel = np.zeros((32, 16, 9, 9), np.float32)
    assert kernel.nbytes > SMALL
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "k"], ["a"]), helper.make_node("Relu", ["a"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(kernel, "k")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    assert len(skeleton(model).SerializeToString()) < 500 < len(model.SerializeToString())
    (found,) = [v for v in inferred(model).graph.value_info if v.name == "a"]
    assert [d.dim_value for d in found.type.tensor_type.shape.dim] == [1, 32, 8, 8]
    assert add_shapes(model).graph.initializer[0].raw_data
    assert model.graph.value_info[0].name == "a"


@pytest.mark.parametrize("form", ["proto", "ir", "path"])
def test_a_graph_in_memory_or_beside_its_weights_runs(external, form):
    folder, feeds = external
    path = folder / "decoder.onnx"
    model = {"proto": load_graph, "ir": load_ir, "path": lambda p: p}[form](path)
    with on_disk(model) as file:
        np.testing.assert_array_equal(run(file, feeds["decoder"]), run(path, feeds["decoder"]))
    found = open_session(model, session_options(1)).run(None, feeds["decoder"])[0]
    np.testing.assert_array_equal(found, run(path, feeds["decoder"]))


def test_saving_keeps_the_weights_of_the_model(external, tmp_path):
    folder, feeds = external
    model = load_graph(folder / "decoder.onnx")
    wanted = run(folder / "decoder.onnx", feeds["decoder"])
    for limit, count in ((0, 2), (2**30, 1)):
        files = save_graph(model, tmp_path / f"m{limit}.onnx", embed_limit=limit)
        assert len(files) == count == len(files_of(files[0]))
        np.testing.assert_array_equal(run(files[0], feeds["decoder"]), wanted)


IN_ORDERS = {name for names in FOR.values() for name in names}
# Two targets: how a file is read and written does not depend on the order of the rewrites.
SHORT = ("qnn", "coreml")


def of_targets(names: Iterable[str]) -> list[Any]:
    """Cases by target, of which those past two are exhaustive."""
    return [
        name if name in SHORT else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in names
    ]


@pytest.mark.parametrize(
    "names", [*of_targets(FOR), *(name for name in REWRITES if name not in IN_ORDERS)]
)
def test_every_rewrite(external, float_files, tmp_path, names):
    """The same places are changed as in the embedded file, to the same result."""
    folder, feeds = external
    for stem in ("denoiser", "decoder") if names in FOR else ("decoder",):
        options = Options(feeds=[feeds[stem]], limit=0.5)
        done = rewrite_file(folder / f"{stem}.onnx", tmp_path / f"{stem}.onnx", names, options)
        embedded = rewrite_file(
            float_files[1] / f"{stem}.onnx", tmp_path / f"e_{stem}.onnx", names, options
        )
        assert done == embedded
        found, wanted = (
            run(tmp_path / f"{stem}.onnx", feeds[stem]),
            run(folder / f"{stem}.onnx", feeds[stem]),
        )
        assert psnr(found, wanted, float(np.abs(wanted).max())) > 90
        np.testing.assert_array_equal(found, run(tmp_path / f"e_{stem}.onnx", feeds[stem]))


def test_rescale_looks_at_values_and_acts(external, tmp_path):
    folder, feeds = external
    done = rewrite_file(
        folder / "decoder.onnx",
        tmp_path / "d.onnx",
        "qnn",
        Options(feeds=[feeds["decoder"]], limit=0.1),
    )
    assert done["rescale"] > 0


def test_ranges_and_drift(external, float_files, tmp_path):
    folder, feeds = external
    path, plain = folder / "decoder.onnx", float_files[1] / "decoder.onnx"
    wanted = absolute_maxima(onnx.load(plain), [feeds["decoder"]])
    for model in (path, load_graph(path), load_ir(path)):
        assert absolute_maxima(model, [feeds["decoder"]]) == wanted
        assert len(wanted) > 20
    (x,) = feeds["decoder"].values()
    for out in (folder / ".decoder.taps.onnx", tmp_path / "taps.onnx"):
        taps = write_tapped(path, out)
        values = simulate(out, x)
        assert set(taps) <= set(values)
        assert len(taps) > 10
        out.unlink()


def test_outputs_are_added_beside_the_data(external, tmp_path):
    folder, feeds = external
    shaped = inferred(load_graph(folder / "encoder.onnx", SMALL))
    more = [
        v for v in shaped.graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT
    ][:2]
    for out in (folder / "more.onnx", tmp_path / "more.onnx"):
        with_outputs(folder / "encoder.onnx", more, out)
        assert len(session(out, 1).run(None, feeds["encoder"])) == 3
        out.unlink()


@pytest.mark.parametrize("form", ["qnn", "cpu", "tensorrt"])
def test_every_quantiser(external, float_files, form):
    folder, feeds = external
    arrays = list(feeds["decoder"].values())
    found = quantise(load_graph(folder / "decoder.onnx"), form, arrays, 8)
    wanted = quantise(onnx.load(float_files[1] / "decoder.onnx"), form, arrays, 8)
    a, b = (open_session(m, as_written()).run(None, feeds["decoder"])[0] for m in (found, wanted))
    np.testing.assert_array_equal(a, b)
    if form == "tensorrt":
        as_fp8(found)
        assert TensorProto.FLOAT8E4M3FN in {i.data_type for i in found.graph.initializer}


def test_quantised_files_that_are_quantised_again(int8_files, tmp_path):
    """Learned ranges are lifted out of a file with external codes."""
    _model, folder = int8_files
    outside(onnx.load(folder / "model.onnx"), tmp_path / "model.onnx")
    lr = probes((32, 32))["textured"].numpy()
    found, wanted = (
        quantise(m, "qnn", [lr], 8)
        for m in (load_graph(tmp_path / "model.onnx"), onnx.load(folder / "model.onnx"))
    )
    a, b = (open_session(m, as_written()).run(None, {"lr": lr})[0] for m in (found, wanted))
    np.testing.assert_array_equal(a, b)


def test_half_precision_and_replacing(external, float_files, tmp_path):
    folder, feeds = external
    outside(load_graph(folder / "decoder.onnx"), tmp_path / "decoder.onnx", "decoder.onnx.data")
    as_float16(tmp_path / "decoder.onnx")
    assert [f.name for f in files_of(tmp_path / "decoder.onnx")] == ["decoder.onnx"]
    graph = onnx.load(tmp_path / "decoder.onnx").graph
    weights = {tensor.name for tensor in graph.initializer}
    assert not [n.name for n in graph.node if n.op_type == "Cast" and n.input[0] in weights]
    assert not weights - {name for node in graph.node for name in node.input}
    found, wanted = (
        run(tmp_path / "decoder.onnx", feeds["decoder"]),
        run(folder / "decoder.onnx", feeds["decoder"]),
    )
    assert 30 < psnr(found, wanted, float(np.abs(wanted).max())) < 120
    replace_file(load_graph(folder / "decoder.onnx"), tmp_path / "decoder.onnx")
    np.testing.assert_array_equal(run(tmp_path / "decoder.onnx", feeds["decoder"]), wanted)


def test_parity_and_latency(external, float_files):
    folder, _ = external
    rows = verify(float_files[0], folder, lr_size=(32, 32))
    assert failures(rows) is None
    assert {row["file"] for row in rows} == {f"{stem}.onnx" for stem in STEMS}
    (first, second) = compare(
        {"beside": folder / "decoder.onnx", "inside": float_files[1] / "decoder.onnx"}, repeats=1
    )
    assert first["bytes"] == sum(f.stat().st_size for f in files_of(folder / "decoder.onnx"))
    assert 0.8 < first["bytes"] / second["bytes"] < 1.5


@pytest.mark.parametrize("target", of_targets(targets()))
def test_lint_and_picture(external, float_files, target, tmp_path, capsys):
    """The same report as of the embedded file, ranges of float16 included."""
    said = []
    for folder in (external[0], float_files[1]):
        with pytest.raises(SystemExit):
            lint_main(
                [
                    str(folder / "encoder.onnx"),
                    "--target",
                    target,
                    "--picture",
                    str(tmp_path / "g.png"),
                ]
            )
        said.append(capsys.readouterr().out.replace(str(folder), "DIR"))
    assert said[0] == said[1]
    assert "every tensor stays below" in said[0]
    assert (tmp_path / "g.png").stat().st_size > 1000


def damaged(path, **entries: str) -> None:
    """A graph that adds a tensor of four floats, said to lie where `entries` say."""
    tensor = TensorProto(
        name="w", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL
    )
    for key, value in entries.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [tensor],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path
    )


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"location": "/etc/passwd", "length": "16"}, "from the folder of the model only"),
        ({"location": "../secret.bin", "length": "16"}, "from the folder of the model only"),
        ({"location": "a/../../secret.bin"}, "from the folder of the model only"),
        ({"location": "link.bin"}, "from the folder of the model only"),
        ({"location": "..\\secret.bin"}, "from the folder of the model only"),
        ({"length": "16"}, "from the folder of the model only"),
        ({"location": "missing.bin"}, "which is not there"),
        ({"location": "folder"}, "which is not there"),
        ({"location": "ok.bin", "offset": "abc"}, "no numbers of bytes"),
        ({"location": "ok.bin", "length": "-16"}, "no numbers of bytes"),
        (
            {"location": "ok.bin", "offset": "8"},
            "needs 16 bytes of ok.bin from 8 on and the file has 16",
        ),
        ({"location": "ok.bin", "length": "4"}, "needs 16 bytes"),
        ({"location": "ok.bin", "length": "99999"}, "needs 16 bytes"),
    ],
)
def test_data_that_is_refused(tmp_path, entries, words, capsys):
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    (folder / "ok.bin").write_bytes(bytes(16))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    damaged(folder / "m.onnx", **entries)
    for reader in (read_structure, load_graph, load_ir, files_of):
        with pytest.raises(UserError, match=words):
            reader(folder / "m.onnx")
    with pytest.raises(SystemExit) as ended:
        lint_main([str(folder / "m.onnx"), "--target", "qnn"])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert words in error
    assert len(error.splitlines()) == 1


def test_data_that_is_taken(tmp_path):
    (tmp_path / "ok.bin").write_bytes(np.arange(6, dtype=np.float32).tobytes())
    damaged(tmp_path / "m.onnx", location="ok.bin", offset="8", length="16")
    (tensor,) = load_graph(tmp_path / "m.onnx").graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), [2, 3, 4, 5])
    assert isinstance(load_ir(tmp_path / "m.onnx"), ir.Model)
