"""The exported folder: its manifest, and that its files are those that were exported."""

import hashlib
import json
from pathlib import Path

MANIFEST = "manifest.json"
FORMAT = "diffusion-sr-compress/export/1"
AGAIN = "copy the folder again, or export it again"
BLOCK = 2**22
# Key of the manifest: its type. What follows from these is read by tiles.py and runtimes.py.
NEEDED = {
    "target": str,
    "components": list,
    "scale": int,
    "lr_size": list,
    "dynamic": bool,
    "install": str,
    "graphs": dict,
    "host": dict,
    "files": dict,
}
HOST_NEEDED = {
    "clean_latent": dict,
    "colour_fix": str,
    "colour_fix_of_tiles": str,
    "overlap": int,
    "align": int,
    "smallest": int,
}
FACTORS = {"latent": float, "prediction": float}
TENSOR = {"name": str, "shape": list, "example_shape": list}


class FolderError(Exception):
    """The exported folder is damaged; the message is one sentence with the remedy."""


def read(folder: Path) -> dict:
    """manifest.json of `folder`, checked for what the program takes from it.

    Raises:
        FolderError: It is missing, not JSON, of another format, or lacks something.
    """
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FolderError(f"{path} is missing; {AGAIN}") from None
    except OSError as error:
        raise FolderError(f"{path} cannot be read ({error.strerror}); {AGAIN}") from None
    except (ValueError, RecursionError):
        raise FolderError(f"{path} is damaged: it is not JSON; {AGAIN}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise FolderError(f"{path} is of format {found!r}, this program reads {FORMAT}; {AGAIN}")
    _check_types(path, "", data, NEEDED)
    _check_types(path, "host.", data["host"], HOST_NEEDED)
    _check_types(path, "host.clean_latent.", data["host"]["clean_latent"], FACTORS)
    if "margin" in data["host"]:  # folders of before there was one have none
        _check_types(path, "host.", data["host"], {"margin": int})
    least = {"overlap": 0, "align": 1, "smallest": 1, "margin": 0}
    for key, bound in least.items():
        if data["host"].get(key, bound) < bound:
            raise FolderError(f"{path} is damaged: host.{key} is {data['host'][key]}; {AGAIN}")
    if data["scale"] < 1:
        raise FolderError(f"{path} is damaged: scale is {data['scale']}; {AGAIN}")
    sides = data["lr_size"]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise FolderError(
            f"{path} is damaged: lr_size is {sides!r}, not two sides in pixels; {AGAIN}"
        )
    for name, graph in data["graphs"].items():
        if not _listed(graph, data["files"]):
            raise FolderError(
                f"{path} is damaged: graph {name} names no file that 'files' lists; {AGAIN}"
            )
        for side in ("inputs", "outputs"):
            _check_tensor(path, f"graphs.{name}.{side}", graph.get(side))
    return data


def _check_tensor(path: Path, where: str, entries: object) -> None:
    """The one input or output of a graph: a name and two shapes of as many sides."""
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        raise FolderError(f"{path} is damaged: {where} is no list of one tensor; {AGAIN}")
    _check_types(path, f"{where}[0].", entries[0], TENSOR)
    shape, example = entries[0]["shape"], entries[0]["example_shape"]
    if len(shape) != len(example) or not all(type(side) is int and side > 0 for side in example):
        raise FolderError(
            f"{path} is damaged: {where} has the shapes {shape} and {example}; {AGAIN}"
        )


def _listed(graph: object, files: dict) -> bool:
    """Whether a graph's file, or the files of its folder (Core ML), have a checksum."""
    file = graph.get("file") if isinstance(graph, dict) else None
    if not isinstance(file, str) or not file:
        return False
    return file in files or any(name.startswith(f"{file}/") for name in files)


def _check_types(path: Path, prefix: str, data: dict, needed: dict[str, type]) -> None:
    for key, kind in needed.items():
        kinds = (int, float) if kind is float else (kind,)
        if key not in data or type(data[key]) not in kinds:
            what = "is missing" if key not in data else f"is no {kind.__name__}"
            raise FolderError(f"{path} is damaged: {prefix}{key} {what}; {AGAIN}")


def verify(folder: Path, manifest: dict) -> None:
    """Compare every file with the size and sha256 in the manifest.

    Raises:
        FolderError: A file is missing, of another size or content, or outside the folder.
    """
    for name, entry in manifest["files"].items():
        path = folder / name
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            raise FolderError(
                f"{folder / MANIFEST} is damaged: files.{name} has no sha256; {AGAIN}"
            )
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise FolderError(
                f"{folder / MANIFEST} is damaged: it names {name}, outside the folder; {AGAIN}"
            )
        if not path.is_file():
            raise FolderError(f"{path} is missing; {AGAIN}")
        if path.stat().st_size != entry.get("bytes"):
            raise FolderError(
                f"{path} is damaged: it has {path.stat().st_size} bytes, the "
                f"manifest says {entry.get('bytes')}; {AGAIN}"
            )
        if sha256(path) != entry["sha256"]:
            raise FolderError(
                f"{path} is damaged: its sha256 is not the one in manifest.json; {AGAIN}"
            )


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
