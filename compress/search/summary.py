"""A study in some lines of text: what became of its points, the proxy, the front."""

from pathlib import Path

from compress.search import snapshot
from compress.search.proxy import rank_correlation
from compress.search.results import FAILED, INFEASIBLE, MEASURED, PRUNED
from compress.search.settings import Settings
from compress.search.snapshot import Row
from compress.search.space import text_of


def summary(settings: Settings, rows: list[Row], folder: Path) -> str:
    """The study in some lines.

    Args:
        settings: Of the study.
        rows: Its points that have ended.
        folder: The study's.
    """
    results = [row["result"] for row in rows]
    counts = [
        f"{sum(one['state'] == state for one in results)} {state}"
        for state in (MEASURED, INFEASIBLE, PRUNED, FAILED)
    ]
    best = snapshot.front(snapshot.measured(rows), settings.objectives)
    lines = [f"{len(rows)} points: {', '.join(counts)}; {len(best)} on the front"]
    for point in best:
        figures = ", ".join(
            f"{one.name} {point.figures[one.name]:,.5g}" for one in settings.objectives
        )
        where = " ".join(f"{key}={text_of(value)}" for key, value in point.point.items())
        lines.append(f"  {point.number:>4}  {figures}  {where}")
    for one in settings.objectives:
        found = None if one.is_cost else rank_correlation(results, one.name, one.higher)
        if found is not None:
            lines.append(f"rank correlation of the proxy with {one.name}: {found:.2f}")
    lines.append(f"python -m eval.front {folder} writes picture, table and recipes")
    return "\n".join(lines)
