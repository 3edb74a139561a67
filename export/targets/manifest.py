"""manifest.json of an exported folder: all that an application has to know.

run.py beside it is a program that knows it.
"""

import json
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from compress import __version__, photographs
from compress.core.files import write_text
from compress.core.marks import MARK_FILE
from compress.model.references import fingerprint
from compress.model.sr_model import MARGIN, SCALE, SRModel
from compress.process import knobs, matching, strength, strips, walks
from compress.recipe.run_files import read_manifest
from export.graphs.components import Tensors, outputs_of
from export.graphs.layers import summary
from export.kit import write as kit
from export.targets import host
from export.targets.contract import Exported, Parts
from export.targets.described import exported_modules, host_steps, learned
from export.targets.host.folder import FORMAT, sha256
from export.targets.needs import install, needs
from export.targets.phones import choose_phone, described

PROGRAM_FILE, PROGRAM_FOLDER, MANIFEST_FILE = "run.py", "host", "manifest.json"
WRITTEN_LATER = (MANIFEST_FILE, MARK_FILE, "parity.json", "drift.json", "profile.json")
OVERLAP = 32  # low-resolution pixels that tiles share
OBSERVED_IMAGES = 4  # that give the ranges of outputs
DIGITS = 6  # of observed ranges
IMAGES = ("lr", "sr")  # names of tensors that are in [0, 1]


def files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and checksum of every file below `folder`, by its relative path.

    The manifest itself, what is measured later, and the mark of a folder that is being written are
    left out.
    """
    listed = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name in WRITTEN_LATER or "__pycache__" in path.parts:
            continue
        listed[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    return listed


def tools(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of the packages that took part; one that is not installed here is left out."""
    versions = {"diffusion-sr-compress": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", *names):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


@torch.no_grad()
def interface(parts: Parts, stem: str) -> dict[str, list[dict[str, Any]]]:
    """The inputs and outputs of a graph, with the ranges that calibration images gave."""
    spec = parts.spec(stem)
    inputs = parts.tuples(stem)
    module = parts.module(stem)
    outputs = [outputs_of(module, x) for x in inputs[:OBSERVED_IMAGES]]
    return {
        "inputs": _entries(parts, spec.inputs, inputs),
        "outputs": _entries(parts, spec.outputs, outputs),
    }


def _entries(parts: Parts, names: tuple[str, ...], tuples: list[Tensors]) -> list[dict[str, Any]]:
    return [
        _tensor_entry(parts, name, list(tensors))
        for name, tensors in zip(names, zip(*tuples, strict=True), strict=True)
    ]


def _tensor_entry(parts: Parts, name: str, tensors: list[torch.Tensor]) -> dict[str, Any]:
    wiring = parts.model.wiring
    shape: list[Any] = list(tensors[0].shape)
    least = min(tensor.min().item() for tensor in tensors)
    most = max(tensor.max().item() for tensor in tensors)
    is_map = name in wiring.ratios or name in IMAGES
    entry: dict[str, Any] = {
        "name": name,
        "shape": [*shape[:2], "height", "width"] if parts.options.dynamic and is_map else shape,
        "example_shape": shape,
        "dtype": str(tensors[0].dtype).removeprefix("torch."),
    }
    if is_map or name in wiring.images:
        entry["layout"] = "NCHW"
    if name in IMAGES or name in wiring.images:
        return {**entry, "range": [0.0, 1.0]}
    return {**entry, "observed": [round(least, DIGITS), round(most, DIGITS)]}


def tiles_fix(model: SRModel) -> str:
    """The name of the colour correction of an image that was made of several tiles."""
    if model.colour_fix == "none":
        return model.colour_fix
    return model.tiling.colour_fix or model.colour_fix


def copy_host(folder: Path) -> None:
    """Put the stand-alone program into `folder`: run.py, and host/ with what it shares."""
    target = folder / PROGRAM_FOLDER
    photographs_folder = Path(str(photographs.__file__)).parent
    shared = target / photographs_folder.name
    shared.mkdir(parents=True)
    for path in sorted(Path(str(host.__file__)).parent.glob("*.py")):
        place = folder if path.name == PROGRAM_FILE else target
        shutil.copyfile(path, place / path.name)
    for path in sorted(photographs_folder.glob("*.py")):
        shutil.copyfile(path, shared / path.name)
    for module in (strips, matching, strength, knobs, walks):
        file = Path(str(module.__file__))
        shutil.copyfile(file, target / file.name)


def _host_section(parts: Parts) -> dict[str, Any]:
    """What a host program does around the graphs, with its numbers."""
    model = parts.model
    process = parts.process
    if "references" in process:
        process["references"]["made_by"] = fingerprint(model)
    return {
        "does": host_steps(parts, model.colour_fix, tiles_fix(model)),
        **process,
        "colour_fix": model.colour_fix,
        "colour_fix_of_tiles": tiles_fix(model),
        "overlap": OVERLAP,
        "align": parts.align,
        "margin": model.tiling.margin or MARGIN,
        "smallest": 2 * model.multiple,
    }


def write(parts: Parts, made: Exported, folder: Path, model_sha256: str | None) -> Path:
    """Write manifest.json, run.py, host/ and, where asked for, kit/ into a complete `folder`.

    Args:
        parts: What was exported.
        made: What the target made of it.
        folder: Where it lies.
        model_sha256: Of the file that the model was read from.

    Returns:
        The manifest's path.
    """
    copy_host(folder)
    options = parts.options
    versions = needs(parts.target, made.graphs)
    graphs = {
        stem: {**interface(parts, stem), "precision": parts.dtype, **entry}
        for stem, entry in made.graphs.items()
    }
    data: dict[str, Any] = {
        "format": FORMAT,
        "model_sha256": model_sha256,
        "target": parts.target,
        "dtype": parts.dtype,
        "components": list(parts.stems),
        "scale": SCALE,
        "lr_size": list(options.lr_size),
        "dynamic": options.dynamic,
        "install": install(parts.target, versions),
        "needs": versions,
        "graphs": graphs,
        **({"web": made.page} if made.page else {}),
        **({"for": described(choose_phone(options.phone))} if options.phone else {}),
        "quantisation": {
            "layers": summary(exported_modules(parts)),
            "learned": learned(parts),
            **made.quantisation,
        },
        "host": _host_section(parts),
        "calibration": {
            "data": options.calibration,
            "images": options.images,
            "seed": options.seed,
        },
        "tools": tools(made.tools),
    }
    if options.kit:
        kit.write(data, folder)
    data["files"] = files(folder)
    path = folder / MANIFEST_FILE
    _write_json(path, data)
    return path


def refresh(made: Exported, folder: Path) -> None:
    """Bring the manifest up to what a runner added or changed: times, and new graphs."""
    data = read_manifest(folder)
    for stem, entry in made.graphs.items():
        data["graphs"][stem] |= entry
    data["files"] = files(folder)
    _write_json(folder / MANIFEST_FILE, data)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    write_text(path, json.dumps(data, indent=1) + "\n")
