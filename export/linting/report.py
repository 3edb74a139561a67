"""What the lint found of a graph, for machines and for a terminal."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from export.linting.rules import POOR, SUPPORTED, UNKNOWN, UNSUPPORTED, Target

FP16_MAX = 65504.0
MARGIN = 4.0  # calibration sees few pictures; what comes within a quarter of the limit is a risk
MEBIBYTE = 2**20
SEVERITY = (UNSUPPORTED, UNKNOWN, POOR)  # the order in which kinds of nodes are told
MOST = 30  # kinds of nodes, and tensors, that the text names


@dataclass(frozen=True)
class Finding:
    """One node of a graph.

    Attributes:
        index: Its place in the graph.
        op: Its operator.
        name: Its name, or that of its first output.
        verdict: Of export/linting/rules.py.
        reason: Why, in a few words.
        form: The rule that it met.
        precision: What it would run in.
        shape: Of its first output.
    """

    index: int
    op: str
    name: str
    verdict: str
    reason: str
    form: str = ""
    precision: str = ""
    shape: tuple[int, ...] = ()

    @property
    def kind(self) -> tuple[str, str, str, str]:
        """What nodes have in common that the text names together."""
        return self.verdict, self.op, self.form, self.reason


@dataclass
class Report:
    """What a target makes of a graph.

    Attributes:
        target: Whose rules.
        file: The name of the file.
        findings: Its nodes, but for those that a compiler computes beforehand.
        partitions: The pieces that the accelerator gets.
        file_bytes: The size of the file with its data.
        overflow: Tensor -> largest magnitude, where float16 cannot hold it. None where nothing was
            run.
        near: The same for tensors that come within MARGIN of the limit.
    """

    target: Target
    file: str
    findings: list[Finding]
    partitions: int
    file_bytes: int = 0
    overflow: dict[str, float] | None = None
    near: dict[str, float] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Verdict -> number of nodes."""
        numbers = Counter(finding.verdict for finding in self.findings)
        return {verdict: numbers[verdict] for verdict in (SUPPORTED, POOR, UNSUPPORTED, UNKNOWN)}

    @property
    def refused(self) -> list[Finding]:
        """The nodes that fall back to the CPU, as far as anybody knows."""
        return [f for f in self.findings if f.verdict in (UNSUPPORTED, UNKNOWN)]

    @property
    def passed(self) -> bool:
        """Whether no node, tensor or file is refused or unknown."""
        return not self.refused and not self.overflow and self.file_bytes <= self.target.max_bytes

    def set_maxima(self, maxima: dict[str, float]) -> None:
        """Note which tensors float16 cannot hold, from their largest magnitudes."""
        self.overflow = {name: value for name, value in maxima.items() if not value <= FP16_MAX}
        least = FP16_MAX / MARGIN
        self.near = {name: value for name, value in maxima.items() if least < value <= FP16_MAX}

    def as_dict(self) -> dict[str, Any]:
        """The report for machines; nodes that are fine are left out."""
        told = [finding for finding in self.findings if finding.verdict != SUPPORTED]
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
            "nodes": [finding.__dict__ | {"shape": list(finding.shape)} for finding in told],
        }


def text(report: Report, most: int = MOST) -> str:
    """The report for a terminal: counts, then refused and poor nodes, grouped by kind.

    Args:
        report: The report.
        most: Kinds of nodes, and tensors, that are named.
    """
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in report.counts.items())
    lines = [
        f"{report.file}: {len(report.findings)} operators for {report.target.title}",
        f"  {verdicts}",
        f"  {len(report.refused)} fall back to the CPU; {report.partitions} partitions expected",
        *_node_lines(report, most),
        *_range_lines(report, most),
    ]
    if report.file_bytes > report.target.max_bytes:
        lines.append(
            f"  the file has {report.file_bytes / MEBIBYTE:.0f} MiB; the target loads "
            f"{report.target.max_bytes / MEBIBYTE:.0f} at most: export per component or quantise "
            "the weights"
        )
    lines.append(f"  rules from: {report.target.source}")
    return "\n".join(lines)


def _node_lines(report: Report, most: int) -> list[str]:
    """One line for each kind of node that is not fine, the worst and most frequent first."""
    told = [finding for finding in report.findings if finding.verdict != SUPPORTED]
    counts = Counter(finding.kind for finding in told)
    first: dict[tuple, Finding] = {}
    for finding in told:
        first.setdefault(finding.kind, finding)
    ranked = sorted(counts, key=lambda kind: (SEVERITY.index(kind[0]), -counts[kind]))
    lines = [_kind_line(first[kind], counts[kind]) for kind in ranked[:most]]
    if len(counts) > most:
        lines.append(f"  … and {len(counts) - most} more kinds; --json has them all")
    return lines


def _kind_line(first: Finding, count: int) -> str:
    form = "" if first.form in ("", first.op) else f" ({first.form})"
    return (
        f"  {first.verdict:12}{count:4} x {first.op}{form}: {first.reason}; "
        f"first {first.name} {list(first.shape)}"
    )


def _range_lines(report: Report, most: int) -> list[str]:
    """What is known of float16: tensors that overflow, and those that come close."""
    if report.overflow is None:
        return ["  float16 ranges: not checked; give --run RUN, or a file whose input is lr"]
    lines = [
        f"  overflows float16: {name} reaches {value:.0f} of {FP16_MAX:.0f}"
        for name, value in _largest(report.overflow, most)
    ]
    lines += [
        f"  close to float16's limit: {name} reaches {value:.0f} of {FP16_MAX:.0f}"
        for name, value in _largest(report.near, most)
    ]
    return lines or [f"  float16 ranges: every tensor stays below {FP16_MAX / MARGIN:.0f}"]


def _largest(maxima: dict[str, float], most: int) -> list[tuple[str, float]]:
    return sorted(maxima.items(), key=lambda pair: -pair[1])[:most]
