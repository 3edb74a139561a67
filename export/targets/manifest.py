"""manifest.json of an exported folder: all that an application has to know, and run.py beside it that knows it."""

import hashlib
import json
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from compress import __version__
from compress.model import MARGIN, SCALE, SRModel
from compress.process import strips
from export.onnx import summary
from export.targets import host
from export.targets.parts import Exported, Options, Parts

if TYPE_CHECKING:
    from export.targets import Target

FORMAT = "diffusion-sr-compress/export/1"
HOST_FILE, HOST_FOLDER, MANIFEST_FILE = "run.py", "host", "manifest.json"
OVERLAP = 32    # low-resolution pixels that tiles share
RUN_WITH = {"onnx": "onnxruntime", "qnn": "onnxruntime onnxruntime-qnn==2.7.0", "tensorrt": "tensorrt cuda-python",
            "openvino": "openvino", "executorch": "executorch", "litert": "ai-edge-litert", "coreml": "coremltools",
            "ncnn": "ncnn"}


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def files(folder: Path) -> dict[str, dict]:
    """Size and checksum of every file below `folder` but the manifest itself and what is measured later."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        made_later = name in (MANIFEST_FILE, "parity.json", "drift.json") or "__pycache__" in path.parts
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
        bounds = {"range": [0.0, 1.0]} if name in ("lr", "sr") else {"observed": [round(v, 6) for v in seen]}
        return {"name": name, "shape": free, "example_shape": shape, "dtype": dtype, "layout": "NCHW", **bounds}

    return {"inputs": [entry(source, inputs)], "outputs": [entry(result, outputs)]}


def placement(parts: Parts) -> str:
    """The label of a quantised model's placement; `none` for floats."""
    if not parts.quantised:
        return "none"
    full = any(hasattr(getattr(parts.model, name, None), "points") for name in ("encoder", "denoiser", "decoder"))
    return "by the toolkit's quantize pass: " + ("every tensor between operators, or attention" if full else
                                                 "inputs and weights of convolutions and linear layers")


def tiles_fix(model: SRModel) -> str:
    """The name of the colour correction of an image that was made of several tiles."""
    return model.colour_fix if model.colour_fix == "none" else model.tiling.colour_fix or model.colour_fix


def copy_host(folder: Path) -> None:
    """Put the stand-alone program into `folder`: run.py and the package host/."""
    modules = Path(host.__file__).parent
    (folder / HOST_FOLDER).mkdir()
    for path in sorted(modules.glob("*.py")):
        target = folder if path.name == HOST_FILE else folder / HOST_FOLDER
        shutil.copyfile(path, target / path.name)
    shutil.copyfile(strips.__file__, folder / HOST_FOLDER / Path(strips.__file__).name)


def write(parts: Parts, made: Exported, folder: Path, options: Options, target: "Target") -> Path:
    """Write manifest.json, run.py and host/ into `folder`, whose other files are complete."""
    copy_host(folder)
    model = parts.model
    described = {stem: {**interface(parts, stem), "precision": parts.dtype, **entry}
                 for stem, entry in made.graphs.items()}
    data = {
        "format": FORMAT, "target": parts.target, "dtype": parts.dtype, "components": list(parts.stems), "scale": SCALE,
        "lr_size": list(options.lr_size), "dynamic": options.dynamic,
        "install": f"pip install {RUN_WITH[parts.target]} numpy pillow",
        "graphs": described,
        "quantisation": {"layers": summary(model), "learned": placement(parts), **made.quantisation},
        "host": {
            "does": ["8-bit RGB to float in [0, 1], NCHW",
                     "reflection by `margin` pixels beyond all edges, and at the lower and right edge on to whole tiles; "
                     "without it the outermost pixels are wrong (margin 0: fewer tiles, among them one for an image of "
                     "lr_size)",
                     "tiles of lr_size that share `overlap` pixels, at multiples of `align`, blended with Gaussian weights",
                     "between denoiser and decoder: clean_latent = latent * a + prediction * b, in float32",
                     "the colour correction (of tiles, where there are several) over the whole image, then a clamp"],
            "clean_latent": parts.clean_latent, "colour_fix": model.colour_fix,
            "colour_fix_of_tiles": tiles_fix(model), "overlap": OVERLAP, "align": parts.align,
            "margin": model.tiling.margin or MARGIN,
            "smallest": 2 * model.multiple},
        "calibration": {"data": options.calibration, "images": options.images, "seed": options.seed},
        "tools": tools(made.tools), "files": files(folder)}
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(data, indent=1) + "\n")
    return path


def refresh(made: Exported, folder: Path) -> None:
    """Bring the manifest up to what a runner added or changed: times, and graphs that it compiled anew."""
    path = folder / MANIFEST_FILE
    data = json.loads(path.read_text())
    for stem, entry in made.graphs.items():
        data["graphs"][stem] |= entry
    data["files"] = files(folder)
    path.write_text(json.dumps(data, indent=1) + "\n")
