"""The lint on graphs made by hand: what each target takes, what overflows, what is unknown; the probe's graphs."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.core.errors import UserError
from export import lint as module
from export import probe
from export.lint import lint, partitions, text
from export.linting.facts import Graph
from export.linting.rules import (
    POOR,
    SUPPORTED,
    UNKNOWN,
    UNSUPPORTED,
    figures,
    forms,
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
    "node, constants, qnn, mediatek",
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


def test_a_quantised_node_is_judged_at_its_own_precision():
    """GroupNormalization is fine in float and refused in 8 bits; a product of 8 bits is the probe's 36 dB."""
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
    (found,) = lint(make(norm, constants=scales), load("qnn")).findings
    assert (found.verdict, found.precision) == (
        UNSUPPORTED,
        "a8w8",
    ) and "refuses it at a8w8" in found.reason
    norm[-1].input[0] = "x"
    (found,) = lint(make(norm, constants=scales), load("qnn")).findings
    assert (found.verdict, found.precision) == (SUPPORTED, "fp16")
    product = [*quantiser("x"), helper.make_node("MatMul", ["x_dq", "x_dq"], ["y"])]
    (found,) = lint(make(product, constants=scales), load("qnn")).findings
    assert found.precision == "a8w8" and "36.0 dB" in found.reason


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
    assert found.verdict == UNKNOWN and "not measured at fp16" in found.reason


def test_partitions_and_what_falls_back():
    """Relu, Erf, Relu: two pieces with one node on the CPU between; beside a way around it, two as well."""
    chain = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Erf", ["a"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    report = lint(make(chain), load("qnn"))
    assert (
        report.partitions == 2 and [f.op for f in report.refused] == ["Erf"] and not report.passed
    )
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
    assert (
        report.overflow == {"big": 1e5, "y": 7e4}
        and report.near == {"close": 3e4}
        and not report.passed
    )
    assert "overflows float16: big reaches 100000 of 65504" in text(report)
    assert lint(model, load("qnn")).overflow is None


def test_file_size():
    report = lint(make([helper.make_node("Relu", ["x"], ["y"])]), load("coreml"), file_bytes=2**31)
    assert not report.passed and "2048 MiB; the target loads 1024 at most" in text(report)


def test_every_target_loads_and_its_rows_are_whole():
    for name in targets():
        target = load(name)
        assert target.source and target.rules and target.float_type == "fp16"
        for rules in target.rules.values():
            for rule in rules:
                assert (
                    rule.figures is not None
                    or rule.verdict in (SUPPORTED, POOR, UNSUPPORTED)
                    and rule.source
                ), rule
    assert len(load("qnn").rules["Conv"]) >= 9


def test_conditions():
    facts = {"rank": 4, "kernel": "constant", "axis": "last"}
    assert meets("", facts) and meets("rank<=4 kernel=constant axis=last", facts)
    assert (
        not meets("rank>4", facts)
        and not meets("kernel=computed", facts)
        and not meets("mode=nearest", facts)
    )


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
    assert (
        found["counts"] == {SUPPORTED: 1, POOR: 0, UNSUPPORTED: 1, UNKNOWN: 0}
        and found["fp16_overflow"] == {}
    )
    from PIL import Image

    assert Image.open(tmp_path / "g.png").size[0] > 1000


@pytest.mark.parametrize(
    "arguments, words",
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
    assert ended.value.code == 2 and words in error and len(error.splitlines()) == 1


def test_a_table_that_is_none():
    with pytest.raises(UserError, match="no column 'form'"):
        figures("a,b\n1,2\n", "x.csv")


@pytest.mark.parametrize("name", [name for name in forms() if not name.endswith(("_r6", "_6d"))])
def test_every_form_meets_its_own_rule(name):
    """And no other: what a form was built with is what its rule covers."""
    form = forms()[name]
    model, _ = probe.build(form, "fp32")
    (found,) = [f for f in lint(model, load("qnn")).findings if f.op == form["op"]]
    assert found.form == name


@pytest.mark.parametrize(
    "name",
    [
        "Conv3x3",
        "Conv_dw3x3",
        "MatMul_w",
        "Softmax_r4",
        "InstanceNorm_r4",
        "Clip",
        "Split",
        "Resize_nearest_asymmetric",
        "Conv_computed",
        "Pow_const2",
    ],
)
def test_forms_build_run_and_meet_their_own_rule(name):
    """A form's graph at each precision runs on the CPU, has integer weights, and the lint finds that form in it."""
    import onnxruntime as ort

    form = forms()[name]
    for precision in ("fp32", "fp16", "a8w8pc", "a16w8"):
        model, feed = probe.build(form, precision)
        (node,) = [n for n in model.graph.node if n.op_type == form["op"]]
        graph = Graph(model)
        expected = {"fp32": "fp16"}.get(precision, precision)
        (found,) = lint(model, load("qnn")).findings[:1] if form["op"] != "Identity" else [None]
        assert (found.op, found.form) == (form["op"], name)
        if precision.startswith("a"):
            assert graph.precision(node, "fp16").startswith(expected[:3])
        kind = np.float16 if precision == "fp16" else np.float32
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {k: v.astype(kind) for k, v in feed.items()}
        )


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--arch", "75"], "--arch '75' is no Hexagon version; write it like v79"),
        (["--arch", "v99"], "no chip of it is known here"),
        (["--arch", "v75", "--forms", "Konv*"], "--forms 'Konv*' matches no form"),
        (["--arch", "v75", "--precisions", "a7w7x"], "precision 'a7w7x' is unknown"),
        (
            ["--arch", "v75", "--forms", "Relu", "--python", "python3 -S"],
            "pip install onnxruntime-qnn",
        ),
    ],
)
def test_probe_refusals(capsys, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    real = probe.subprocess.run
    monkeypatch.setattr(
        probe.subprocess,
        "run",
        lambda command, **more: (
            real(["false"]) if "-c" in command else pytest.fail("nothing may run")
        ),
    )
    with pytest.raises(SystemExit) as ended:
        probe.main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and words in error and len(error.splitlines()) == 1


def test_probe_writes_measures_and_goes_on(monkeypatch, tmp_path):
    """A worker that dies costs one cell; rows that are there are kept."""
    jobs = []

    def run(command, **more):
        job = json.loads(command[2])
        jobs.append(sorted(job["models"]))
        lines = [json.dumps({"key": "fp16", "db": 61.5})] if "fp16" in job["models"] else []
        return probe.subprocess.CompletedProcess(
            command, 0, stdout="\n".join(["# noise", *lines]), stderr=""
        )

    monkeypatch.setattr(probe, "check_python", lambda python: None)
    monkeypatch.setattr(probe.subprocess, "run", run)
    out = tmp_path / "t.csv"
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            probe.main(
                ["--arch", "v75", "--forms", "Relu", "--precisions", "fp16,a8w8", "-o", str(out)]
            )
        assert ended.value.code == 0
    assert jobs == [["a8w8", "fp16"], ["a8w8"]], (
        "the dead one is asked for again, the measured one is not"
    )
    assert figures(out.read_text(), "t")["Relu"] == {"fp16": 61.5}
