"""Rewrites of whole models, floats and integers, and the command."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper, numpy_helper
from support.onnx_graphs import PICTURE, changed, exported, make, ranks, run
from support.tiny_model import quantised, tiny
from torch import nn

from compress.core.errors import UserError
from compress.families.osediff import OSEDiffSource
from compress.model.sr_model import SRModel
from compress.passes import PASSES
from export import rewrite as module
from export.graphs.components import EndToEnd
from export.graphs.export_onnx import export_onnx
from export.graphs.maxima import absolute_maxima
from export.graphs.probes import probes
from export.linting.graph import Graph
from export.parity.measure import psnr
from export.parity.session import session
from export.rewrites.apply import REWRITES, names_for, rewrite, rewrite_file
from export.rewrites.options import Options
from export.rewrites.orders import FOR


def test_rescaling_ahead_of_norms_is_exact_and_lowers_the_peak():
    torch.manual_seed(0)
    layer = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.GroupNorm(4, 8), nn.Conv2d(8, 3, 1)
    )
    layer[0].weight.data *= 1e5
    model = exported(layer.requires_grad_(False), torch.from_numpy(PICTURE))
    feeds = [{"x": PICTURE}]
    assert max(absolute_maxima(model, feeds).values()) > 65504
    after, done = changed(
        model, "four_d,rescale", PICTURE, Options(feeds=feeds, limit=64.0), db=110
    )
    assert done["rescale"] >= 2
    assert max(absolute_maxima(after, feeds).values()) <= 64
    assert changed(model, "rescale", PICTURE)[1] == {"rescale": 0}, (
        "nothing is known without values"
    )


# The orders of the targets run on another model in test_every_order_of_rewrites; by its name one is
# enough.
@pytest.mark.parametrize(
    "name",
    [
        *REWRITES,
        "qnn",
        *(pytest.param(name, marks=pytest.mark.exhaustive) for name in FOR if name != "qnn"),
    ],
)
def test_each_on_a_whole_model(float_files, tmp_path, name):
    model, folder = float_files
    lr = probes((32, 32))["textured"]
    rewrite_file(
        folder / "model.onnx",
        tmp_path / "model.onnx",
        name,
        Options(chunk=100, feeds=[{"lr": lr.numpy()}], limit=16.0),
    )
    with torch.no_grad():
        expected = model(lr).numpy()
    assert (
        psnr(session(tmp_path / "model.onnx", 1).run(None, {"lr": lr.numpy()})[0], expected, 1.0)
        >= 80
    )


@pytest.mark.parametrize("bits", [8, 16])
def test_integer_weights_keep_their_codes(int8_files, tmp_path, bits):
    plain, feed = int8_files[1] / "model.onnx", {"lr": probes((32, 32))["textured"].numpy()}
    if bits == 16:  # a part with layers of both kinds is enough
        (plain,) = export_onnx(
            quantised(tiny(), 8, bits), tmp_path, lr_size=(32, 32), stems=("decoder",)
        )
        feed = {"clean_latent": np.random.default_rng(0).normal(size=(1, 4, 16, 16))}
        feed = {name: x.astype(np.float32) for name, x in feed.items()}
    before = session(plain, 1).run(None, feed)[0]

    def codes(file: onnx.ModelProto) -> Counter:
        stored = {i.name: i for i in file.graph.initializer}
        return Counter(
            c
            for n in file.graph.node
            if n.op_type == "DequantizeLinear" and n.input[0] in stored
            for c in numpy_helper.to_array(stored[n.input[0]]).reshape(-1).tolist()
        )

    first = codes(onnx.load(plain))
    rewrite_file(plain, tmp_path / "qnn.onnx", "qnn")
    file = onnx.load(tmp_path / "qnn.onnx")
    # Layers of the time embedding and of the constant prompt fold away; nothing else may change.
    assert not codes(file) - first
    assert codes(file).total() > 0.6 * first.total()
    graph = Graph(file)
    layers = [n for n in file.graph.node if n.op_type == "Conv" and n.input[1] in graph.fixed]
    assert all(
        graph.producer[n.input[1]].op_type == "DequantizeLinear"
        for n in layers
        if n.input[1] in graph.producer
    )
    assert ranks(file) == {4}
    assert not [n for n in file.graph.node if n.op_type == "Gemm"]
    after = session(tmp_path / "qnn.onnx", 1).run(None, feed)[0]
    assert psnr(after, before, 1.0) >= 40


def nano() -> SRModel:
    source = OSEDiffSource()
    model = source.build()
    source.load(model)
    return model


def joined() -> SRModel:
    """AdcSR's form of the tiny model: no encoder, no text, no latent between UNet and decoder."""
    model = tiny()
    PASSES["strip"](text="remove", timestep="remove").convert(model)
    for name in ("encoder_swap", "decoder_halve", "prune", "decoder_join"):
        PASSES[name]().convert(model)
    return model


@pytest.mark.parametrize("build", [pytest.param(nano, marks=pytest.mark.exhaustive), joined])
def test_every_order_of_rewrites(build, tmp_path):
    """Every rewrite, in the orders of the targets or alone. Some targets have the same order."""
    model = build()
    (path,) = export_onnx(model, tmp_path, lr_size=(32, 32), per_component=False)
    file = onnx.load(path)
    lr = probes((32, 32))["textured"]
    with torch.no_grad():
        expected = EndToEnd(model)(lr).numpy()
    alone = set(REWRITES) - {name for names in FOR.values() for name in names}
    for names in [*dict.fromkeys(FOR.values()), *((name,) for name in sorted(alone))]:
        copy = ir.from_proto(file)
        rewrite(copy, ",".join(names), Options(feeds=[{"lr": lr.numpy()}], limit=16.0))
        found = run(ir.to_proto(copy), {"lr": lr.numpy()})
        assert psnr(found, expected, 1.0) >= 80, names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["m.onnx", "--for", "qnm", "-o", "o.onnx"],
            "rewrite 'qnm' is unknown (did you mean 'qnn'?); choose a target (qnn",
        ),
        (["/nowhere.onnx", "--for", "qnn", "-o", "o.onnx"], "/nowhere.onnx: no such ONNX file"),
        (
            ["m.onnx", "--for", "qnn", "--chunk", "0", "-o", "o.onnx"],
            "--chunk '0': choose a whole number from 1",
        ),
    ],
)
def test_refusals(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    onnx.save(make([helper.make_node("Relu", ["x"], ["y"])], [1, 8, 6, 4]), "m.onnx")
    with pytest.raises(SystemExit) as ended:
        module.main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert words in error
    assert len(error.splitlines()) == 1


def test_dynamic_shapes_are_refused():
    model = make(
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Relu", ["r"], ["y"])],
        [1, 8, 6, 4],
    )
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "rows"
    with pytest.raises(UserError, match="export without --dynamic"):
        rewrite(ir.from_proto(model), "four_d")
    assert names_for("qnn") == FOR["qnn"]
    assert names_for("silu,gelu") == ("silu", "gelu")
