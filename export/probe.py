"""Measure which operators a Hexagon takes: python -m export.probe --arch v79 -o qnn_v79.csv [--forms 'Conv*']

Builds one-operator graphs (export/rules/forms.yaml), compiles and runs each in the HTP simulator that onnxruntime-qnn
brings for Linux x86-64, and compares with onnxruntime on the CPU. python -m export.lint --table reads the result.
Rows that the file already has are kept, so that a probe that was stopped goes on where it was.
"""

import argparse
import csv
import fnmatch
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tqdm import tqdm

from compress.core.errors import UserError, command, nearest
from compress.core.files import check_name, replacing
from export.linting.rules import forms

PRECISIONS = (
    "fp32",
    "fp16",
    "a8w8",
    "a8w8s",
    "a8w8pc",
    "a16w8",
    "a16w8pc",
    "a16s",
    "a16w16",
    "a16w4pc",
    "a8w4pc",
)
INSTALL = "pip install onnxruntime-qnn==2.7.0"
WORKER = Path(__file__).parent / "probing" / "worker.py"
TYPES = {
    ("a", 8): TensorProto.UINT8,
    ("a", 16): TensorProto.UINT16,
    ("w", 8): TensorProto.INT8,
    ("w", 16): TensorProto.INT16,
    ("w", 4): TensorProto.INT4,
}
IR_VERSION = 10
# Snapdragon 8 Gen 2, 8 Gen 3, 8 Elite, 8 Elite Gen 5. Without one the compiler assumes a chip of little memory, on
# which not even an InstanceNorm of 8 x 8 x 8 can be finalised.
SOCS = {"v73": "43", "v75": "57", "v79": "69", "v81": "87"}


