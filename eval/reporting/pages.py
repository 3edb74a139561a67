"""Writing HTML pages from the templates beside this file, whole or not at all."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from compress.core.files import write_text


def environment() -> Environment:
    """The templates; a name that they use and nobody gave is an error."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write(page: str, path: Path) -> Path:
    """Write `page` under `path`, which gets its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path
