"""The graphs of an exported folder as devices take them."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.core.errors import UserError
from export.targets.host.chain import stages
from export.targets.host.runtimes import STORED
from export.targets.host.tiles import WHOLE
from export.timing.folders import read_manifest


@dataclass(frozen=True)
class Graph:
    """One graph of an exported folder.

    Attributes:
        part: Its stem, such as `denoiser`.
        file: The file that a runtime opens.
        beside: Files that it reads: weights of their own, or a context binary.
        sha256: Of `file`, by the manifest.
        calls: How often a tile calls it.
    """

    part: str
    file: Path
    beside: tuple[Path, ...]
    sha256: str
    calls: int

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(path.stat().st_size for path in (self.file, *self.beside))


def graphs_of(folder: Path) -> tuple[str, list[Graph]]:
    """The target of an exported folder, and its graphs in running order.

    What is stored as numbers is no graph and is left out. So is the whole model where its parts
    are there, as run.py does.

    Raises:
        UserError: There is no manifest, or a file that it names is missing.
    """
    manifest = read_manifest(folder)
    calls = calls_of(manifest)
    graphs = []
    has_parts = any(part != WHOLE for part in manifest["graphs"])
    for part, entry in manifest["graphs"].items():
        if entry.get("format") == STORED or (part == WHOLE and has_parts):
            continue
        names = [entry["file"], *([entry["data"]] if "data" in entry else [])]
        names += entry.get("binaries", [])
        for name in names:
            if not (folder / name).is_file():
                raise UserError(f"{folder}: has no {name}, which its manifest names; export again")
        file, *beside = (folder / name for name in names)
        sha256 = manifest["files"][entry["file"]]["sha256"]
        graphs.append(Graph(part, file, tuple(beside), sha256, calls.get(part, 1)))
    return manifest["target"], graphs


def calls_of(manifest: dict[str, Any]) -> dict[str, int]:
    """How often a tile calls each graph that is called at each step, or between the steps."""
    host = manifest.get("host", {})
    steps = len(host.get("steps", ())) or 1
    calls = dict.fromkeys(host.get("each_step", ()), steps)
    if host.get("between"):
        before, _, after = stages(manifest) or ((), (), ())
        for call in host["between"]:
            name = call["graph"]
            calls.setdefault(name, int(name in {*before, *after}))
            calls[name] += steps - 1
    return calls


def bundle(graph: Graph, place: Path) -> Path:
    """One path that holds a graph whole, as AI Hub takes it.

    Args:
        graph: The graph.
        place: An empty folder for copies.

    Returns:
        Its file; or a folder NAME.onnx in `place` with the file and what lies beside it.
    """
    if not graph.beside:
        return graph.file
    folder = place / f"{graph.part}.onnx"
    folder.mkdir()
    for path in (graph.file, *graph.beside):
        shutil.copyfile(path, folder / path.name)
    return folder
