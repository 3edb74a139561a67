"""Runs and published systems as one table: text, Markdown or CSV."""

import csv
import io
from dataclasses import replace

from compress.core.errors import UserError, nearest
from eval import published
from eval.metric.names import in_order, metric_of
from eval.reporting.board import Board, System

COLUMNS = {"size": "M (fp32-eq.)", "ops": "GMACs (fp32-eq.)"}  # axis -> heading
NAMES = 2  # columns that are left-aligned: the system, and whose it is
OURS = "ours"
DECIMALS = {"musiq": 2}  # of a metric's values; 4 of all others

Line = list[str]  # the cells of one row


def rows(board: Board, metrics: list[str] | None = None) -> tuple[Line, list[Line]]:
    """Headings, and a row of text a system.

    Args:
        board: The systems; they keep their order.
        metrics: The columns; by default every metric that anyone has.

    Returns:
        The headings, and the rows; "" where nothing is known.
    """
    names = metrics or _measured(board)
    arrows = [f"{name} {metric_of(name).arrow}" for name in names]
    head = ["system", "whose", *COLUMNS.values(), *arrows]
    body = []
    for system in board.systems:
        if system.ours or any(name in system.y for name in names):
            body.append(_row(system, names))
    return head, body


def _measured(board: Board) -> list[str]:
    return in_order(name for system in board.systems for name in system.y)


def _row(system: System, names: list[str]) -> Line:
    whose = OURS if system.ours else system.note.removeprefix("source ")
    costs = [f"{system.x[axis]:.4g}" if axis in system.x else "" for axis in COLUMNS]
    values = [_value(system, name) for name in names]
    return [system.label, whose, *costs, *values]


def _value(system: System, name: str) -> str:
    if name not in system.y:
        return ""
    return f"{system.y[name]:.{DECIMALS.get(name, 4)}f}"


def only(board: Board, names: str) -> Board:
    """`board` with some of its published systems.

    Args:
        board: The systems.
        names: Labels of published ones, with commas between them.

    Raises:
        UserError: A name is no published system of the board.
    """
    there = {system.label: system for system in board.systems if not system.ours}
    wanted = []
    for name in names.split(","):
        if name not in there:
            raise UserError(
                f"--published {name}: no such system has printed figures on {board.dataset} under "
                f"protocol {board.protocol}{nearest(name, there)}; "
                f"choose from {', '.join(there) or 'none'}"
            )
        wanted.append(there[name])
    ours = [system for system in board.systems if system.ours]
    return replace(board, systems=ours + wanted)


def render(board: Board, metrics: list[str] | None = None, form: str = "text") -> str:
    """The table with data set, protocol and the codes of the sources.

    Args:
        board: The systems.
        metrics: The columns; by default every metric that anyone has.
        form: One of FORMATS.
    """
    head, body = rows(board, metrics)
    if form == "csv":
        return _as_csv(board, head, body)
    title = f"{board.dataset}, protocol {board.protocol}"
    if form == "markdown":
        return _as_markdown(title, head, body)
    return _as_text(title, head, body)


def _as_csv(board: Board, head: Line, body: list[Line]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["data", "protocol", *head])
    writer.writerows([board.dataset, board.protocol, *line] for line in body)
    return stream.getvalue().rstrip("\n")


def _as_markdown(title: str, head: Line, body: list[Line]) -> str:
    lines = [f"**{title}**", "", "| " + " | ".join(head) + " |"]
    lines.append("|" + "---|" * NAMES + "---:|" * (len(head) - NAMES))
    lines += ["| " + " | ".join(line) + " |" for line in body]
    lines += ["", *(f"- {note}" for note in _sources(body))]
    return "\n".join(lines)


def _as_text(title: str, head: Line, body: list[Line]) -> str:
    widths = [max(len(text) for text in column) for column in zip(head, *body, strict=True)]
    first, *others = [_aligned(line, widths) for line in [head, *body]]
    lines = [title, first.rstrip(), "-" * len(first)]
    lines += [line.rstrip() for line in others]
    return "\n".join(lines + _sources(body))


def _aligned(line: Line, widths: list[int]) -> str:
    cells = []
    for column, (text, width) in enumerate(zip(line, widths, strict=True)):
        cells.append(text.ljust(width) if column < NAMES else text.rjust(width))
    return "  ".join(cells)


def _sources(body: list[Line]) -> list[str]:
    """What the codes of published rows stand for."""
    codes: set[str] = set()
    for line in body:
        if line[1] != OURS:
            codes |= set(line[1].split(", "))
    if not codes:
        return ["no published system on this data set under this protocol stands here"]
    return [
        f"{row['code']}: {row['source']} ({row['kind']})"
        for row in published.rows("sources")
        if row["code"] in codes
    ]
