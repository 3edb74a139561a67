"""The version of this package's code, for what is kept under a key."""

import hashlib
from functools import cache
from pathlib import Path

DIGITS = 16


@cache
def code_version() -> str:
    """Hash of this package's sources: what changed code made must not come from a cache."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:DIGITS]
