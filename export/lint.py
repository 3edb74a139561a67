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

from compress.core.errors import command
from compress.core.files import check_file
from export.graphs.storage import files_of
from export.linting.facts import QUANTISERS, Graph
from export.linting.file import check, feeds_for
from export.linting.rules import (
    POOR,
    SUPPORTED,
    UNKNOWN,
    UNSUPPORTED,
    Rule,
    Target,
    load,
    meets,
    targets,
)
from export.rewrites.fp16 import absolute_maxima

FP16_MAX = 65504.0
MARGIN = 4.0  # calibration sees few pictures; what comes within a quarter of the limit is a risk
NEVER = (onnx.TensorProto.STRING, onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)
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
        return {
            "file": self.file,
            "target": self.target.name,
            "title": self.target.title,
            "passed": self.passed,
            "counts": self.counts,
            "partitions": self.partitions,
            "fall_back": len(self.refused),
            "file_bytes": self.file_bytes,
            "max_bytes": self.target.max_bytes,
            "fp16_overflow": self.overflow,
            "fp16_near": self.near,
            "rules_from": self.target.source,
            "nodes": [
                f.__dict__ | {"shape": list(f.shape)}
                for f in self.findings
                if f.verdict != SUPPORTED
            ],
        }


def figure(rule: Rule, precision: str, target: Target) -> tuple[str, str, str]:
    """(verdict, reason, form) that a rule gives at a precision."""
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


def judge(
    rule_list: list[Rule], facts: dict, precision: str, target: Target
) -> tuple[str, str, str]:
    """(verdict, reason, form) of a node with these facts: of the first rule that covers all of
    them, or that refuses."""
    met, missing = [], []
    for rule in rule_list:
        if not meets(rule.when, facts):
            continue
        left, found = rule.uncovered(facts), figure(rule, precision, target)
        if not left or found[0] == UNSUPPORTED:
            return found
        met.append(rule)
        missing.append(left)
    if met:
        closest = min(missing, key=len)
        return UNKNOWN, f"no rule covers {' and '.join(closest)}", met[missing.index(closest)].name
    unusual = Rule("", facts["op"], "").uncovered(facts) or [f"{facts['rank']} axes, plain"]
    return UNKNOWN, f"no rule for {' and '.join(unusual)}" if rule_list else "no rule", ""


def verdict_of(graph: Graph, node: onnx.NodeProto, target: Target) -> tuple[str, str, str, str]:
    """(verdict, reason, form, precision) of one node."""
    facts, precision = graph.facts(node), graph.precision(node, target.float_type)
    touched = [name for name in (*node.input, *node.output) if name]
    unknown = [name for name in node.output if name and name not in graph.shapes]
    unclear = next((name for name in graph.active(node) if name in graph.open), None)
    if node.domain not in ("", "ai.onnx"):
        found = UNKNOWN, f"operator of another domain, {node.domain}", ""
    elif any(graph.types.get(name) in NEVER for name in touched):
        found = UNSUPPORTED, "it computes with strings or complex numbers", ""
    elif unclear is not None and target.static and graph.given_open:
        found = (
            UNSUPPORTED,
            (
                f"a side of {unclear} is open ({graph.sides[unclear]}) and the target compiles for one "
                "size: export without --dynamic"
            ),
            "",
        )
    elif not target.opsets[0] <= graph.opset <= target.opsets[1]:
        first, last = target.opsets
        found = UNKNOWN, f"opset {graph.opset}; the target's rules are for {first} to {last}", ""
    elif unknown or unclear is not None and target.static:
        found = UNKNOWN, "its shape is not known", ""
    elif facts["rank"] > target.max_rank:
        found = UNSUPPORTED, f"{facts['rank']} axes; the target takes {target.max_rank}", ""
    elif facts["type"] not in target.types:
        found = UNKNOWN, f"it computes with {facts['type']}, which no rule speaks of", ""
    else:
        found = judge(target.rules.get(node.op_type, []), facts, precision, target)
    return *found, precision


