"""The files of onnxruntime-web, which a page for browsers runs its graphs with.

They come from npm: a folder that the user names, node_modules of this folder or one above it, or a
folder in NODE_PATH. `page/package.json` has the version.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from compress.core.errors import UserError

PACKAGE = "onnxruntime-web"
PAGE = Path(__file__).parent / "page"
ENGINE_FOLDER = "engine"
# The native WebGPU execution provider, and the smaller build for the CPU alone. The first of each
# is what the page imports.
ENGINES = {
    "webgpu": (
        "ort.webgpu.min.mjs",
        "ort-wasm-simd-threaded.asyncify.mjs",
        "ort-wasm-simd-threaded.asyncify.wasm",
    ),
    "wasm": ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
}
FILES = tuple(name for names in ENGINES.values() for name in names)
HEAD = 400  # bytes at the beginning of a script that say its version


def pinned(package: str = PACKAGE) -> str:
    """The version of an npm package that this toolkit was tried with."""
    wanted = json.loads((PAGE / "package.json").read_text(encoding="utf-8"))
    return str((wanted["dependencies"] | wanted["devDependencies"])[package])


def install_line() -> str:
    """The command that fetches the engine."""
    return f"npm i --ignore-scripts {PACKAGE}@{pinned()}"


def _candidates(engine_dir: str | None) -> list[Path]:
    """Folders that may hold the files, the likeliest first."""
    if engine_dir is not None:
        base = Path(engine_dir)
        return [base, base / "dist", *(_dist(place) for place in (base, base / "node_modules"))]
    here = Path.cwd()
    places = [folder / "node_modules" for folder in (here, *here.parents)]
    places += [Path(text) for text in os.environ.get("NODE_PATH", "").split(os.pathsep) if text]
    return [_dist(place) for place in places]


def _dist(node_modules: Path) -> Path:
    return node_modules / PACKAGE / "dist"


def find_engine(engine_dir: str | None) -> Path:
    """The folder that holds the engine's files.

    Args:
        engine_dir: What the user named: the folder itself, the package, a node_modules, or a folder
            with one. None looks in node_modules here and above, then in NODE_PATH.

    Raises:
        UserError: It is not there, or not whole.
    """
    for folder in _candidates(engine_dir):
        if all((folder / name).is_file() for name in FILES):
            return folder
    where = "here and in NODE_PATH" if engine_dir is None else f"in {engine_dir}"
    raise UserError(
        f"target web needs the files of {PACKAGE}, which are not {where}; run: {install_line()}, "
        "or name their folder with --engine-dir"
    )


def page_digest(engine_dir: str | None) -> str:
    """Identity of the page's files and of the engine, for what is kept of exports.

    Raises:
        UserError: The engine is not there.
    """
    engine = find_engine(engine_dir)
    total = hashlib.sha256()
    for path in [*sorted(PAGE.iterdir()), *(engine / name for name in FILES)]:
        total.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def copy_engine(source: Path, folder: Path) -> str:
    """Put the engine's files into `folder`/engine.

    Returns:
        The version that they say of themselves; `unknown` where they do not.
    """
    target = folder / ENGINE_FOLDER
    target.mkdir()
    for name in FILES:
        shutil.copyfile(source / name, target / name)
    with (target / FILES[0]).open(encoding="utf-8", errors="replace") as script:
        found = re.search(r"ONNX Runtime Web v(\S+)", script.read(HEAD))
    return found[1] if found else "unknown"
