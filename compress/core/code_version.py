"""The version of the code, for what is kept under a key."""

import hashlib
from functools import cache
from pathlib import Path

DIGITS = 16
SUFFIXES = {".py", ".csv", ".yaml"}  # of code, and of the tables that it reads


@cache
def code_version(package: str = "compress") -> str:
    """Hash of a package's sources: what changed code made must not come from a cache.

    Args:
        package: A top-level package of this toolkit: compress, export or eval.

    Returns:
        16 hex digits.
    """
    digest = hashlib.sha256()
    folder = Path(__file__).parents[2] / package
    for path in sorted(folder.rglob("*")):
        if path.suffix not in SUFFIXES:
            continue
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:DIGITS]
