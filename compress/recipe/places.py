"""A recipe or ledger for others: files without the place that they have on this machine."""

from pathlib import Path
from typing import Any

from compress.core.hub import hub_name
from compress.core.hub_config import FILES, FOLDERS

# Keys of a recipe whose values are files or folders.
PATHS = (
    *("folders", "data", "hr", "path", "calibration", "iqa_weights"),
    *("references", "base", "pipeline", "python", "engine_dir"),
    *FILES,
    *FOLDERS,
)


def without_places(value: Any, key: str = "") -> Any:
    """Plain data with the last part of every path in place of the path.

    Args:
        value: Plain data of any depth.
        key: The key that it lies under.
    """
    if isinstance(value, dict):
        return {name: without_places(entry, name) for name, entry in value.items()}
    if isinstance(value, list):
        return [without_places(entry, key) for entry in value]
    if isinstance(value, str) and key in PATHS and "/" in value and hub_name(value) is None:
        return Path(value).name
    return value
