"""The verdict of a target on every node of a graph.

What no rule names is unknown, never fine.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.graphs.maxima import absolute_maxima
from export.linting.facts import facts_of
from export.linting.graph import STANDARD, Graph
from export.linting.operators import QUANTISERS
from export.linting.partitions import partitions
from export.linting.precision import precision_of
from export.linting.report import Finding, Report
from export.linting.rules import POOR, SUPPORTED, UNKNOWN, UNSUPPORTED, Rule, Target, meets

NEVER = (onnx.TensorProto.STRING, onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)
CONSTANT = "Constant"


@dataclass(frozen=True)
class Verdict:
    """What a rule says of a node: the verdict, why, and the rule's name."""

    verdict: str
    reason: str
    form: str = ""


def figure(rule: Rule, precision: str, target: Target) -> Verdict:
    """What a rule says at a precision."""
    if rule.figures is None:
        return Verdict(rule.verdict, rule.note, rule.name)
    if precision == target.float_type and target.measured_in:
        precision = target.measured_in
    if precision not in rule.figures:
        return Verdict(UNKNOWN, f"not measured at {precision}", rule.name)
    db = rule.figures[precision]
    if db is None:
        return Verdict(UNSUPPORTED, f"the compiler refuses it at {precision}", rule.name)
    if math.isnan(db) or db < target.wrong_below:
        return Verdict(UNSUPPORTED, f"wrong values at {precision}: {db:.1f} dB", rule.name)
    verdict = POOR if db < target.poor_below else SUPPORTED
    return Verdict(verdict, f"{db:.1f} dB at {precision}", rule.name)


def judge(rules: list[Rule], facts: dict[str, Any], precision: str, target: Target) -> Verdict:
    """What the first rule says that covers all facts of a node, or that refuses it.

    Args:
        rules: Of the operator, in order.
        facts: Of the node.
        precision: What it would run in.
        target: Whose rules.
    """
    closest: Rule | None = None
    missing: list[str] = []
    for rule in rules:
        if not meets(rule.when, facts):
            continue
        left = rule.uncovered(facts)
        verdict = figure(rule, precision, target)
        if not left or verdict.verdict == UNSUPPORTED:
            return verdict
        if closest is None or len(left) < len(missing):
            closest = rule
            missing = left
    if closest is not None:
        return Verdict(UNKNOWN, f"no rule covers {' and '.join(missing)}", closest.name)
    if not rules:
        return Verdict(UNKNOWN, "no rule")
    unusual = Rule("", facts["op"], "").uncovered(facts) or [f"{facts['rank']} axes, plain"]
    return Verdict(UNKNOWN, f"no rule for {' and '.join(unusual)}")


def verdict_of(graph: Graph, node: onnx.NodeProto, target: Target) -> tuple[Verdict, str]:
    """What a target says of a node, and the precision that the node would run in."""
    facts = facts_of(graph, node)
    precision = precision_of(graph, node, target.float_type)
    objection = _objection(graph, node, target) or _objection_to_facts(facts, target)
    if objection is not None:
        return objection, precision
    return judge(target.rules.get(node.op_type, []), facts, precision, target), precision


def _objection(graph: Graph, node: onnx.NodeProto, target: Target) -> Verdict | None:
    """Why no rule can speak of a node, by its domain, types, opset and shapes."""
    if node.domain not in STANDARD:
        return Verdict(UNKNOWN, f"operator of another domain, {node.domain}")
    if any(graph.types.get(name) in NEVER for name in (*node.input, *node.output) if name):
        return Verdict(UNSUPPORTED, "it computes with strings or complex numbers")
    unclear = None
    if target.static:
        unclear = next((name for name in graph.active(node) if name in graph.open), None)
    if unclear is not None and graph.given_open:
        return Verdict(
            UNSUPPORTED,
            f"a side of {unclear} is open ({graph.sides[unclear]}) and the target compiles for one "
            "size: export without --dynamic",
        )
    first, last = target.opsets
    if not first <= graph.opset <= last:
        return Verdict(
            UNKNOWN, f"opset {graph.opset}; the target's rules are for {first} to {last}"
        )
    unknown = [name for name in node.output if name and name not in graph.shapes]
    if unknown or unclear is not None:
        return Verdict(UNKNOWN, "its shape is not known")
    return None


def _objection_to_facts(facts: dict[str, Any], target: Target) -> Verdict | None:
    """Why no rule can speak of a node, by its rank and type."""
    if facts["rank"] > target.max_rank:
        return Verdict(UNSUPPORTED, f"{facts['rank']} axes; the target takes {target.max_rank}")
    if facts["type"] not in target.types:
        return Verdict(UNKNOWN, f"it computes with {facts['type']}, which no rule speaks of")
    return None


def lint(
    model: onnx.ModelProto,
    target: Target,
    *,
    file: str = "",
    file_bytes: int = 0,
    feeds: Iterable[dict[str, np.ndarray]] = (),
    source: Path | None = None,
) -> Report:
    """Check every node of a graph.

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
    graph = Graph(model)
    findings = []
    for index, node in enumerate(graph.model.graph.node):
        if _is_judged(graph, node, target):
            findings.append(_finding(graph, index, node, target))
    verdicts = {finding.index: finding.verdict for finding in findings}
    report = Report(target, file, findings, partitions(graph, verdicts), file_bytes)
    runs = list(feeds)
    if runs and target.float_type == "fp16":
        report.set_maxima(absolute_maxima(source or model, runs))
    return report


def _is_judged(graph: Graph, node: onnx.NodeProto, target: Target) -> bool:
    """Whether a node has a verdict of its own."""
    if node.op_type == CONSTANT:
        return False
    if node.op_type in QUANTISERS:
        return node.op_type in target.rules
    return bool(graph.computed(node.output))


def _finding(graph: Graph, index: int, node: onnx.NodeProto, target: Target) -> Finding:
    verdict, precision = verdict_of(graph, node, target)
    return Finding(
        index,
        node.op_type,
        node.name or node.output[0],
        verdict.verdict,
        verdict.reason,
        verdict.form,
        precision,
        tuple(graph.shape(node.output[0])),
    )
