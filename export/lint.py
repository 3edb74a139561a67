"""Whether a target's hardware takes a graph: python -m export.lint FILE.onnx --target qnn [--json] [--picture PNG]

Counts the nodes that would fall back to the CPU and the partitions that they cut the graph into; with values to run on,
finds tensors that would overflow float16. What no rule names is unknown, never fine. Ends with 1 where a node, a
tensor or the file is refused or unknown.
"""

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from compress.errors import UserError, command
from compress.files import check_file
from export.rewrites.fp16 import absolute_maxima
from export.rules import POOR, SUPPORTED, UNKNOWN, UNSUPPORTED, Graph, Rule, Target, load, meets, targets

FP16_MAX = 65504.0
MARGIN = 4.0        # calibration sees few pictures; what comes within a quarter of the limit is a risk
QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
FREE = ("Constant",)


@dataclass(frozen=True)
class Finding:
    """One node: `index` is its place in the graph, `form` the rule that it met, `precision` what it would run in."""

    index: int
    op: str
    name: str
    verdict: str
    reason: str
    form: str = ""
    precision: str = ""
    shape: tuple[int, ...] = ()


@dataclass
class Report:
    """`overflow`: tensor -> largest magnitude, where float16 cannot hold it (or not within MARGIN, in `near`); None
    where nothing was run."""

    target: Target
    file: str
    findings: list[Finding]
    partitions: int
    file_bytes: int = 0
    overflow: dict[str, float] | None = None
    near: dict[str, float] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        found = Counter(f.verdict for f in self.findings)
        return {verdict: found[verdict] for verdict in (SUPPORTED, POOR, UNSUPPORTED, UNKNOWN)}

    @property
    def refused(self) -> list[Finding]:
        """The nodes that fall back to the CPU, as far as anybody knows."""
        return [f for f in self.findings if f.verdict in (UNSUPPORTED, UNKNOWN)]

    @property
    def passed(self) -> bool:
        return not self.refused and not self.overflow and self.file_bytes <= self.target.max_bytes

    def as_dict(self) -> dict:
        return {"file": self.file, "target": self.target.name, "title": self.target.title, "passed": self.passed,
                "counts": self.counts, "partitions": self.partitions, "fall_back": len(self.refused),
                "file_bytes": self.file_bytes, "max_bytes": self.target.max_bytes,
                "fp16_overflow": self.overflow, "fp16_near": self.near, "rules_from": self.target.source,
                "nodes": [f.__dict__ | {"shape": list(f.shape)} for f in self.findings if f.verdict != SUPPORTED]}


def judge(rule_list: list[Rule], facts: dict, precision: str, target: Target) -> tuple[str, str, str]:
    """(verdict, reason, form) of a node with these facts."""
    rule = next((r for r in rule_list if meets(r.when, facts)), None)
    if rule is None:
        known = "; ".join(r.when or "any" for r in rule_list)
        return UNKNOWN, f"no rule for this form of it (rules exist for: {known})" if rule_list else "no rule", ""
    if rule.figures is None:
        return rule.verdict, rule.note, rule.name
    if precision not in rule.figures:
        return UNKNOWN, f"not measured at {precision}", rule.name
    db = rule.figures[precision]
    if db is None:
        return UNSUPPORTED, f"the compiler refuses it at {precision}", rule.name
    if math.isnan(db) or db < target.wrong_below:
        return UNSUPPORTED, f"wrong values at {precision}: {db:.1f} dB", rule.name
    if db < target.poor_below:
        return POOR, f"{db:.1f} dB at {precision}", rule.name
    return SUPPORTED, f"{db:.1f} dB at {precision}", rule.name


