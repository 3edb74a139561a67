"""points.json in a study's folder: what has ended so far, for whoever reads the study.

It holds all that the pages and the front are made of, and needs neither Optuna nor the store.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from compress.core.files import MADE_BY, write_text
from compress.core.json_files import read_json
from compress.search.goals import Objective
from compress.search.results import MEASURED, Result
from compress.search.space import Point

if TYPE_CHECKING:  # reading the file needs no Optuna
    from compress.search.attempts import Standing

POINTS = "points.json"


class Row(TypedDict):
    """One point that has ended.

    Attributes:
        number: The point's.
        point: Values of what varies.
        attempts: How often it was begun.
        result: What became of it.
    """

    number: int
    point: dict[str, str | int | float]
    attempts: int
    result: Result


class Snapshot(TypedDict):
    """The file."""

    made_by: str
    rows: list[Row]


@dataclass(frozen=True)
class Ended:
    """A measured point, ready to be compared.

    Attributes:
        number: The point's.
        point: Values of what varies.
        figures: Costs and metrics by name, those that have a value.
    """

    number: int
    point: Point
    figures: dict[str, float]


def rows_of(standings: Mapping[int, "Standing"]) -> list[Row]:
    """The points that have ended, by number."""
    rows: list[Row] = []
    for number, standing in sorted(standings.items()):
        if standing.ended is not None:
            rows.append(
                {
                    "number": number,
                    "point": dict(standing.ended.params),
                    "attempts": len(standing.attempts),
                    "result": standing.ended.user_attrs["result"],
                }
            )
    return rows


def write(folder: Path, rows: list[Row]) -> None:
    """Write the file, whole or not at all."""
    content: Snapshot = {"made_by": MADE_BY, "rows": rows}
    write_text(folder / POINTS, json.dumps(content, indent=1))


def read(folder: Path) -> list[Row]:
    """The points of a study that have ended. Raises UserError where there is no such file."""
    remedy = "let python -m compress.sweep end at least one point there"
    content: Any = read_json(folder / POINTS, "the points of a study", Snapshot, remedy)
    return list(content["rows"])


def measured(rows: list[Row]) -> list[Ended]:
    """Those that were measured."""
    found = []
    for row in rows:
        if row["result"]["state"] == MEASURED:
            values = {**row["result"]["costs"], **row["result"]["metrics"]}
            figures = {name: value for name, value in values.items() if value is not None}
            found.append(Ended(row["number"], row["point"], figures))
    return found


def front(points: list[Ended], objectives: list[Objective]) -> list[Ended]:
    """The points that no other beats: none is as good in all objectives and better in one.

    Of equal points the first stays. They come in the order of the first objective.
    """
    signs = [-1 if one.higher else 1 for one in objectives]

    def losses(point: Ended) -> tuple[float, ...]:
        return tuple(
            sign * point.figures[one.name] for sign, one in zip(signs, objectives, strict=True)
        )

    ranked = sorted(points, key=lambda point: (losses(point), point.number))
    kept: list[Ended] = []
    for point in ranked:  # who beats it comes before it in this order
        mine = losses(point)
        if not any(all(a <= b for a, b in zip(losses(one), mine, strict=True)) for one in kept):
            kept.append(point)
    return kept
