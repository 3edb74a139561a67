"""What a target takes, as data: tables of operators in export/rules, and how a node of a graph meets their conditions.

A condition is `key=value` or, for numbers, `key<=n`, `key>n`, `key>=n`; all of a row must hold. Keys: `rank` (of the
largest activation), `kernel` and `other` (constant or computed: the second operand), `axis` (last, or its number),
`axes`, `groups` (one, depthwise, several), `kernel_side`, `channels`, `side`, `strided`, `dilated`, `aligned` (channels
of a computed kernel in multiples of 16), `step` (of a Slice), `of` (the operator that made the first input), and every
attribute by its name.
"""

import csv
import operator
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import yaml

from compress.errors import UserError, nearest
from export.storage import inferred

FOLDER = files("export") / "rules"
SUPPORTED, POOR, UNSUPPORTED, UNKNOWN = "supported", "poor", "unsupported", "unknown"
TESTS = {"<=": operator.le, ">=": operator.ge, ">": operator.gt, "<": operator.lt}
# Of attributes that a node may leave out and that a rule asks for.
DEFAULTS = {"Pad": {"mode": "constant"}, "Gelu": {"approximate": "none"}, "DepthToSpace": {"mode": "DCR"},
            "Resize": {"mode": "nearest", "coordinate_transformation_mode": "half_pixel",
                       "nearest_mode": "round_prefer_floor"}}


@dataclass(frozen=True)
class Rule:
    """`figures`: precision -> dB, or None where that precision is not supported; empty for a table's row."""

    name: str
    op: str
    when: str
    verdict: str = ""
    note: str = ""
    source: str = ""
    figures: dict[str, float | None] | None = None


@dataclass(frozen=True)
class Target:
    name: str
    title: str
    rules: dict[str, list[Rule]]
    float_type: str
    max_rank: int
    max_bytes: int
    source: str
    wrong_below: float = 0.0
    poor_below: float = 0.0


@cache
def targets() -> dict[str, dict]:
    return yaml.safe_load((FOLDER / "targets.yaml").read_text(encoding="utf-8"))


@cache
def forms() -> dict[str, dict]:
    """Name -> operator form: what the probe builds and the lint matches."""
    return yaml.safe_load((FOLDER / "forms.yaml").read_text(encoding="utf-8"))


def figures(text: str, where: str) -> dict[str, dict[str, float | None]]:
    """Form -> precision -> dB, None for unsupported, from a probe's CSV."""
    rows = list(csv.DictReader(text.splitlines()))
    if not rows or "form" not in rows[0]:
        raise UserError(f"{where}: not a table of the probe (no column 'form'); write one with python -m export.probe")
    return {row.pop("form"): {name: None if cell == "unsupported" else float(cell)
                              for name, cell in row.items() if cell} for row in rows}


def load(name: str, arch: str | None = None, table: Path | None = None) -> Target:
    """The rules of a target; `arch` and `table` (a CSV of the probe) choose another chip. Raises UserError."""
    known = targets()
    if name not in known:
        raise UserError(f"lint target '{name}' is unknown{nearest(name, known)}; choose one of {', '.join(known)}")
    data, rules = known[name], {}
    if "forms" in data:
        file = Path(table) if table else FOLDER / data["figures"].format(arch=arch or data["arch"])
        if not file.is_file():
            raise UserError(f"there are no figures for {name} {arch or ''} ({file.name}); measure them with python -m "
                            f"export.probe --arch {arch} -o FILE.csv and give --table FILE.csv")
        measured = figures(file.read_text(encoding="utf-8"), file.name)
        for form, spec in forms().items():
            rule = Rule(form, spec["op"], spec["when"], figures=measured.get(form, {}))
            rules.setdefault(rule.op, []).append(rule)
    elif arch or table:
        raise UserError(f"--arch and --table are for targets with measured figures (qnn), not for {name}")
    else:
        for row in csv.DictReader((FOLDER / data["table"]).read_text(encoding="utf-8").splitlines()):
            rule = Rule(row["op"], row["op"], row["when"], row["verdict"], row["note"], row["source"])
            rules.setdefault(rule.op, []).append(rule)
    return Target(name, data["title"], rules, data["float"], data["max_rank"], data["max_bytes"], data["source"],
                  data.get("wrong_below", 0.0), data.get("poor_below", 0.0))


def meets(condition: str, facts: dict[str, object]) -> bool:
    """Whether the facts of a node meet every condition of a rule."""
    for part in condition.split():
        match = re.fullmatch(r"(\w+)(<=|>=|=|<|>)(\S+)", part)
        if match is None or match[1] not in facts:
            return False
        have, test, wanted = facts[match[1]], match[2], match[3]
        if test == "=" and str(have) != wanted or test != "=" and not TESTS[test](float(have), float(wanted)):
            return False
    return True


