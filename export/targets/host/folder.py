"""The exported folder: its manifest, and that its files are those that were exported."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

MANIFEST = "manifest.json"
FORMAT = "diffusion-sr-compress/export/1"
AGAIN = "copy the folder again, or export it again"
BLOCK = 2**22  # bytes that are read at a time
# Key of the manifest: its type. tiles.py, chain.py and runtimes.py rely on these.
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
OPTIONAL = {
    "images": dict,
    "each_step": list,
    "adaptive": dict,
    "references": dict,
    "noise": list,
    "between": list,
}
BETWEEN = {"graph": str, "instead": dict, "makes": dict}
REFERENCES = {"places": int, "size": list, "kept": dict, "made_by": str}
ADAPTIVE = {
    "regressor": str,
    "places": int,
    "timesteps": list,
    "clean": list,
    "whole_path": bool,
    "skips": dict,
    "intervals": list,
    "tau": float,
    "first": int,
    "leave": bool,
    "weights": list,
}
INTERVALS = 4
LEAST = {"overlap": 0, "align": 1, "smallest": 1, "margin": 0}
FACTORS = {"latent": float, "prediction": float}  # a model without steps has one value
TENSOR = {"name": str, "shape": list, "example_shape": list}


class FolderError(Exception):
    """The exported folder is damaged; the message is one sentence with the remedy."""


def read(folder: Path) -> dict:
    """manifest.json of `folder`, checked for what the program takes from it.

    Raises:
        FolderError: It is missing, not JSON, of another format, or lacks something.
    """
    path = folder / MANIFEST
    data = _parse(path)
    _check_types(path, "", data, NEEDED)
    _check_host(path, data["host"])
    if data["scale"] < 1:
        raise _damaged(path, f"scale is {data['scale']}")
    sides = data["lr_size"]
    if len(sides) != 2 or not _are_sides(sides):
        raise _damaged(path, f"lr_size is {sides!r}, not two sides in pixels")
    for name, graph in data["graphs"].items():
        if not _is_listed(graph, data["files"]):
            raise _damaged(path, f"graph {name} names no file that 'files' lists")
        _check_tensor(path, f"graphs.{name}.inputs", graph.get("inputs"))
        _check_tensor(path, f"graphs.{name}.outputs", graph.get("outputs"))
    return data


def _damaged(path: Path, what: str) -> FolderError:
    return FolderError(f"{path} is damaged: {what}; {AGAIN}")


def _parse(path: Path) -> dict:
    """The manifest's mapping, of this program's format."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FolderError(f"{path} is missing; {AGAIN}") from None
    except OSError as error:
        raise FolderError(f"{path} cannot be read ({error.strerror}); {AGAIN}") from None
    except (ValueError, RecursionError):
        raise _damaged(path, "it is not JSON") from None
    its_format = data.get("format") if isinstance(data, dict) else type(data).__name__
    if not isinstance(data, dict) or its_format != FORMAT:
        raise FolderError(
            f"{path} is of format {its_format!r}, this program reads {FORMAT}; {AGAIN}"
        )
    return data


def _check_host(path: Path, host: dict) -> None:
    """What tiles.py takes from the manifest."""
    _check_types(path, "host.", host, HOST_NEEDED)
    factors = host["clean_latent"]
    expected = FACTORS if len(factors) != 1 else dict.fromkeys(factors, float)
    _check_types(path, "host.clean_latent.", factors, expected)
    _check_process(path, host)
    if "margin" in host:  # folders of before there was one have none
        _check_types(path, "host.", host, {"margin": int})
    for key, least in LEAST.items():
        if host.get(key, least) < least:
            raise _damaged(path, f"host.{key} is {host[key]}")


def _are_sides(sides: list) -> bool:
    """Whether all are numbers of pixels."""
    return all(type(side) is int and side > 0 for side in sides)


def _check_tensor(path: Path, where: str, entries: object) -> None:
    """The inputs or outputs of a graph: of each a name and two shapes of as many sides."""
    if not isinstance(entries, list) or not entries:
        raise _damaged(path, f"{where} is no list of tensors")
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise _damaged(path, f"{where} is no list of tensors")
        _check_types(path, f"{where}[{i}].", entry, TENSOR)
        shape, example = entry["shape"], entry["example_shape"]
        if len(shape) != len(example) or not _are_sides(example):
            raise _damaged(path, f"{where} has the shapes {shape} and {example}")


