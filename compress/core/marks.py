"""What makes a folder ours, and which of the files in it are.

The mark is MARK_FILE while a folder is written and in every finished run, manifest.json in an
export, and ledger.json
beside recipe.yaml in a run that an older version left.
"""

import json
import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from compress.core.files import write_text

MARK_FILE = ".diffusion-sr-compress.json"
FORMAT = "diffusion-sr-compress/folder/1"
EXPORT_FORMAT = "diffusion-sr-compress/export/"
RUN, EXPORT, CHECKPOINT = "run", "export", "checkpoint"
SCRATCH, IMAGES, BASELINES = "scratch", "images", "baselines"
MAKERS = {
    RUN: "compress.run",
    EXPORT: "export.run",
    CHECKPOINT: "a training",
    IMAGES: "eval.run --save",
    BASELINES: "export.baselines",
}
# What an export holds beside the files that its manifest lists.
EXPORT_NAMES = (
    "manifest.json",
    "parity.json",
    "drift.json",
    "figures.json",
    "FAILED.txt",
    "source_fp32/*",
)
# What a run holds at most, for those of older versions, which kept no list of their files.
RUN_NAMES = (
    "recipe.yaml",
    "ledger.json",
    "model.safetensors",
    "report.html",
    "card.md",
    "curve.png",
    "curve.svg",
    "curve.html",
    "pass_*/*",
    "passes/*",
)
EVAL_NAMES = ("metrics.csv", "averages.json", "fidelity.json")
SMALL = 2**26  # bytes of a mark at most: a larger file is none


def mark(folder: Path, kind: str, files: list[str] | None = None) -> None:
    """Say in `folder` that it is ours and, with `files`, what was written into it."""
    data = {"format": FORMAT, "kind": kind} | ({} if files is None else {"files": files})
    write_text(folder / MARK_FILE, json.dumps(data, indent=1) + "\n")


def _read(file: Path) -> Any:
    try:
        if file.is_symlink() or not file.is_file() or file.stat().st_size > SMALL:
            return None
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def kind_of(folder: Path) -> str | None:
    """What kind of folder of ours this is, by its mark; None for every other."""
    folder = Path(folder)
    if folder.is_symlink() or not folder.is_dir():
        return None
    own = _read(folder / MARK_FILE)
    if isinstance(own, dict) and own.get("format") == FORMAT:
        return str(own.get("kind"))
    if _manifest(folder) is not None:
        return EXPORT
    ledger = _read(folder / "ledger.json")
    if isinstance(ledger, dict) and {"name", "recipe", "passes", "cost"} <= ledger.keys():
        return RUN if (folder / "recipe.yaml").is_file() else None
    progress = _read(folder / "progress.json")
    return CHECKPOINT if isinstance(progress, dict) and progress.keys() == {"step", "log"} else None


def _manifest(folder: Path) -> dict | None:
    found = _read(folder / "manifest.json")
    ours = isinstance(found, dict) and str(found.get("format")).startswith(EXPORT_FORMAT)
    return found if ours else None


def files_in(folder: Path) -> list[str]:
    """Every file and link below `folder`, by its name from there with '/', but what Python caches."""
    found = []
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        if "__pycache__" in folders and "__pycache__" not in links:
            folders.remove("__pycache__")
        found += [(Path(place) / name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(found)


def strangers(folder: Path, overwrite: bool = False) -> list[str]:
    """The files below a folder of ours that its maker did not write.

    Args:
        folder: A folder of any kind of ours.
        overwrite: Count what other commands of ours put into a run (exports, evaluations), too.

    Returns:
        Their names from `folder`, sorted; none of a folder that is unfinished.
    """
    kind, own = kind_of(folder), _read(folder / MARK_FILE)
    listed = own.get("files") if isinstance(own, dict) else []
    if kind not in (RUN, EXPORT) or not isinstance(listed, list):
        return []  # without a list it is not finished, and its writer's alone
    known = {MARK_FILE, *map(str, listed)}
    names = [name for name in files_in(folder) if name not in known]
    if kind == EXPORT:
        manifest = _manifest(folder) or {}
        return [name for name in names if not _is_exported(name, manifest)]
    return _of_others(folder, names, overwrite or not listed)


def _of_others(run: Path, names: list[str], ours_too: bool) -> list[str]:
    """`names` without those that exports and evaluations within the run account for, where those
    count as ours.
    """
    if not ours_too:
        return names
    names = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in RUN_NAMES)]
    left = []
    own_folders: dict[str, set[str]] = {}
    for name in names:
        top = name.partition("/")[0]
        if top not in own_folders:
            inner = run / top
            ours = kind_of(inner) in (EXPORT, SCRATCH)
            own_folders[top] = set(files_in(inner)) - set(strangers(inner)) if ours else set()
        path = Path(name)
        in_evaluation = top == "eval" and (
            path.name in EVAL_NAMES or path.parent.name == "restored"
        )
        if not in_evaluation and name.partition("/")[2] not in own_folders[top]:
            left.append(name)
    return left


def _is_exported(name: str, manifest: dict) -> bool:
    listed, graphs = manifest.get("files"), manifest.get("graphs")
    named = set(listed) if isinstance(listed, dict) else set()
    for graph in graphs.values() if isinstance(graphs, dict) else ():
        if isinstance(graph, dict):  # an engine, which is built where it runs
            named |= {str(graph.get("engine")), str(graph.get("file"))}
    return name in named or any(fnmatchcase(name, pattern) for pattern in EXPORT_NAMES)