def lint(model: onnx.ModelProto, target: Target, *, file: str = "", file_bytes: int = 0,
         feeds: Iterable[dict[str, np.ndarray]] = ()) -> Report:
    """Check every node of `model`. Quantisers and what depends on constants alone belong to their neighbours."""
    graph, findings = Graph(model), []
    verdicts: dict[int, str] = {}
    for index, node in enumerate(graph.model.graph.node):
        if node.op_type in (*QUANTISERS, *FREE) or all(not out or out in graph.fixed for out in node.output):
            continue
        facts = graph.facts(node)
        precision = graph.precision(node, target.float_type)
        if node.domain not in ("", "ai.onnx"):
            verdict, reason, form = UNKNOWN, f"operator of another domain, {node.domain}", ""
        elif not any(graph.shape(name) or name in graph.shapes for name in node.output):
            verdict, reason, form = UNKNOWN, "its shape is not known", ""
        elif facts["rank"] > target.max_rank:
            verdict, reason, form = UNSUPPORTED, f"{facts['rank']} axes; the target takes {target.max_rank}", ""
        else:
            verdict, reason, form = judge(target.rules.get(node.op_type, []), facts, precision, target)
        verdicts[index] = verdict
        findings.append(Finding(index, node.op_type, node.name or node.output[0], verdict, reason, form, precision,
                                tuple(graph.shape(node.output[0]))))
    report = Report(target, file, findings, partitions(graph, verdicts), file_bytes)
    feeds = list(feeds)
    if feeds and target.float_type == "fp16":
        maxima = absolute_maxima(model, feeds)
        report.overflow = {name: value for name, value in maxima.items() if not value <= FP16_MAX}
        report.near = {name: value for name, value in maxima.items() if FP16_MAX / MARGIN < value <= FP16_MAX}
    return report


def partitions(graph: Graph, verdicts: dict[int, str]) -> int:
    """How many pieces the accelerator gets: connected nodes with nothing on the CPU between them."""
    level: dict[str, int] = {}
    parent: dict[int, int] = {}
    made: dict[str, int] = {}

    def find(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    depth: dict[int, int] = {}
    for index, node in enumerate(graph.model.graph.node):
        inputs = [name for name in node.input if name and name not in graph.fixed]
        here = max((level.get(name, 0) for name in inputs), default=0)
        runs = verdicts.get(index, SUPPORTED) in (SUPPORTED, POOR)
        for out in node.output:
            level[out] = here if runs else here + 1
        if runs and index in verdicts:
            parent[index], depth[index] = index, here
        for name in inputs:
            source = made.get(name)
            if runs and index in parent and source is not None and depth[source] == here:
                parent[find(index)] = find(source)
        if runs:
            carried = index if index in parent else next((made[n] for n in inputs if n in made), None)
            if carried is not None:
                made.update(dict.fromkeys(node.output, carried))
    return len({find(i) for i in parent})


def text(report: Report, most: int = 30) -> str:
    """The report for a terminal: counts, then refused and poor nodes in groups of one operator and reason."""
    counts = report.counts
    lines = [f"{report.file}: {len(report.findings)} operators for {report.target.title}",
             "  " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()),
             f"  {len(report.refused)} fall back to the CPU; {report.partitions} partitions expected"]
    groups = Counter((f.verdict, f.op, f.form, f.reason) for f in report.findings if f.verdict != SUPPORTED)
    order = (UNSUPPORTED, UNKNOWN, POOR)
    ranked = sorted(groups.items(), key=lambda group: (order.index(group[0][0]), -group[1]))
    for (verdict, op, form, reason), count in ranked[:most]:
        first = next(f for f in report.findings if (f.verdict, f.op, f.form, f.reason) == (verdict, op, form, reason))
        lines.append(f"  {verdict:12}{count:4} x {op}{f' ({form})' if form not in ('', op) else ''}: {reason}; "
                     f"first {first.name} {list(first.shape)}")
    if len(groups) > most:
        lines.append(f"  … and {len(groups) - most} more kinds; --json has them all")
    if report.overflow is None:
        lines.append("  float16 ranges: not checked; give --run RUN, or a file whose input is lr")
    else:
        lines += [f"  overflows float16: {name} reaches {value:.0f} of {FP16_MAX:.0f}"
                  for name, value in sorted(report.overflow.items(), key=lambda pair: -pair[1])[:most]]
        lines += [f"  close to float16's limit: {name} reaches {value:.0f} of {FP16_MAX:.0f}"
                  for name, value in sorted(report.near.items(), key=lambda pair: -pair[1])[:most]]
        if not report.overflow and not report.near:
            lines.append(f"  float16 ranges: every tensor stays below {FP16_MAX / MARGIN:.0f}")
    if report.file_bytes > report.target.max_bytes:
        lines.append(f"  the file has {report.file_bytes / 2**20:.0f} MiB; the target loads "
                     f"{report.target.max_bytes / 2**20:.0f} at most: export per component or quantise the weights")
    lines.append(f"  rules from: {report.target.source}")
    return "\n".join(lines)