def _check_process(path: Path, host: dict) -> None:
    """What chain.py takes from the manifest of a model with further images, or several steps."""
    _check_types(path, "host.", host, {key: OPTIONAL[key] for key in OPTIONAL if key in host})
    for name, sides in host.get("images", {}).items():
        if not isinstance(sides, list) or len(sides) != 2 or not _are_sides(sides):
            raise _damaged(path, f"host.images.{name} is {sides!r}, not two sides in pixels")
    if "references" in host:
        _check_references(path, host["references"])
    if not host.get("each_step"):
        return
    _check_types(path, "host.", host, {"start": dict})
    _check_factors(path, "host.start", host["start"])
    if "adaptive" in host:
        _check_adaptive(path, host["adaptive"])
        return
    _check_types(path, "host.", host, {"steps": list})
    _check_between(path, host.get("between", []))
    for i, step in enumerate(host["steps"]):
        if not isinstance(step, dict):
            raise _damaged(path, f"host.steps.{i} is no step")
        _check_types(path, f"host.steps.{i}.", step, {"timestep": int, "factors": dict})
        _check_factors(path, f"host.steps.{i}.factors", step["factors"])
        _check_names(path, f"host.steps.{i}.instead", step.get("instead", {}))
        if "clean" in step or host.get("between"):
            _check_types(path, f"host.steps.{i}.", step, {"clean": dict})
            _check_factors(path, f"host.steps.{i}.clean", step["clean"])


def _check_between(path: Path, calls: list) -> None:
    """The calls between two steps."""
    for i, call in enumerate(calls):
        where = f"host.between.{i}"
        if not isinstance(call, dict):
            raise _damaged(path, f"{where} is no call")
        _check_types(path, f"{where}.", call, BETWEEN)
        _check_names(path, f"{where}.instead", call["instead"])
        _check_names(path, f"{where}.makes", call["makes"])


def _check_names(path: Path, where: str, names: object) -> None:
    """Names of values by names of values."""
    if not isinstance(names, dict) or not all(isinstance(other, str) for other in names.values()):
        raise _damaged(path, f"{where} is {names!r}, not names of values")


def _check_references(path: Path, references: dict) -> None:
    """What chain.py takes from the manifest of a model that refers to photographs."""
    where = "host.references"
    _check_types(path, f"{where}.", references, REFERENCES)
    for name, shape in references["kept"].items():
        if not isinstance(shape, list) or not shape or not _are_sides(shape):
            raise _damaged(path, f"{where}.kept.{name} is {shape!r}, not a shape")


def _check_adaptive(path: Path, table: dict) -> None:
    """What walking.py takes from the manifest of a model whose tiles take their own steps."""
    where = "host.adaptive"
    _check_types(path, f"{where}.", table, ADAPTIVE)
    intervals = table["intervals"]
    if len(intervals) != INTERVALS or not _are_sides([*intervals, table["first"]]):
        raise _damaged(path, f"{where}.intervals is {intervals!r}, not {INTERVALS} steps")
    if not len(table["timesteps"]) == len(table["clean"]) == table["places"]:
        raise _damaged(path, f"{where} has not {table['places']} timesteps and clean latents")
    for name, factors in [*enumerate(table["clean"]), *table["skips"].items()]:
        if not isinstance(factors, dict):
            raise _damaged(path, f"{where}.{name} holds no factors")
        _check_factors(path, f"{where}.{name}", factors)


def _check_factors(path: Path, where: str, factors: dict) -> None:
    _check_types(path, f"{where}.", factors, dict.fromkeys(factors, float))
    if not any(factors.values()):
        raise _damaged(path, f"{where} holds no factor")


def _is_listed(graph: object, files: dict) -> bool:
    """Whether a graph's file, or the files of its folder (Core ML), have a checksum."""
    file = graph.get("file") if isinstance(graph, dict) else None
    if not isinstance(file, str) or not file:
        return False
    return file in files or any(name.startswith(f"{file}/") for name in files)


def _check_types(path: Path, prefix: str, data: dict, needed: Mapping[str, type]) -> None:
    """Every key of `needed` must be in `data`, of its type. An int passes for a float."""
    for key, kind in needed.items():
        kinds = (int, float) if kind is float else (kind,)
        if key not in data:
            raise _damaged(path, f"{prefix}{key} is missing")
        if type(data[key]) not in kinds:
            raise _damaged(path, f"{prefix}{key} is no {kind.__name__}")


def verify(folder: Path, manifest: dict) -> None:
    """Compare every file with the size and sha256 in the manifest.

    Raises:
        FolderError: A file is missing, of another size or content, or outside the folder.
    """
    for name, entry in manifest["files"].items():
        path = folder / name
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            raise _damaged(folder / MANIFEST, f"files.{name} has no sha256")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise _damaged(folder / MANIFEST, f"it names {name}, outside the folder")
        if not path.is_file():
            raise FolderError(f"{path} is missing; {AGAIN}")
        size = path.stat().st_size
        if size != entry.get("bytes"):
            said = f"it has {size} bytes, the manifest says {entry.get('bytes')}"
            raise _damaged(path, said)
        if sha256(path) != entry["sha256"]:
            raise _damaged(path, "its sha256 is not the one in manifest.json")


def sha256(path: Path) -> str:
    """The digest of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
