"""The file of a result: docs/results/NAME.json.

    schema    1
    name, title, command, edition, units
    rows      plain columns; `job` says of which job a row is
    jobs      key, commands, inputs (SHA-256 by path), date, seconds, load, other_work, session
    sessions  commit, code, versions, machine; a job names its session by number

Jobs of one file may be of several sessions, because --resume repeats only what is not current.
"""

import json
import math
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from compress.core.errors import UserError
from compress.core.files import write_text
from compress.core.json_files import read_json
from eval.results.measurement import Measurement, Row, units

SCHEMA = 1
DIGITS = 6  # significant ones of a number; no figure here has more


class JobRecord(TypedDict):
    """How one job's figures came about."""

    key: str
    commands: list[str]
    inputs: dict[str, str]
    date: str
    seconds: float
    load: list[float | None]
    other_work: float | None
    session: int


class Session(TypedDict):
    """What jobs that ran together have in common."""

    commit: str
    code: str
    versions: dict[str, str]
    machine: dict[str, Any]


class Data(TypedDict):
    """A file of results."""

    schema: int
    name: str
    title: str
    command: str
    edition: int
    units: dict[str, str]
    rows: list[dict[str, Any]]
    jobs: list[JobRecord]
    sessions: list[Session]


class Piece(TypedDict):
    """One finished job, a line of the partial file."""

    record: JobRecord
    session: Session
    edition: int
    rows: list[dict[str, Any]]


def tidy(row: Row, where: str) -> Row:
    """`row` with numbers of DIGITS digits.

    Raises:
        UserError: A value is not finite, or is neither text, number, truth value nor nothing.
    """
    tidied: Row = {}
    for key, value in row.items():
        if isinstance(value, float):
            if not math.isfinite(value):
                raise UserError(f"{where}: {key} is {value}, which is no result")
            value = float(f"{value:.{DIGITS}g}")
        elif value is not None and not isinstance(value, (str, int, bool)):
            raise UserError(f"{where}: {key} is a {type(value).__name__}, not a plain value")
        tidied[key] = value
    return tidied


def assemble(measurement: Measurement, pieces: list[Piece]) -> Data:
    """The file of a measurement from its finished jobs, in their order."""
    rows: list[dict[str, Any]] = []
    jobs: list[JobRecord] = []
    sessions: list[Session] = []
    for piece in pieces:
        if piece["session"] not in sessions:
            sessions.append(piece["session"])
        record = piece["record"].copy()
        record["session"] = sessions.index(piece["session"])
        jobs.append(record)
        rows += [{**row, "job": record["key"]} for row in piece["rows"]]
    return {
        "schema": SCHEMA,
        "name": measurement.name,
        "title": measurement.title,
        "command": measurement.command,
        "edition": measurement.edition,
        "units": dict(units(measurement.columns)),
        "rows": rows,
        "jobs": jobs,
        "sessions": sessions,
    }


def pieces_of(data: Data) -> list[Piece]:
    """The finished jobs that a file was made of."""
    pieces: list[Piece] = []
    for record in data["jobs"]:
        rows = [dict(row) for row in data["rows"] if row["job"] == record["key"]]
        for row in rows:
            del row["job"]
        session = data["sessions"][record["session"]]
        pieces.append(
            {"record": record, "session": session, "edition": data["edition"], "rows": rows}
        )
    return pieces


def dump(value: Any, indent: int | None = None) -> str:
    """JSON without NaN, with sorted keys: the same content is the same text."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False, sort_keys=True)


def write(data: Data, file: Path) -> None:
    """Write a file of results."""
    write_text(file, dump(data, indent=1) + "\n")


def read(file: Path) -> Data:
    """A file of results.

    Raises:
        UserError: It is damaged, or of another schema.
    """
    data: Data = read_json(
        file, "a result of eval.results", Data, "it is damaged: measure it again"
    )
    if data["schema"] != SCHEMA:
        raise UserError(f"{file}: has schema {data['schema']}, not {SCHEMA}; measure it again")
    return data
