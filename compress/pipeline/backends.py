"""What computes a photograph: torch, or the ONNX files of a run in onnxruntime.

A quantised model in torch is a simulation: floats that are rounded like integers. The files of RUN/onnx compute the
same several times faster. They are taken where they were verified against torch when they were exported, and are still
those files, and where they were exported from the model.safetensors that the run holds now. They run in tiles of the
size that they were exported for, by the program of an exported folder.
"""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from compress.core.errors import UserError
from compress.core.identity import file_digest
from compress.model.sr_model import MARGIN
from compress.recipe.checkpoint import MODEL_FILE, load_model

BACKENDS = ("auto", "onnxruntime", "torch")
FOLDER = "onnx"  # of a run, from `export: [{target: onnx}]`
PARTS = ("encoder", "denoiser", "decoder")


@dataclass(frozen=True)
class Backend:
    """`upscale` maps float32 [1, 3, h, w] in [0, 1] to uint8 [4h, 4w, 3]; `sentence` says what computes it and why."""

    name: str
    upscale: Callable[[np.ndarray], np.ndarray]
    sentence: str


def _read(path: Path) -> object:
    """The JSON in `path`, None where there is none or it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _manifest(folder: Path) -> dict | None:
    """The manifest of an export for onnxruntime, with all that tiles.py takes from it; None without."""
    from export.targets.host.folder import FolderError, read

    try:
        found = read(folder)
    except FolderError:
        return None
    return found if found["target"] == FOLDER else None


def _has_parity(rows: object) -> bool:
    """Whether these are rows of parity, each with what was measured."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return False
    return all(isinstance(row.get("psnr_db"), (int, float)) for row in rows)


def why_not(run: Path) -> str | None:
    """Why the ONNX files of `run` cannot be taken, as the second half of a sentence; None where they can."""
    folder = run / FOLDER
    if not run.is_dir():
        return f"{run} is a weight file, and ONNX files lie in a run directory"
    if not folder.is_dir():
        return (
            f"{run} holds no exported {FOLDER}/; python -m export.run {run} --target onnx makes it"
        )
    if (folder / "FAILED.txt").exists():
        return f"the files in {folder} failed their comparison with torch (FAILED.txt)"
    manifest, rows = _manifest(folder), _read(folder / "parity.json")
    if manifest is None:
        return (
            f"{folder / 'manifest.json'} is missing, damaged or of another target; export it again"
        )
    if not (run / MODEL_FILE).is_file():
        return f"{run} holds no {MODEL_FILE}, which {folder} was exported from"
    if manifest.get("model_sha256") != file_digest(run / MODEL_FILE):
        return (
            f"{folder} was not exported from the {MODEL_FILE} that {run} holds now; export it again"
        )
    if not _has_parity(rows) or not all(row.get("passed") is True for row in rows):
        return f"{folder / 'parity.json'} does not say that the files agree with torch; export them again"
    names = _graphs(manifest)
    if names is None:
        return f"{folder} holds no whole model; export it again without --component"
    changed = _changed(folder, manifest, names)
    if changed is not None:
        return f"{changed} is missing or is not the file that was exported; export it again"
    if importlib.util.find_spec("onnxruntime") is None:
        return "the package onnxruntime is not installed; run: pip install onnxruntime"
    return None


def _graphs(manifest: dict) -> list[str] | None:
    """The graphs to run: the three parts, else the whole model; None where there is neither."""
    graphs = manifest["graphs"]
    if all(name in graphs for name in PARTS):
        return list(PARTS)
    return ["model"] if "model" in graphs else None


def _changed(folder: Path, manifest: dict, names: list[str]) -> Path | None:
    """The first file of these graphs, or of data beside them, whose sha256 is not the manifest's."""
    from export.targets.host.folder import sha256

    files = manifest["files"]
    stems = tuple(f"{name}." for name in names)
    listed = [name for name in files if name.startswith(stems)]
    for name in {f"{stem}onnx" for stem in stems} | set(listed):
        entry, path = files.get(name), folder / name
        if not isinstance(entry, dict) or not path.is_file() or sha256(path) != entry.get("sha256"):
            return path
    return None


def _onnxruntime(run: Path) -> Backend:
    from export.targets.host import tiles
    from export.targets.host.runtimes import load
    from export.targets.host.strips import StripError

    folder = run / FOLDER
    manifest, rows = _manifest(folder), _read(folder / "parity.json")
    graphs = load(folder, _graphs(manifest))
    least = min(row["psnr_db"] for row in rows)
    height, width = manifest["lr_size"]

    def upscale(lr: np.ndarray) -> np.ndarray:
        try:
            return tiles.upscale_bytes(manifest, graphs, lr)
        except StripError as error:
            raise UserError(str(error)) from None

    return Backend(
        "onnxruntime",
        upscale,
        f"onnxruntime with {folder} ({manifest.get('dtype')}, tiles of {width}x{height}, verified: "
        f"{least:.1f} dB to torch at least); --backend torch for torch",
    )


def _torch(path: str, device: str, prepare: Callable | None, why: str) -> Backend:
    model = load_model(path).to(device)
    model.tiling = replace(
        model.tiling, margin=model.tiling.margin or MARGIN
    )  # a photograph has no frame
    if prepare is not None:
        prepare(model)
    return Backend(
        "torch",
        lambda lr: model.upscale_bytes(torch.from_numpy(lr).to(device)),
        f"torch on {device}: {why}",
    )


def choose_backend(
    path: str,
    requested: str = "auto",
    *,
    device: str = "cpu",
    needs_torch: str | None = None,
    prepare: Callable | None = None,
) -> Backend:
    """What upscales photographs with the run or weight file `path`, loaded.

    Args:
        path: A run directory or a model.safetensors.
        requested: One of BACKENDS. `auto` takes onnxruntime where `why_not` has nothing against it, else torch.
        device: torch's.
        needs_torch: An option of the user that only torch has, as in "--tile is".
        prepare: Called with the SRModel where torch is taken.

    Raises:
        UserError: `requested` is unknown, or is onnxruntime and cannot be; what `load_model` raises.
    """
    if requested not in BACKENDS:
        raise UserError(f"--backend '{requested}' is unknown; choose one of {', '.join(BACKENDS)}")
    if requested == "torch":
        return _torch(path, device, prepare, "as --backend asks")
    against = f"{needs_torch} for torch only" if needs_torch else None
    if against is None and torch.device(device).type != "cpu":
        against = f"--device {device} is for torch only"
    against = against or why_not(Path(path))
    if against is None:
        return _onnxruntime(Path(path))
    if requested == "onnxruntime":
        raise UserError(
            f"--backend onnxruntime: {against}; or leave --backend out, and torch computes it"
        )
    return _torch(path, device, prepare, against)
