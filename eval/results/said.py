"""A result in Markdown: its table, and the line that says how it came about."""

from datetime import date
from pathlib import Path
from typing import Any

from compress.core import markdown
from compress.core.wrapping import WIDTH
from eval.results.datafile import Data, Session
from eval.results.machine import MOST_OTHER_WORK
from eval.results.measurement import Column, Measurement, Value
from eval.results.staleness import listed, reasons, unmeasured

NONE = "–"
MINUTE, HOUR = 60, 3600


def cell(value: Value, column: Column) -> str:
    """A value as its column shows it."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if column.digits is not None:
        return f"{value:,.{column.digits}f}"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def table(rows: list[dict[str, Any]], columns: tuple[Column, ...]) -> str:
    """Rows as a table. A column without any value is left out."""
    shown = [c for c in columns if any(row.get(c.key) is not None for row in rows)]
    cells = [[cell(row.get(column.key), column) for column in shown] for row in rows]
    return markdown.table([column.head for column in shown], cells)


def command(measurement: Measurement) -> str:
    """The command that makes a result again, as a fence; a long one on two lines."""
    line = measurement.command
    if len(line) > WIDTH:
        cut = line.rindex(" --", 0, WIDTH - 2)
        line = f"{line[:cut]} \\\n   {line[cut:]}"
    return f"```\n{line}\n```"


def seconds(value: float) -> str:
    """A time as people say it."""
    if value < MINUTE:
        return f"{value:.0f} s"
    if value < HOUR:
        return f"{value / MINUTE:.0f} min"
    return f"{value / HOUR:.1f} h"


def provenance(data: Data, measurement: Measurement, root: Path) -> str:
    """When, where and with what a result was made, what it lacks, and whether it is stale."""
    parts = [_sitting(data, index) for index in sorted({job["session"] for job in data["jobs"]})]
    text = " ".join(parts)
    if lacking := unmeasured(data, measurement):
        text += f"\n\n**Not measured yet:** {listed(lacking)}."
    why = reasons(data, measurement, root)
    if why:
        text += f"\n\n**Stale:** {'; '.join(why)}. Make it again by the command above."
    return text


def _sitting(data: Data, index: int) -> str:
    """What is said of the jobs of one session."""
    jobs = [job for job in data["jobs"] if job["session"] == index]
    session: Session = data["sessions"][index]
    days = sorted({job["date"] for job in jobs})
    when = _day(days[0]) if len(days) == 1 else f"{_day(days[0])} to {_day(days[-1])}"
    where = f" at commit {session['commit']}" if session["commit"] else ""
    who = "" if len(jobs) == len(data["jobs"]) else f" ({', '.join(job['key'] for job in jobs)})"
    took = seconds(sum(job["seconds"] for job in jobs))
    others = [job["other_work"] for job in jobs if job["other_work"] is not None]
    busy = max(others, default=None)
    return f"*Measured{who} on {when}{where}, {took}: {_machine(session)}{_company(busy)}.*"


def _day(text: str) -> str:
    day = date.fromisoformat(text)
    return f"{day.day} {day:%B %Y}"


def _machine(session: Session) -> str:
    facts = session["machine"]
    threads, features = facts["threads"], facts["features"]
    kernels = [name for name in ("avx512_vnni", "avx_vnni", "asimddp", "avx2") if name in features]
    best = f" with {kernels[0].upper().replace('_', '-')}" if kernels else ""
    plural = "" if threads == 1 else "s"
    return (
        f"{facts['cores']} cores of {facts['processor']}{best}, {threads} thread{plural} a process"
    )


def _company(busy: float | None) -> str:
    if busy is None:
        return ""
    if busy <= MOST_OTHER_WORK:
        return ", nothing else on the machine"
    return f", other work on the machine ({busy:.1f} cores)"
