"""A page of work that is going on: its curves and samples so far."""

from pathlib import Path

from compress.core.errors import UserError
from eval.reporting import pages
from eval.reporting.blocks import environment
from eval.reporting.learning import learned, place_of


def write_live(folder: Path, out: Path, every: int | None = None) -> Path:
    """Write the page, whole or not at all.

    Args:
        folder: A run directory, finished or not, or the working folder of a training.
        out: The page.
        every: Seconds after which a browser looks again; None for never.

    Raises:
        UserError: Nothing in the folder learns or has learned.
    """
    works = learned(place_of(folder))
    if not works:
        raise UserError(
            f"{folder}: has no tracks/ yet; give the --out of a run or the --workdir of a training "
            "that learns something, and wait for its first row"
        )
    page = (
        environment()
        .get_template("live.html.j2")
        .render(title=folder.resolve().name, works=works, every=every)
    )
    return pages.write(page, out)