class Graph:
    """An ONNX graph with inferred shapes, and the facts of its nodes that rules ask for."""

    def __init__(self, model: onnx.ModelProto):
        self.model = inferred(model)
        graph = self.model.graph
        self.constants = {i.name: i for i in graph.initializer}
        self.producer = {out: node for node in graph.node for out in node.output}
        values = [*graph.value_info, *graph.input, *graph.output]
        self.types = {v.name: v.type.tensor_type.elem_type for v in values}
        self.shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values
                       if v.type.tensor_type.HasField("shape")}
        self.shapes |= {name: list(i.dims) for name, i in self.constants.items()}
        self.fixed: set[str] = set(self.constants)
        for node in graph.node:
            if all(not name or name in self.fixed for name in node.input):
                self.fixed.update(node.output)

    def shape(self, name: str) -> list[int]:
        return self.shapes.get(name, [])

    def number(self, name: str) -> list[int] | None:
        """The integers of a constant."""
        stored = self.constants.get(name)
        return None if stored is None else onnx.numpy_helper.to_array(stored).reshape(-1).tolist()

    def facts(self, node: onnx.NodeProto) -> dict[str, object]:
        active = [name for name in (*node.input, *node.output) if name and name not in self.fixed]
        ranks = [len(self.shape(name)) for name in active]
        found: dict[str, object] = {"rank": max(ranks, default=0)}
        found |= DEFAULTS.get(node.op_type, {})
        for a in node.attribute:
            value = onnx.helper.get_attribute_value(a)
            value = value.decode() if isinstance(value, bytes) else value
            found[a.name] = "x".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        if len(node.input) > 1:
            fixed = [name in self.fixed for name in node.input[:2]]
            found["kernel"] = "constant" if fixed[1] else "computed"
            found["other"] = "constant" if any(fixed) else "computed"
        if "axis" in found or node.op_type in ("Softmax", "LayerNormalization", "RMSNormalization"):
            axis = int(found.get("axis", -1))
            rank = len(self.shape(node.input[0]))
            found["axis"] = "last" if axis in (-1, rank - 1) else axis % rank if rank else axis
        axes = self.number(node.input[1]) if node.op_type.startswith("Reduce") and len(node.input) > 1 else None
        if axes is not None:
            rank = len(self.shape(node.input[0]))
            found["axes"] = "x".join(str(a % rank) for a in sorted(axes)) if rank else ""
        if node.op_type == "Slice":
            steps = self.number(node.input[4]) if len(node.input) > 4 else [1]
            found["step"] = steps[0] if steps and len(set(steps)) == 1 else "several"
        maker = self.producer.get(node.input[0]) if node.input else None
        found["of"] = maker.op_type if maker is not None else "input"
        if node.op_type in ("Conv", "ConvTranspose"):
            found |= self._convolution(node)
        return found

    def _convolution(self, node: onnx.NodeProto) -> dict[str, object]:
        x, kernel = self.shape(node.input[0]), self.shape(node.input[1])
        plain = {a.name: list(a.ints) for a in node.attribute if a.ints}
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        channels = x[1] if len(x) > 1 else 0
        return {"groups": "one" if group == 1 else "depthwise" if group == channels else "several",
                "channels": channels, "side": max(x[2:], default=0), "kernel_side": max(kernel[2:], default=0),
                "strided": "yes" if max(plain.get("strides", [1])) > 1 else "no",
                "dilated": "yes" if max(plain.get("dilations", [1])) > 1 else "no",
                "aligned": "yes" if kernel and kernel[0] % 16 == 0 and kernel[1] % 16 == 0 else "no"}

    def precision(self, node: onnx.NodeProto, float_type: str) -> str:
        """The column of the probe that a node runs in: `fp16`, `fp32`, or a8w8, a16w8pc and so on."""
        acts, weights, per_channel = set(), set(), False
        for name in node.input:
            made = self.producer.get(name)
            if made is None or made.op_type != "DequantizeLinear":
                if name and name not in self.fixed and self.types.get(name) == onnx.TensorProto.FLOAT:
                    return float_type
                continue
            bits = _bits(self.types, made, self.constants)
            if name in self.fixed:
                weights.add(bits)
                per_channel |= int(np.prod(self.shape(made.input[1]) or [1])) > 1
            else:
                acts.add(bits)
        if not acts:
            return float_type
        return f"a{max(acts)}w{min(weights - {32}, default=8)}{'pc' if per_channel else ''}"


def _bits(types: dict[str, int], node: onnx.NodeProto, constants: dict) -> int:
    kind = constants[node.input[0]].data_type if node.input[0] in constants else types.get(node.input[0], 0)
    name = onnx.TensorProto.DataType.Name(kind) if kind else ""
    digits = re.findall(r"\d+", name)
    return int(digits[0]) if digits else 32
