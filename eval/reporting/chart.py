"""The interactive curve: choose both axes, hover for figures; one page with everything inside."""

from pathlib import Path
from typing import Any

from eval.metric.names import in_order, metric_of
from eval.reporting import pages
from eval.reporting.axes import AXES
from eval.reporting.board import Board, System


def chart_data(board: Board, metric: str, axis: str) -> dict[str, Any]:
    """What the page's script draws.

    Args:
        board: The systems, with all of their axes and metrics.
        metric: The metric that is shown first.
        axis: The axis that is shown first.
    """
    labels = {name: entry.label for name, entry in AXES.items()}
    ours = " or ".join(sorted({_came_about(one) for one in board.systems if one.ours}))
    if board.device:
        labels["latency"] = f"ms at 128 → 512 on {board.device} (ours {ours}, others published)"
    measured = [metric, *(name for system in board.systems for name in system.y)]
    return {
        "axis": axis,
        "metric": metric,
        "axes": labels,
        "latency": ours,
        "metrics": {name: metric_of(name).higher for name in in_order(measured)},
        "systems": [
            {
                "label": system.label,
                "ours": system.ours,
                "x": system.x,
                "y": system.y,
                "note": system.note,
                "faint": system.faint,
            }
            for system in board.systems
        ],
    }


def write_chart(board: Board, metric: str, axis: str, path: Path) -> Path:
    """Write the page; nothing in it is loaded from elsewhere.

    Args:
        board: The systems.
        metric: The metric that is shown first.
        axis: The axis that is shown first.
        path: The file.
    """
    template = pages.environment().get_template("curve.html.j2")
    title = f"{board.dataset}, protocol “{board.protocol}”"
    page = template.render(title=title, data=chart_data(board, metric, axis))
    return pages.write(page, path)


def _came_about(system: System) -> str:
    """How the latency of one of our runs is known."""
    return "measured" if system.on_device else "predicted"
