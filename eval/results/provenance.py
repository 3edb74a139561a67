"""What a figure depends on: files and their hashes, the code, and the versions of libraries."""

import hashlib
import re
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import compress
from compress.core.errors import UserError
from compress.core.identity import content_digest

ROOT = Path(compress.__file__).parents[1]
RESULTS = Path("docs") / "results"
# Libraries that decide about figures. constraints.txt says which versions are the current ones.
LIBRARIES = ("torch", "onnx", "onnxruntime", "diffusers", "pyiqa", "numpy", "pillow", "scipy")
PACKAGES = ("compress", "export", "eval")
CODE_DIGITS = 12
PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)", re.M)


def check_clone(root: Path) -> None:
    """Raise UserError where `root` is no clone of the repository."""
    if not (root / RESULTS).is_dir() or not (root / "recipes").is_dir():
        raise UserError(f"{root} has no folder {RESULTS}; run this in a clone of the repository")


def hashes(files: Iterable[str], root: Path) -> dict[str, str]:
    """SHA-256 of files below `root`, by path; empty for one that is not there."""
    found = {}
    for name in sorted(set(files)):
        path = root / name
        found[name] = content_digest(path) if path.is_file() else ""
    return found


def code_hash(root: Path) -> str:
    """Of all Python files of the three packages.

    It tells two states of the code apart. A change of it says nothing about the figures: most lines
    decide about none. So a result of another code is not stale for that.
    """
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:CODE_DIGITS]


def commit(root: Path) -> str:
    """The commit that is checked out, with a plus where files differ from it; else empty."""
    described = _git(root, "rev-parse", "--short=7", "HEAD")
    if not described:
        return ""
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{described}+" if changed else described


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def installed_versions() -> dict[str, str]:
    """Library -> version here, without what a build adds after a plus."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    return found


def current_versions(root: Path) -> dict[str, str]:
    """Library -> version that constraints.txt pins."""
    text = (root / "constraints.txt").read_text(encoding="utf-8")
    pinned = {name.lower(): number for name, number in PINNED.findall(text)}
    return {name: pinned[name] for name in LIBRARIES if name in pinned}
