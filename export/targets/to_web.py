"""A page that upscales photographs in a browser, from its own origin: onnxruntime-web.

    index.html, *.js ...    the page, as export/targets/page has it
    engine/                 onnxruntime-web
    wasm/STEM.onnx          for CPUs: float32, or the codes of a quantised model
    webgpu/DTYPE/STEM.onnx  for GPUs: float16, and 8-bit weights with float32 activations

Integers in the manner of Q/DQ are no use to a browser's GPU: onnxruntime places each QuantizeLinear
on the CPU, between two copies.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from compress.core.errors import UserError
from compress.routing.knobs import own_knobs
from export.graphs.storage import load_graph
from export.parity.measure import unrounded
from export.targets.contract import Exported, Parts, Variant
from export.targets.float16 import as_float16
from export.targets.onnx_files import manifest_entry, replace_file
from export.targets.parts import check_no_packed_weights
from export.targets.ranges import lift
from export.targets.to_onnx import PACKAGES, convert_file, describe_codes, float_graphs
from export.targets.web_engine import (
    ENGINE_FOLDER,
    ENGINES,
    PAGE,
    copy_engine,
    find_engine,
    pinned,
)
from export.targets.weight_only import as_weight_only

WASM, WEBGPU = "wasm", "webgpu"
NOT_SERVED = ("package.json",)
LEAST_DB = {"fp16": 45.0, "w8": 40.0}
OWN_CODES_DB = 60.0  # of w8 files that hold the codes of a quantised model
MOST_BYTES = 2**29  # of one graph: a browser holds it twice while it loads
MOST_PIXELS = 2**20  # of a photograph, unless it is shrunk or cropped before
DIGITS = 16  # of the page's version


def check_page(parts: Parts) -> None:
    """Refuse a model that the page does not know how to run.

    Raises:
        UserError: It takes further images, or its tiles take steps of their own.
    """
    check_no_packed_weights(parts)
    if parts.model.wiring.images:
        names = ", ".join(parts.model.wiring.images)
        raise UserError(
            f"target web upscales one photograph, and this model also takes {names}; choose onnx"
        )
    if parts.model.process.adaptive:
        raise UserError(
            "target web has a fixed number of steps, and this model chooses it for each tile; "
            "choose onnx"
        )
    if not parts.are_whole and parts.options.components:
        raise UserError("target web needs all parts of a model; leave out --component")


def write(parts: Parts, folder: Path) -> Exported:
    """Write the page, the engine and the graphs."""
    check_page(parts)
    engine = find_engine(parts.options.engine_dir)
    wasm = folder / WASM
    paths = float_graphs(parts, wasm, rewrites=parts.options.rewrite)
    variants = [_half(parts, folder, paths), _weights(parts, folder, paths)]
    for path in paths.values():
        convert_file(path, parts)
    graphs = {stem: _entry(path, folder) for stem, path in paths.items()}
    _check_sizes(folder)
    for path in sorted(PAGE.iterdir()):
        if path.is_file() and path.name not in NOT_SERVED:
            shutil.copyfile(path, folder / path.name)
    version = copy_engine(engine, folder)
    notes = []
    if version != pinned():
        notes.append(f"onnxruntime-web is {version}; the page was tried with {pinned()}")
    own = own_knobs(parts.model.process)
    if own:
        notes.append(
            f"the page's knob of realism is the blend of outputs alone, not {', '.join(own)}"
        )
    models = [_model(WEBGPU, variant.dtype, variant.graphs) for variant in variants]
    models.append(_model(WASM, parts.dtype, graphs))
    page = {
        "version": _digest(folder),
        "onnxruntime_web": version,
        "engines": {
            name: [f"{ENGINE_FOLDER}/{file}" for file in files] for name, files in ENGINES.items()
        },
        "models": models,
        "most_pixels": MOST_PIXELS,
    }
    return Exported(
        graphs, PACKAGES, describe_codes(parts), notes=notes, variants=variants, page=page
    )


def _model(engine: str, dtype: str, graphs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the page knows of the graphs for one engine; float16 needs a GPU that computes in it."""
    return {
        "engine": engine,
        "dtype": dtype,
        "feature": "shader-f16" if dtype == "fp16" else None,
        "files": {stem: graph["file"] for stem, graph in graphs.items()},
    }


def _entry(path: Path, folder: Path) -> dict[str, Any]:
    """The manifest's entry of a file, by its path below the exported folder."""
    return {**manifest_entry(path), "file": path.relative_to(folder).as_posix()}


def _half(parts: Parts, folder: Path, paths: dict[str, Path]) -> Variant:
    """The graphs in float16; of a quantised model with its weights, which lie on their grids."""
    made = _copies(parts, folder / WEBGPU / "fp16", paths)
    for path in made.values():
        if parts.quantised:
            model = load_graph(path)
            lift(model)
            replace_file(model, path)
        as_float16(path)
    return _variant("fp16", LEAST_DB["fp16"], made, folder)


def _weights(parts: Parts, folder: Path, paths: dict[str, Path]) -> Variant:
    """The graphs with weights of 8 bits: a quantised model's own codes, or the nearest ones."""
    made = _copies(parts, folder / WEBGPU / "w8", paths)
    if parts.quantised:
        return _variant("w8", OWN_CODES_DB, made, folder)
    for path in made.values():
        as_weight_only(path)
    return _variant("w8", LEAST_DB["w8"], made, folder)


def _copies(parts: Parts, target: Path, paths: dict[str, Path]) -> dict[str, Path]:
    """The graphs with activations in float32, in a folder of their own."""
    if parts.quantised:
        with unrounded(parts.model):
            return float_graphs(parts, target, rewrites=parts.options.rewrite)
    target.mkdir(parents=True)
    made = {}
    for stem, path in paths.items():
        made[stem] = target / path.name
        shutil.copyfile(path, made[stem])
    return made


def _variant(dtype: str, least_db: float, paths: dict[str, Path], folder: Path) -> Variant:
    graphs = {stem: _entry(path, folder) for stem, path in paths.items()}
    return Variant(f"{WEBGPU}/{dtype}", dtype, graphs, least_db)


def _check_sizes(folder: Path) -> None:
    """Raise UserError for a graph that no browser loads."""
    for path in folder.rglob("*.onnx*"):
        size = path.stat().st_size
        if size > MOST_BYTES or path.suffix == ".data":
            raise UserError(
                f"{path.name} has {size:,} bytes, and a browser loads {MOST_BYTES:,} at most; "
                "compress the model further, or choose onnx"
            )


def _digest(folder: Path) -> str:
    """One name for what the page serves, so that a browser knows when it has changed."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(path.relative_to(folder).as_posix().encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:DIGITS]
