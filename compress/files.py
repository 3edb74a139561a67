"""The one way in which a file comes under its final name: whole, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write beside `path`, then rename: a file under its final name is complete.

    Args:
        path: The final name. Its folder must exist.

    Yields:
        A temporary name in the same folder, with the same suffix. It is removed if the body fails.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8 under `path`, through a temporary name."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
