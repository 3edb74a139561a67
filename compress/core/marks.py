"""What makes a folder ours, and which of the files in it are.

The mark is MARK_FILE while a folder is written and in every finished run, manifest.json in an
export, and ledger.json beside recipe.yaml in a run that an older version left.
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
SCRATCH, IMAGES, BASELINES, FRONT = "scratch", "images", "baselines", "front"
MAKERS = {
    RUN: "compress.run",
    EXPORT: "export.run",
    CHECKPOINT: "a training",
    IMAGES: "eval.run --save",
    BASELINES: "export.baselines",
    FRONT: "eval.front",
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
MOST_BYTES = 2**26  # of a mark: a larger file is none
LEDGER_KEYS = {"name", "recipe", "passes", "cost"}
# Keys of progress.json in checkpoints that older versions left without a mark. Only some of those
# versions wrote the second set.
PROGRESS_KEYS = {"step", "log"}
MORE_PROGRESS_KEYS = {"steps"}
CACHES = "__pycache__"  # a folder that Python makes where it likes


def mark(folder: Path, kind: str, files: list[str] | None = None) -> None:
    """Say in `folder` that it is ours and, with `files`, what was written into it."""
    data: dict[str, Any] = {"format": FORMAT, "kind": kind}
    if files is not None:
        data["files"] = files
    write_text(folder / MARK_FILE, json.dumps(data, indent=1) + "\n")


def _read_mapping(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file; an empty one where there is no such file."""
    try:
        if file.is_symlink() or not file.is_file() or file.stat().st_size > MOST_BYTES:
            return {}
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def kind_of(folder: Path) -> str | None:
    """What kind of folder of ours this is, by its mark; None for every other."""
    folder = Path(folder)
    if folder.is_symlink() or not folder.is_dir():
        return None
    own = _read_mapping(folder / MARK_FILE)
    if own.get("format") == FORMAT:
        return str(own.get("kind"))
    if _read_manifest(folder):
        return EXPORT
    if _read_mapping(folder / "ledger.json").keys() >= LEDGER_KEYS:
        return RUN if (folder / "recipe.yaml").is_file() else None
    keys = _read_mapping(folder / "progress.json").keys()
    is_checkpoint = keys - MORE_PROGRESS_KEYS == PROGRESS_KEYS
    return CHECKPOINT if is_checkpoint else None


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export; empty where `folder` is none."""
    manifest = _read_mapping(folder / "manifest.json")
    return manifest if str(manifest.get("format")).startswith(EXPORT_FORMAT) else {}


def files_in(folder: Path) -> list[str]:
    """Every file and link below `folder` but what Python caches.

    Returns:
        Their names from `folder` with '/', sorted.
    """
    names = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        if CACHES in folders and CACHES not in links:
            folders.remove(CACHES)
        for name in [*files, *links]:
            names.append((here / name).relative_to(folder).as_posix())
    return sorted(names)


def strangers(folder: Path, overwrite: bool = False) -> list[str]:
    """The files below a folder of ours that its maker did not write.

    Args:
        folder: A folder of any kind of ours.
        overwrite: Count what other commands of ours put into a run (exports, evaluations), too.

    Returns:
        Their names from `folder`, sorted; none of a folder that is unfinished.
    """
    kind = kind_of(folder)
    own = _read_mapping(folder / MARK_FILE)
    listed = own.get("files") if own else []
    if kind not in (RUN, EXPORT) or not isinstance(listed, list):
        return []  # without a list it is not finished, and its writer's alone
    known = {MARK_FILE, *map(str, listed)}
    names = [name for name in files_in(folder) if name not in known]
    if kind == EXPORT:
        exported = _exported_names(_read_manifest(folder))
        return [name for name in names if name not in exported and not _fits(name, EXPORT_NAMES)]
    if listed and not overwrite:
        return names
    return _without_outputs(folder, [name for name in names if not _fits(name, RUN_NAMES)])


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _without_outputs(run: Path, names: list[str]) -> list[str]:
    """`names` without those that exports and evaluations within the run account for."""
    left = []
    own_files: dict[str, set[str]] = {}
    for name in names:
        top, _, inner = name.partition("/")
        if top not in own_files:
            own_files[top] = _own_files(run / top)
        in_evaluation = top == "eval" and _is_evaluation(Path(name))
        if not in_evaluation and inner not in own_files[top]:
            left.append(name)
    return left


def _own_files(folder: Path) -> set[str]:
    """What the maker of an export or a scratch folder wrote there; none of any other folder."""
    if kind_of(folder) not in (EXPORT, SCRATCH):
        return set()
    return set(files_in(folder)) - set(strangers(folder))


def _is_evaluation(path: Path) -> bool:
    return path.name in EVAL_NAMES or path.parent.name == "restored"


def _exported_names(manifest: dict[str, Any]) -> set[str]:
    """The files that a manifest lists, and the engines that are built where they run."""
    files = manifest.get("files")
    names = set(files) if isinstance(files, dict) else set()
    graphs = manifest.get("graphs")
    for graph in graphs.values() if isinstance(graphs, dict) else ():
        if isinstance(graph, dict):
            names |= {str(graph.get("engine")), str(graph.get("file"))}
    return names
