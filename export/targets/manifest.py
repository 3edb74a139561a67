"""manifest.json of an exported folder: all that an application has to know, and run.py beside it that knows it."""

import json
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from compress import __version__, photographs
from compress.core.files import write_text
from compress.core.marks import MARK_FILE
from compress.model.sr_model import MARGIN, SCALE, SRModel
from compress.process import strips
from compress.recipe.run_files import read_manifest
from export.graphs.export_onnx import summary
from export.targets import host
from export.targets.described import exported_modules, host_steps, learned
from export.targets.host.folder import FORMAT, sha256
from export.targets.needs import install, needs
from export.targets.parts import Exported, Options, Parts

if TYPE_CHECKING:
    from export.targets import Target

HOST_FILE, HOST_FOLDER, MANIFEST_FILE = "run.py", "host", "manifest.json"
OVERLAP = 32  # low-resolution pixels that tiles share


def files(folder: Path) -> dict[str, dict]:
    """Size and checksum of every file below `folder` but the manifest itself, what is measured later, and the mark
    of a folder that is being written."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        made_later = (
            name in (MANIFEST_FILE, MARK_FILE, "parity.json", "drift.json")
            or "__pycache__" in path.parts
        )
        if path.is_file() and not made_later:
            found[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    return found


def tools(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of the packages that took part; one that is not installed here is left out."""
    found = {"diffusion-sr-compress": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", *names):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@torch.no_grad()
def interface(parts: Parts, stem: str, dtype: str = "float32") -> dict[str, list[dict]]:
    """Inputs and outputs of a graph, with the ranges that calibration images gave."""
    source, result = parts.names(stem)
    inputs = parts.inputs(stem)
    outputs = [parts.module(stem)(x) for x in inputs[:4]]

    def entry(name: str, tensors: list[torch.Tensor]) -> dict:
        seen = [min(t.min().item() for t in tensors), max(t.max().item() for t in tensors)]
        shape = list(tensors[0].shape)
        free = shape[:2] + ["height", "width"] if parts.options.dynamic else shape
        bounds = (
            {"range": [0.0, 1.0]}
            if name in ("lr", "sr")
            else {"observed": [round(v, 6) for v in seen]}
        )
        return {
            "name": name,
            "shape": free,
            "example_shape": shape,
            "dtype": dtype,
            "layout": "NCHW",
            **bounds,
        }

    return {"inputs": [entry(source, inputs)], "outputs": [entry(result, outputs)]}


def tiles_fix(model: SRModel) -> str:
    """The name of the colour correction of an image that was made of several tiles."""
    return (
        model.colour_fix
        if model.colour_fix == "none"
        else model.tiling.colour_fix or model.colour_fix
    )


def copy_host(folder: Path) -> None:
    """Put the stand-alone program into `folder`: run.py, and host/ with what it shares of `compress`."""
    target = folder / HOST_FOLDER
    shared = target / Path(photographs.__file__).parent.name
    shared.mkdir(parents=True)
    for path in sorted(Path(host.__file__).parent.glob("*.py")):
        shutil.copyfile(path, (folder if path.name == HOST_FILE else target) / path.name)
    for path in sorted(Path(photographs.__file__).parent.glob("*.py")):
        shutil.copyfile(path, shared / path.name)
    shutil.copyfile(strips.__file__, target / Path(strips.__file__).name)


def write(parts: Parts, made: Exported, folder: Path, options: Options, target: "Target") -> Path:
    """Write manifest.json, run.py and host/ into `folder`, whose other files are complete."""
    copy_host(folder)
    model, versions = parts.model, needs(parts.target, made.graphs)
    described = {
        stem: {**interface(parts, stem), "precision": parts.dtype, **entry}
        for stem, entry in made.graphs.items()
    }
    data = {
        "format": FORMAT,
        "model_sha256": options.model_sha256,
        "target": parts.target,
        "dtype": parts.dtype,
        "components": list(parts.stems),
        "scale": SCALE,
        "lr_size": list(options.lr_size),
        "dynamic": options.dynamic,
        "install": install(parts.target, versions),
        "needs": versions,
        "graphs": described,
        "quantisation": {
            "layers": summary(exported_modules(parts)),
            "learned": learned(parts),
            **made.quantisation,
        },
        "host": {
            "does": host_steps(parts, model.colour_fix, tiles_fix(model)),
            "clean_latent": parts.clean_latent,
            "colour_fix": model.colour_fix,
            "colour_fix_of_tiles": tiles_fix(model),
            "overlap": OVERLAP,
            "align": parts.align,
            "margin": model.tiling.margin or MARGIN,
            "smallest": 2 * model.multiple,
        },
        "calibration": {
            "data": options.calibration,
            "images": options.images,
            "seed": options.seed,
        },
        "tools": tools(made.tools),
        "files": files(folder),
    }
    path = folder / MANIFEST_FILE
    write_text(path, json.dumps(data, indent=1) + "\n")
    return path


def refresh(made: Exported, folder: Path) -> None:
    """Bring the manifest up to what a runner added or changed: times, and graphs that it compiled anew."""
    path = folder / MANIFEST_FILE
    data = read_manifest(folder)
    for stem, entry in made.graphs.items():
        data["graphs"][stem] |= entry
    data["files"] = files(folder)
    write_text(path, json.dumps(data, indent=1) + "\n")