def lint(
    model: onnx.ModelProto,
    target: Target,
    *,
    file: str = "",
    file_bytes: int = 0,
    feeds: Iterable[dict[str, np.ndarray]] = (),
    source: Path | None = None,
) -> Report:
    """Check every node of `model`.

    What depends on constants alone is computed before the target sees it, and quantisers belong to
    their neighbours, unless the target has rules for them.

    Args:
        model: The graph; large weights may be missing (`storage.load_graph` with a limit).
        target: What it is for.
        file: Its name in the report.
        file_bytes: Of the file with its data.
        feeds: Inputs to run it on, for the ranges of float16.
        source: The file to run, where `model` has no weights.
    """
    graph, findings = Graph(model), []
    verdicts: dict[int, str] = {}
    for index, node in enumerate(graph.model.graph.node):
        fixed = all(not out or out in graph.fixed for out in node.output)
        ruled = node.op_type in QUANTISERS and node.op_type in target.rules
        if node.op_type in FREE or not ruled and (fixed or node.op_type in QUANTISERS):
            continue
        verdict, reason, form, precision = verdict_of(graph, node, target)
        verdicts[index] = verdict
        findings.append(
            Finding(
                index,
                node.op_type,
                node.name or node.output[0],
                verdict,
                reason,
                form,
                precision,
                tuple(graph.shape(node.output[0])),
            )
        )
    report = Report(target, file, findings, partitions(graph, verdicts), file_bytes)
    feeds = list(feeds)
    if feeds and target.float_type == "fp16":
        maxima = absolute_maxima(source or model, feeds)
        report.overflow = {name: value for name, value in maxima.items() if not value <= FP16_MAX}
        report.near = {
            name: value for name, value in maxima.items() if FP16_MAX / MARGIN < value <= FP16_MAX
        }
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
            carried = (
                index if index in parent else next((made[n] for n in inputs if n in made), None)
            )
            if carried is not None:
                made.update(dict.fromkeys(node.output, carried))
    return len({find(i) for i in parent})


def text(report: Report, most: int = 30) -> str:
    """The report for a terminal: counts, then refused and poor nodes in groups of one operator and reason."""
    counts = report.counts
    lines = [
        f"{report.file}: {len(report.findings)} operators for {report.target.title}",
        "  " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()),
        f"  {len(report.refused)} fall back to the CPU; {report.partitions} partitions expected",
    ]
    groups = Counter(
        (f.verdict, f.op, f.form, f.reason) for f in report.findings if f.verdict != SUPPORTED
    )
    order = (UNSUPPORTED, UNKNOWN, POOR)
    ranked = sorted(groups.items(), key=lambda group: (order.index(group[0][0]), -group[1]))
    for (verdict, op, form, reason), count in ranked[:most]:
        first = next(
            f
            for f in report.findings
            if (f.verdict, f.op, f.form, f.reason) == (verdict, op, form, reason)
        )
        lines.append(
            f"  {verdict:12}{count:4} x {op}{f' ({form})' if form not in ('', op) else ''}: {reason}; "
            f"first {first.name} {list(first.shape)}"
        )
    if len(groups) > most:
        lines.append(f"  … and {len(groups) - most} more kinds; --json has them all")
    if report.overflow is None:
        lines.append("  float16 ranges: not checked; give --run RUN, or a file whose input is lr")
    else:
        lines += [
            f"  overflows float16: {name} reaches {value:.0f} of {FP16_MAX:.0f}"
            for name, value in sorted(report.overflow.items(), key=lambda pair: -pair[1])[:most]
        ]
        lines += [
            f"  close to float16's limit: {name} reaches {value:.0f} of {FP16_MAX:.0f}"
            for name, value in sorted(report.near.items(), key=lambda pair: -pair[1])[:most]
        ]
        if not report.overflow and not report.near:
            lines.append(f"  float16 ranges: every tensor stays below {FP16_MAX / MARGIN:.0f}")
    if report.file_bytes > report.target.max_bytes:
        lines.append(
            f"  the file has {report.file_bytes / 2**20:.0f} MiB; the target loads "
            f"{report.target.max_bytes / 2**20:.0f} at most: export per component or quantise the weights"
        )
    lines.append(f"  rules from: {report.target.source}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m export.lint", description=__doc__.split(":")[0])
    p.add_argument("file", metavar="FILE.onnx", type=Path)
    p.add_argument("--target", required=True, help=f"one of {', '.join(targets())}")
    p.add_argument("--arch", help="qnn: Hexagon version that figures exist for (default v75)")
    p.add_argument("--table", type=Path, help="qnn: figures that python -m export.probe wrote")
    p.add_argument(
        "--run", type=Path, help="the run of a component's file, to check its float16 ranges"
    )
    p.add_argument("--json", action="store_true", help="every node that is not fine, for machines")
    p.add_argument("--picture", type=Path, metavar="PNG", help="the graph, coloured by verdict")
    return p


@command
def main(argv: list[str]) -> int:
    arguments = parser().parse_args(argv)
    if arguments.picture:
        check_file(arguments.picture, "--picture", [arguments.file])
    target = load(arguments.target, arguments.arch, arguments.table)
    model = check(arguments.file)
    size = sum(file.stat().st_size for file in files_of(arguments.file))
    feeds = feeds_for(model, arguments.run) if target.float_type == "fp16" else []
    report = lint(
        model, target, file=str(arguments.file), file_bytes=size, feeds=feeds, source=arguments.file
    )
    print(json.dumps(report.as_dict(), indent=1) if arguments.json else text(report))
    if arguments.picture:
        from export.linting.picture import draw

        draw(model, report, arguments.picture)
        print(arguments.picture)
    return 0 if report.passed else 1


if __name__ == "__main__":
    main()
