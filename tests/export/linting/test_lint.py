"""The lint on graphs made by hand: what each target takes, and what overflows."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.core.errors import UserError
from export import lint as module
from export.linting.check import lint
from export.linting.graph import Graph
from export.linting.partitions import partitions
from export.linting.report import text
from export.linting.rules import (
    POOR,
    SUPPORTED,
    UNKNOWN,
    UNSUPPORTED,
    figures,
    load,
    meets,
    targets,
)


def make(
    nodes: list,
    x: list[int] = (1, 16, 8, 8),
    constants: dict[str, np.ndarray] | None = None,
    name: str = "x",
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(x))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def verdict(
    node: onnx.NodeProto, target: str, constants: dict | None = None, x=(1, 16, 8, 8)
) -> tuple[str, str]:
    (found,) = lint(make([node], x, constants), load(target)).findings
    return found.verdict, found.form


KERNEL = {"k": np.ones((4, 16, 3, 3), np.float32), "d": np.ones((16, 1, 3, 3), np.float32)}
SHUFFLE = {"six": np.array([1, 4, 2, 2, 8, 8])}


@pytest.mark.parametrize(
    ("node", "constants", "qnn", "mediatek"),
    [
        (helper.make_node("Conv", ["x", "k"], ["y"]), KERNEL, (SUPPORTED, "Conv3x3"), SUPPORTED),
        (
            helper.make_node("Conv", ["x", "d"], ["y"], group=16),
            KERNEL,
            (SUPPORTED, "Conv_dw3x3"),
            SUPPORTED,
        ),
        (helper.make_node("Erf", ["x"], ["y"]), {}, (UNSUPPORTED, "Erf"), UNSUPPORTED),
        (helper.make_node("Reshape", ["x", "six"], ["y"]), SHUFFLE, (UNSUPPORTED, ""), UNSUPPORTED),
        (helper.make_node("Div", ["x", "x"], ["y"]), {}, (SUPPORTED, "Div_aa"), UNSUPPORTED),
        (helper.make_node("MatMul", ["x", "x"], ["y"]), {}, (SUPPORTED, "MatMul_aa4"), UNSUPPORTED),
        (helper.make_node("Gelu", ["x"], ["y"]), {}, (SUPPORTED, "Gelu_exact"), SUPPORTED),
        (
            helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="CRD"),
            {},
            (SUPPORTED, "D2S_CRD"),
            UNSUPPORTED,
        ),
        (
            helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=2),
            {},
            (SUPPORTED, "D2S_DCR"),
            SUPPORTED,
        ),
        (helper.make_node("NonZero", ["x"], ["y"]), {}, (UNKNOWN, ""), UNKNOWN),
        (helper.make_node("Softmax", ["x"], ["y"], axis=2), {}, (UNKNOWN, ""), SUPPORTED),
        (
            helper.make_node("Resize", ["x", "", "s"], ["y"], mode="nearest", nearest_mode="floor"),
            {"s": np.array([1, 1, 2, 2], np.float32)},
            (UNSUPPORTED, "Resize_nearest_half_pixel"),
            UNKNOWN,
        ),
        (
            helper.make_node(
                "Resize",
                ["x", "", "s"],
                ["y"],
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            ),
            {"s": np.array([1, 1, 2, 2], np.float32)},
            (SUPPORTED, "Resize_nearest_asymmetric"),
            SUPPORTED,
        ),
    ],
)
def test_verdicts(node, constants, qnn, mediatek):
    assert verdict(node, "qnn", constants) == qnn
    assert verdict(node, "mediatek", constants)[0] == mediatek


def test_a_quantised_node_is_judged_at_its_own_precision(tmp_path):
    """By a table in which GroupNormalization is fine in float only, a product of 8 bits poorer."""
    table = tmp_path / "qnn_v99.csv"
    table.write_text("form,fp16,a8w8\nGroupNorm21,100.5,unsupported\nMatMul_aa4,102.0,36.0\n")
    target = load("qnn", table=table)
    scales = {"s": np.float32(0.02), "z": np.uint8(128), "g": np.ones(16, np.float32)}

    def quantiser(name: str) -> list:
        return [
            helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}_q"]),
            helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [f"{name}_dq"]),
        ]

    norm = [
        *quantiser("x"),
        helper.make_node("GroupNormalization", ["x_dq", "g", "g"], ["y"], num_groups=4),
    ]
    (found,) = lint(make(norm, constants=scales), target).findings
    assert (found.verdict, found.precision) == (
        UNSUPPORTED,
        "a8w8",
    )
    assert "refuses it at a8w8" in found.reason
    norm[-1].input[0] = "x"
    (found,) = lint(make(norm, constants=scales), target).findings
    assert (found.verdict, found.precision) == (SUPPORTED, "fp16")
    product = [*quantiser("x"), helper.make_node("MatMul", ["x_dq", "x_dq"], ["y"])]
    (found,) = lint(make(product, constants=scales), target).findings
    assert found.precision == "a8w8"
    assert "36.0 dB" in found.reason


def test_wrong_and_poor_values_have_their_thresholds(tmp_path):
    table = tmp_path / "qnn_v99.csv"
    for cell, expected in (
        ("-6.2", UNSUPPORTED),
        ("19.9", UNSUPPORTED),
        ("34.0", POOR),
        ("35.0", SUPPORTED),
        ("nan", UNSUPPORTED),
        ("unsupported", UNSUPPORTED),
        ("", UNKNOWN),
    ):
        table.write_text(f"form,fp32,fp16\nRelu,60,{cell}\n")
        node = helper.make_node("Relu", ["x"], ["y"])
        (found,) = lint(make([node]), load("qnn", table=table)).findings
        assert found.verdict == expected, cell
    (found,) = lint(
        make([helper.make_node("Tanh", ["x"], ["y"])]), load("qnn", table=table)
    ).findings
    assert found.verdict == UNKNOWN
    assert "not measured at fp16" in found.reason


def test_partitions_and_what_falls_back():
    """Relu, Erf, Relu: two pieces with one node on the CPU between; with a way around it too."""
    chain = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Erf", ["a"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    report = lint(make(chain), load("qnn"))
    assert report.partitions == 2
    assert [f.op for f in report.refused] == ["Erf"]
    assert not report.passed
    around = [*chain[:2], helper.make_node("Add", ["a", "b"], ["y"])]
    assert lint(make(around), load("qnn")).partitions == 2
    assert (
        lint(
            make([helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Tanh", ["a"], ["y"])]),
            load("qnn"),
        ).partitions
        == 1
    )
    graph = Graph(make(chain))
    assert partitions(graph, {0: UNSUPPORTED, 1: UNSUPPORTED, 2: UNSUPPORTED}) == 0


def test_what_overflows_float16():
    nodes = [
        helper.make_node("Mul", ["x", "many"], ["big"]),
        helper.make_node("Mul", ["x", "some"], ["close"]),
        helper.make_node("Sub", ["big", "close"], ["y"]),
    ]
    model = make(nodes, constants={"many": np.float32(1e5), "some": np.float32(3e4)})
    report = lint(model, load("qnn"), feeds=[{"x": np.ones((1, 16, 8, 8), np.float32)}])
    assert report.overflow == {"big": 1e5, "y": 7e4}
    assert report.near == {"close": 3e4}
    assert not report.passed
    assert "overflows float16: big reaches 100000 of 65504" in text(report)
    assert lint(model, load("qnn")).overflow is None


def test_file_size():
    report = lint(make([helper.make_node("Relu", ["x"], ["y"])]), load("coreml"), file_bytes=2**31)
    assert not report.passed
    assert "2048 MiB; the target loads 1024 at most" in text(report)


def test_every_target_loads_and_its_rows_are_whole():
    for name in targets():
        target = load(name)
        assert target.source
        assert target.rules
        assert target.float_type == "fp16"
        for rules in target.rules.values():
            for rule in rules:
                assert rule.figures is not None or (
                    rule.verdict in (SUPPORTED, POOR, UNSUPPORTED) and rule.source
                ), rule
    assert len(load("qnn").rules["Conv"]) >= 9


def test_conditions():
    facts = {"rank": 4, "kernel": "constant", "axis": "last"}
    assert meets("", facts)
    assert meets("rank<=4 kernel=constant axis=last", facts)
    assert not meets("rank>4", facts)
    assert not meets("kernel=computed", facts)
    assert not meets("mode=nearest", facts)


def test_the_command(tmp_path, capsys):
    file = tmp_path / "g.onnx"
    onnx.save(
        make(
            [helper.make_node("Erf", ["lr"], ["a"]), helper.make_node("Relu", ["a"], ["y"])],
            (1, 3, 16, 16),
            name="lr",
        ),
        file,
    )
    for more in ([], ["--json", "--picture", str(tmp_path / "g.png")]):
        with pytest.raises(SystemExit) as ended:
            module.main([str(file), "--target", "qnn", *more])
        assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "1 fall back to the CPU; 1 partitions expected" in said
    found = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert found["counts"] == {SUPPORTED: 1, POOR: 0, UNSUPPORTED: 1, UNKNOWN: 0}
    assert found["fp16_overflow"] == {}
    from PIL import Image

    with Image.open(tmp_path / "g.png") as picture:
        assert picture.size[0] > 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["g.onnx", "--target", "qmn"], "lint target 'qmn' is unknown (did you mean 'qnn'?)"),
        (["none.onnx", "--target", "qnn"], "none.onnx: no such ONNX file"),
        (["g.onnx", "--target", "qnn", "--arch", "v99"], "there are no figures for qnn v99"),
        (["g.onnx", "--target", "mediatek", "--arch", "v75"], "not for mediatek"),
        (["bad.onnx", "--target", "qnn"], "not a readable ONNX file"),
        (["g.onnx", "--target", "qnn", "--picture", "g.txt"], "choose .png, .svg or .pdf"),
    ],
)
def test_refusals(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    onnx.save(make([helper.make_node("Relu", ["x"], ["y"])]), "g.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no protobuf")
    with pytest.raises(SystemExit) as ended:
        module.main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert words in error
    assert len(error.splitlines()) == 1


def test_a_table_that_is_none():
    with pytest.raises(UserError, match="no column 'form'"):
        figures("a,b\n1,2\n", "x.csv")