class _Builder:
    """One operator between quantisers, or in float."""

    def __init__(self, form: dict, precision: str, seed: int):
        self.form, self.random = form, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        match = re.fullmatch(r"a(\d+)(?:w(\d+))?(s|pc)?", precision)
        if match is None and precision not in ("fp32", "fp16"):
            raise UserError(
                f"precision '{precision}' is unknown{nearest(precision, PRECISIONS)}; choose one of "
                f"{', '.join(PRECISIONS)}"
            )
        self.acts = int(match[1]) if match else None
        self.weights = int(match[2] or 8) if match else None
        self.symmetric, self.per_channel = (
            bool(match and match[3] == "s"),
            bool(match and match[3] == "pc"),
        )
        self.float_type = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT

    def store(self, name: str, values: np.ndarray) -> str:
        self.stored.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def floats(self, name: str, values: np.ndarray) -> str:
        return self.store(
            name,
            values.astype(np.float16 if self.float_type == TensorProto.FLOAT16 else np.float32),
        )

    def quantised(self, name: str, low: float, high: float) -> str:
        """Q and DQ behind the value `name`, whose range is low ... high."""
        kind, steps = TYPES["a", self.acts], 2**self.acts - 1
        if self.symmetric:
            high = max(-low, high)
            low = -high
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / steps, 1e-9)
        zero = (steps + 1) // 2 if self.symmetric else round(-low / scale)
        self.store(f"{name}_scale", np.float32(scale))
        self.stored.append(helper.make_tensor(f"{name}_zero", kind, [], [zero]))
        parameters = [f"{name}_scale", f"{name}_zero"]
        self.nodes += [
            helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"]),
            helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_dq"]),
        ]
        return f"{name}_dq"

    def weight_axis(self) -> int:
        """The axis of a weight's output channels."""
        plain = not self.form.get("at", {}).get("transB")
        return 1 if plain and self.form["op"] in ("MatMul", "Gemm", "ConvTranspose") else 0

    def weight(self, name: str, values: np.ndarray) -> str:
        """A constant with two axes or more, as symmetric integers with a scale a tensor or a row."""
        top, axis = 2 ** (self.weights - 1) - 1, self.weight_axis()
        rest = tuple(i for i in range(values.ndim) if i != axis)
        reach = np.abs(values).max(axis=rest if self.per_channel else None, keepdims=True)
        scale = (reach / top).astype(np.float32)
        codes = np.clip(np.round(values / scale), -top, top).astype(np.int32)
        self.stored.append(
            helper.make_tensor(f"{name}_q", TYPES["w", self.weights], values.shape, codes.flatten())
        )
        count = values.shape[axis] if self.per_channel else 1
        self.store(
            f"{name}_scale",
            scale.reshape(-1) if self.per_channel else np.float32(scale.reshape(())),
        )
        self.stored.append(
            helper.make_tensor(
                f"{name}_zero",
                TYPES["w", self.weights],
                [count] if self.per_channel else [],
                [0] * count,
            )
        )
        attributes = {"axis": axis} if self.per_channel else {}
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear",
                [f"{name}_q", f"{name}_scale", f"{name}_zero"],
                [f"{name}_dq"],
                **attributes,
            )
        )
        return f"{name}_dq"

    def constant(self, name: str, spec) -> str:
        if isinstance(spec, list):
            values = self.random.uniform(-1, 1, spec)
            if "range" in self.form and self.form["range"][0] > 0:
                values = self.random.uniform(*self.form["range"], spec)
            if self.acts is None:
                return self.floats(name, values)
            if len(spec) > 1 and self.form["op"] in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
                return self.weight(name, values)
            self.floats(name, values)
            return self.quantised(name, float(values.min()), float(values.max()))
        ((kind, given),) = spec.items()
        if kind == "none":
            return ""
        if kind == "int":
            return self.store(name, np.array(given, dtype=np.int64))
        if kind == "floats":
            return self.store(name, np.array(given, dtype=np.float32))
        if kind == "positive":
            return self.floats(name, self.random.uniform(0.5, 1.5, given))
        self.floats(name, np.array(given))
        return self.quantised(name, float(given), float(given)) if self.acts else name

    def build(
        self, reach: tuple[float, float] | None
    ) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        """The graph, and its inputs in float32; `reach` is the range of the output."""
        low, high = self.form.get("range", (-1, 1))
        feed = {
            f"x{i}": self.random.uniform(low, high, sides).astype(np.float32)
            for i, sides in enumerate(self.form["x"])
        }
        inputs = [self.quantised(name, low, high) if self.acts else name for name in feed]
        inputs += [self.constant(f"w{i}", spec) for i, spec in enumerate(self.form.get("w", ()))]
        quantise = self.acts and reach is not None
        raw, spec, outputs = "y_raw", dict(self.form.get("at", {})), ["y_raw"]
        if self.form["op"] == "Split":
            outputs += [f"y{i}" for i in range(1, len(self.form["w"][0]["int"]))]
        if self.form["op"] == "Cast":
            spec["to"] = self.float_type
        if (
            "before" in self.form
        ):  # what makes a truth value for the operator, of the first two inputs
            self.nodes.append(helper.make_node(self.form["before"], inputs[:2], ["truth"]))
            inputs = ["truth"] + (inputs if self.form["op"] == "Where" else [])
        self.nodes.append(helper.make_node(self.form["op"], inputs, outputs, **spec))
        if "after" in self.form:  # what turns its truth value into a number
            self.nodes.append(
                helper.make_node(self.form["after"], [raw], ["y_number"], to=self.float_type)
            )
            raw = "y_number"
        if quantise:
            self.quantised(raw, *reach)
        self.nodes[-1].output[0] = "y"
        graph = helper.make_graph(
            self.nodes,
            self.form["op"],
            [
                helper.make_tensor_value_info(name, self.float_type, list(x.shape))
                for name, x in feed.items()
            ],
            [helper.make_tensor_value_info("y", self.float_type, None)],
            self.stored,
        )
        opset = max(self.form.get("opset", 18), 21 if self.acts else 18)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION
        )
        return onnx.shape_inference.infer_shapes(model), feed


def build(
    form: dict, precision: str, seed: int = 0
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A one-operator graph at a precision, and an input for it. The output's range comes from a run in float32."""
    model, feed = _Builder(form, "fp32", seed).build(None)
    if precision == "fp32":
        return model, feed
    if precision == "fp16":
        return _Builder(form, precision, seed).build(None)
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    y = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    ).run(None, feed)[0]
    return _Builder(form, precision, seed).build((float(np.min(y)), float(np.max(y))))


def measure(
    form: dict, precisions: tuple[str, ...], python: str, arch: str, soc: str, seconds: float
) -> dict[str, str]:
    """Precision -> dB, `unsupported`, or nothing where the compiler died or took longer than `seconds`."""
    with tempfile.TemporaryDirectory() as folder:
        models, cells = {}, {}
        for precision in precisions:
            try:
                model, feed = build(form, precision)
            except UserError:
                raise
            except (
                Exception
            ) as error:  # no such operator in this onnxruntime: not a fact about the chip
                print(f"{form['op']} at {precision}: {str(error).splitlines()[0]}", file=sys.stderr)
                continue
            models[precision] = str(Path(folder) / f"{precision}.onnx")
            onnx.save(model, models[precision])
            np.savez(Path(folder) / "x.npz", **feed)
        while models:
            job = {
                "arch": arch,
                "soc": soc,
                "models": models,
                "inputs": str(Path(folder) / "x.npz"),
            }
            try:
                done = subprocess.run(
                    [python, str(WORKER), json.dumps(job)],
                    capture_output=True,
                    text=True,
                    timeout=seconds * len(models),
                )
                out = done.stdout
            except subprocess.TimeoutExpired as late:
                out = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
            rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
            cells |= {
                row["key"]: str(row["db"]) if "db" in row else "unsupported"
                for row in rows
                if "skipped" not in row
            }
            left = [key for key in models if key not in {row["key"] for row in rows}]
            # The first that is left killed the process; those behind it get another.
            models = {key: models[key] for key in left[1:]}
    return cells


