"""python -m eval.table RUN… [--published NAME,…|none]: runs beside the published systems of the same protocol."""

import argparse
import csv
import io
from pathlib import Path

from compress.core.errors import UserError, command, nearest
from eval import published
from eval.metric.metrics import METRICS, check_names
from eval.reporting.points import Board, System, gather

FORMATS = ("text", "markdown", "csv")
COLUMNS = {"size": "M (fp32-eq.)", "ops": "GMACs (fp32-eq.)"}


def rows(board: Board, metrics: list[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row of text a system: ours first, then by name as published; "" where nothing is known."""
    names = metrics or [n for n in METRICS if any(n in s.y for s in board.systems)]
    head = [
        "system",
        "whose",
        *COLUMNS.values(),
        *(f"{n} {'↑' if METRICS[n].higher else '↓'}" for n in names),
    ]

    def row(system: System) -> list[str]:
        costs = [f"{system.x[a]:.4g}" if a in system.x else "" for a in COLUMNS]
        values = [
            f"{system.y[n]:.2f}"
            if n == "musiq" and n in system.y
            else f"{system.y[n]:.4f}"
            if n in system.y
            else ""
            for n in names
        ]
        return [
            system.label,
            "ours" if system.ours else system.note.removeprefix("source "),
            *costs,
            *values,
        ]

    return head, [
        row(system) for system in board.systems if system.ours or any(n in system.y for n in names)
    ]


def render(board: Board, metrics: list[str] | None = None, form: str = "text") -> str:
    """The table in one of FORMATS, with data set, protocol and the codes of the sources."""
    head, body = rows(board, metrics)
    if form == "csv":
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["data", "protocol", *head])
        writer.writerows([board.dataset, board.protocol, *line] for line in body)
        return stream.getvalue().rstrip("\n")
    title = f"{board.dataset}, protocol {board.protocol}"
    codes = {code for line in body if line[1] != "ours" for code in line[1].split(", ")}
    notes = [
        f"{row['code']}: {row['source']} ({row['kind']})"
        for row in published.rows("sources")
        if row["code"] in codes
    ]
    if not codes:
        notes = ["no published system on this data set under this protocol stands here"]
    if form == "markdown":
        lines = [
            f"**{title}**",
            "",
            "| " + " | ".join(head) + " |",
            "|---|---|" + "---:|" * (len(head) - 2),
        ]
        return "\n".join(
            [
                *lines,
                *("| " + " | ".join(line) + " |" for line in body),
                "",
                *(f"- {n}" for n in notes),
            ]
        )
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = [
        "  ".join(
            c.ljust(w) if i < 2 else c.rjust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in [head, *body]
    ]
    return "\n".join(
        [title, lines[0].rstrip(), "-" * len(lines[0]), *(x.rstrip() for x in lines[1:]), *notes]
    )


@command
def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m eval.table", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run directories that were evaluated"
    )
    parser.add_argument(
        "--published",
        default="all",
        metavar="NAME,…",
        help="which published systems; all (default), none",
    )
    parser.add_argument(
        "--dataset", help="RealSR, DRealSR, …; default: the one that all runs share"
    )
    parser.add_argument("--metrics", help="comma-separated; default: all that anyone has")
    parser.add_argument("--format", default="text", choices=FORMATS)
    args = parser.parse_args(argv)
    metrics = check_names(args.metrics.split(",")) if args.metrics else None
    board = gather(args.runs, args.dataset, beside=args.published != "none")
    if args.published not in ("all", "none"):
        board = Board(
            board.dataset,
            board.protocol,
            [s for s in board.systems if s.ours] + _named(board, args.published),
        )
    print(render(board, metrics, args.format))
    return 0


def _named(board: Board, names: str) -> list[System]:
    there = {s.label: s for s in board.systems if not s.ours}
    for name in names.split(","):
        if name not in there:
            raise UserError(
                f"--published {name}: no such system has printed figures on {board.dataset} under protocol "
                f"{board.protocol}{nearest(name, there)}; choose from {', '.join(there) or 'none'}"
            )
    return [there[name] for name in names.split(",")]


if __name__ == "__main__":
    main()