def read(file: Path) -> onnx.ModelProto:
    if not file.is_file():
        raise UserError(f"{file}: no such ONNX file; export it first with python -m export.run")
    try:
        return onnx.load(file)
    except Exception as error:  # protobuf's errors share no base class
        raise UserError(f"{file}: not a readable ONNX file ({str(error).splitlines()[0]})") from error


def feeds_for(model: onnx.ModelProto, run: Path | None, images: int = 2) -> list[dict[str, np.ndarray]]:
    """Inputs of a graph made from embedded photographs: themselves for `lr`, otherwise with the torch model of `run`.
    Empty where neither can be had, or where the sizes are not static."""
    from compress.data.calibration import calibration_images

    given = model.graph.input[0]
    sides = [d.dim_value for d in given.type.tensor_type.shape.dim]
    notes = {p.key: p.value for p in model.metadata_props}
    if not all(sides) or given.name != "lr" and run is None or "lr_size" not in notes and given.name != "lr":
        return []
    height, width = sides[2:] if given.name == "lr" else map(int, notes["lr_size"].split("x"))
    pictures = [x[..., :height, :width] for x in calibration_images("embedded", images, max(height, width), 0)]
    if given.name == "lr":
        return [{"lr": x.numpy()} for x in pictures]
    import torch

    from compress.checkpoint import load_model
    torch_model = load_model(run)
    with torch.no_grad():
        latents = [torch_model.encoder(x) for x in pictures]
        if given.name == "clean_latent":
            latents = [torch_model.clean_latent(x) for x in latents]
    if list(latents[0].shape) != sides:
        raise UserError(f"--run {run}: its {given.name} has the shape {list(latents[0].shape)} and the file's {sides}; "
                        "give the run that the file was exported from")
    return [{given.name: x.numpy()} for x in latents]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m export.lint", description=__doc__.split(":")[0])
    p.add_argument("file", metavar="FILE.onnx", type=Path)
    p.add_argument("--target", required=True, help=f"one of {', '.join(targets())}")
    p.add_argument("--arch", help="qnn: Hexagon version that figures exist for (default v75)")
    p.add_argument("--table", type=Path, help="qnn: figures that python -m export.probe wrote")
    p.add_argument("--run", type=Path, help="the run of a component's file, to check its float16 ranges")
    p.add_argument("--json", action="store_true", help="every node that is not fine, for machines")
    p.add_argument("--picture", type=Path, metavar="PNG", help="the graph, coloured by verdict")
    return p


@command
def main(argv: list[str]) -> int:
    arguments = parser().parse_args(argv)
    if arguments.picture:
        check_file(arguments.picture, "--picture", [arguments.file])
    target = load(arguments.target, arguments.arch, arguments.table)
    model = read(arguments.file)
    data = arguments.file.with_name(f"{arguments.file.name}.data")
    size = arguments.file.stat().st_size + (data.stat().st_size if data.is_file() else 0)
    report = lint(model, target, file=str(arguments.file), file_bytes=size, feeds=feeds_for(model, arguments.run))
    print(json.dumps(report.as_dict(), indent=1) if arguments.json else text(report))
    if arguments.picture:
        from export.lint_picture import draw
        draw(model, report, arguments.picture)
        print(arguments.picture)
    return 0 if report.passed else 1


if __name__ == "__main__":
    main()