def check_python(python: str) -> None:
    code = "import onnxruntime, onnxruntime_qnn, numpy"
    if subprocess.run([python, "-c", code], capture_output=True).returncode:
        raise UserError(
            f"the probe needs onnxruntime-qnn, which {python} does not have; run: {INSTALL} (Linux x86-64), "
            "or name another Python with --python"
        )


def check_table(file: Path) -> None:
    """Raise UserError for a place where no table of ours can be written, or where something else stands."""
    check_name(file, "--out")
    if not file.exists() and not file.is_symlink():
        return
    head = file.open("rb").read(5) if file.is_file() and not file.is_symlink() else b""
    if head != b"form,":
        raise UserError(
            f"--out {file}: exists and is no table of python -m export.probe; give another name, or remove it"
        )


def rows_of(file: Path) -> dict[str, dict[str, str]]:
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8", newline="") as stream:
        return {row.pop("form"): row for row in csv.DictReader(stream) if row.get("form")}


def write(file: Path, rows: dict[str, dict[str, str]]) -> None:
    with replacing(file) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        out = csv.DictWriter(stream, ["form", *PRECISIONS], lineterminator="\n")
        out.writeheader()
        out.writerows({"form": form} | row for form, row in rows.items())


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m export.probe", description=__doc__.split(":")[0])
    p.add_argument(
        "--arch",
        required=True,
        help="Hexagon version: v73 (8 Gen 2), v75 (8 Gen 3), v79 (8 Elite), v81",
    )
    p.add_argument(
        "--soc",
        help=f"soc_model of the QNN provider (default {SOCS}); a wrong one has too little memory",
    )
    p.add_argument(
        "--forms", default="*", help="operator forms, as patterns with commas between (default all)"
    )
    p.add_argument(
        "--precisions", default=",".join(PRECISIONS), help=f"default {','.join(PRECISIONS)}"
    )
    p.add_argument(
        "--python",
        default=sys.executable,
        help="a Python that has onnxruntime-qnn (default this one)",
    )
    p.add_argument("--timeout", type=float, default=60.0, help="seconds a graph (default 60)")
    p.add_argument("-o", "--out", type=Path, help="default qnn_ARCH.csv")
    return p


@command
def main(argv: list[str]) -> int:
    arguments = parser().parse_args(argv)
    if not re.fullmatch(r"v\d\d", arguments.arch):
        raise UserError(f"--arch '{arguments.arch}' is no Hexagon version; write it like v79")
    soc = arguments.soc or SOCS.get(arguments.arch)
    if soc is None:
        raise UserError(
            f"--arch {arguments.arch}: no chip of it is known here ({', '.join(SOCS)} are); give its "
            "soc_model with --soc"
        )
    known, precisions = forms(), tuple(arguments.precisions.split(","))
    for precision in precisions:
        _Builder({}, precision, 0)
    chosen = [
        name
        for name in known
        if any(fnmatch.fnmatchcase(name, p) for p in arguments.forms.split(","))
    ]
    if not chosen:
        raise UserError(
            f"--forms '{arguments.forms}' matches no form{nearest(arguments.forms, known)}; they are named "
            f"like {', '.join(list(known)[:3])}"
        )
    out = arguments.out or Path(f"qnn_{arguments.arch}.csv")
    check_table(out)
    check_python(arguments.python)
    rows = rows_of(out)
    bar = tqdm([name for name in chosen if any(not rows.get(name, {}).get(p) for p in precisions)])
    for name in bar:
        bar.set_postfix_str(name)
        row = rows.setdefault(name, dict.fromkeys(PRECISIONS, ""))
        missing = tuple(p for p in precisions if not row.get(p))
        row |= measure(
            known[name], missing, arguments.python, arguments.arch[1:], soc, arguments.timeout
        )
        write(out, rows)
    print(out)
    return 0


if __name__ == "__main__":
    main()
