"""A result in Markdown: its table, and the line that says how it came about."""

from datetime import date
from pathlib import Path
from typing import Any

from compress.core import markdown
from compress.core.wrapping import WIDTH
from eval.results.datafile import Data, JobRecord, Session
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


def pivot(rows: list[dict[str, Any]], columns: tuple[Column, ...], across: str, value: str) -> str:
    """Rows as a table with a column for each value of one key.

    Args:
        rows: In the order in which they are shown.
        columns: Those that tell a row of the table from others, and what is the same all over it.
        across: The key whose values are the further columns, in the order of the rows.
        value: The key of what stands in those.
    """
    names = list(dict.fromkeys(str(row[across]) for row in rows))
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        head = tuple(cell(row.get(column.key), column) for column in columns)
        lines.setdefault(head, {})[str(row[across])] = cell(row[value], Column(value, value))
    cells = [[*head, *(line.get(name, NONE) for name in names)] for head, line in lines.items()]
    return markdown.table([*(column.head for column in columns), *names], cells)


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
    text = " ".join(_sittings(data))
    if lacking := unmeasured(data, measurement):
        text += f"\n\n**Not measured yet:** {listed(lacking)}."
    why = reasons(data, measurement, root)
    if why:
        text += f"\n\n**Stale:** {'; '.join(why)}. Make it again by the command above."
    return text


def _sittings(data: Data) -> list[str]:
    """A sentence for each machine. Which commit measured which row is in the file alone."""
    jobs_on: dict[str, list[JobRecord]] = {}
    for job in data["jobs"]:
        machine = _machine(data["sessions"][job["session"]])
        jobs_on.setdefault(machine, []).append(job)
    return [_sitting(data, machine, jobs, len(jobs_on) > 1) for machine, jobs in jobs_on.items()]


def _sitting(data: Data, machine: str, jobs: list[JobRecord], with_names: bool) -> str:
    """What is said of the jobs of one machine."""
    days = sorted({job["date"] for job in jobs})
    when = _day(days[0]) if len(days) == 1 else f"{_day(days[0])} to {_day(days[-1])}"
    sessions = [data["sessions"][index] for index in sorted({job["session"] for job in jobs})]
    commits = list(dict.fromkeys(session["commit"] for session in sessions if session["commit"]))
    where = f" at commit{'' if len(commits) == 1 else 's'} {listed(commits)}" if commits else ""
    who = f" ({', '.join(job['key'] for job in jobs)})" if with_names else ""
    took = seconds(sum(job["seconds"] for job in jobs))
    others = [job["other_work"] for job in jobs if job["other_work"] is not None]
    busy = max(others, default=None)
    return f"*Measured{who} on {when}{where}, {took}: {machine}{_company(busy)}.*"


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
    return f", other work on the machine (up to {busy:.1f} cores)"
