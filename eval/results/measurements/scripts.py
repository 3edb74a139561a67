"""Scripts under tests/bench, which write their rows as JSON."""

from typing import Any

from compress.core.json_files import parse_json, read_json
from eval.results.measurement import Finished, Row

FILE = "rows.json"


def script(name: str, *words: str) -> tuple[str, ...]:
    """The command of a script that writes its rows into the job's folder."""
    return ("python", f"tests/bench/{name}.py", *words, "--json", f"{{out}}/{FILE}")


def read_rows(finished: Finished) -> list[Row]:
    """The rows that a script wrote."""
    rows: list[Row] = read_json(
        finished.out / FILE, "the rows of a benchmark", list[dict], "measure again"
    )
    return rows


def read_stdout(finished: Finished, command: int = 0) -> Any:
    """What a command printed, the first being 0, as JSON."""
    file = finished.out / f"stdout_{command}.txt"
    return parse_json(file.read_bytes(), str(file), "measure again")
