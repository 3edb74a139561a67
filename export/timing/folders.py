"""Exported folders timed side by side, of any targets that run here."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from compress.core.errors import UserError
from compress.recipe import run_files
from export.targets.host.chain import chain, further_images, kept_shapes
from export.targets.host.runtimes import load
from export.targets.host.tiles import chosen
from export.timing.rows import Measured, Row, make_rows
from export.timing.turns import check_counts, interleaved

ON_CPU = ("onnx", "openvino", "ncnn", "litert", "executorch")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an exported folder.

    Raises:
        UserError: There is none.
    """
    if not (Path(folder) / "manifest.json").is_file():
        raise UserError(
            f"{folder}: no manifest.json here; give folders that python -m export.run wrote"
        )
    return run_files.read_manifest(Path(folder))


def whole(folder: Path, threads: int) -> Callable[[], object]:
    """One run of an exported model on random images of its size.

    That is all parts and the arithmetic between them, no tiles.
    """
    manifest = read_manifest(folder)
    graphs = load(Path(folder), chosen(manifest, None), threads)
    random = np.random.default_rng(0)
    lr = random.random((1, 3, *manifest["lr_size"]), dtype=np.float32)
    others = {
        name: random.random((1, 3, *size), dtype=np.float32)
        for name, size in further_images(manifest).items()
    }
    for name, shape in kept_shapes(manifest).items():
        others[name] = random.random(shape, dtype=np.float32)
    return lambda: chain(manifest, graphs, lr, others)


def profile(folder: Path, threads: int, python: str = sys.executable) -> tuple[float, float]:
    """What loading the graphs of a folder costs: numpy and the runtime, no torch.

    The folder's run.py measures it in a process of its own.

    Args:
        folder: The exported folder.
        threads: CPU threads.
        python: An interpreter that has the runtime.

    Returns:
        Seconds to load, and the peak memory in MiB.

    Raises:
        UserError: run.py failed.
    """
    program = str(Path(folder).resolve() / "run.py")
    command = [python, program, "--profile", "1", "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        messages = done.stderr.strip().splitlines() or ["no message"]
        raise UserError(f"{folder}: run.py --profile failed ({messages[-1]})")
    graphs = json.loads(done.stdout.strip().splitlines()[-1])
    load_s = sum(graph["load_s"] for graph in graphs.values())
    peak_mib = max(graph["peak_mib"] for graph in graphs.values())
    return load_s, peak_mib


def computes_on_cpu(manifest: dict[str, Any]) -> bool:
    """Whether run.py computes an export in its own process, on the CPU alone."""
    on_gpu = any("gpu" in graph for graph in manifest["graphs"].values())
    return manifest["target"] in ON_CPU and not on_gpu


def stored_bytes(manifest: dict[str, Any]) -> int:
    """Size of the parts of an export, with their weights."""
    return sum(
        entry["bytes"]
        for name, entry in manifest["files"].items()
        if not name.endswith(".py") and not name.startswith("model.")
    )


def compare_folders(folders: list[Path], *, threads: int = 1, repeats: int = 10) -> list[Row]:
    """Time exported folders in one process, with repeats interleaved.

    Args:
        folders: Of export.run; the first is the reference.
        threads: CPU threads.
        repeats: Runs of each that count.

    Returns:
        Rows with `load_s` and `peak_mib`.

    Raises:
        UserError: A number is 0, or the folders take images of different sizes.
    """
    check_counts("folders", len(folders), threads, repeats)
    manifests = {folder: read_manifest(folder) for folder in folders}
    sizes = {tuple(manifest["lr_size"]) for manifest in manifests.values()}
    if len(sizes) > 1:
        raise UserError(
            f"the folders take images of different sizes ({', '.join(map(str, sorted(sizes)))}); "
            "export them at one lr size"
        )
    labels = _labels(manifests)
    profiles = {labels[folder]: profile(folder, threads) for folder in folders}
    runs = {labels[folder]: whole(folder, threads) for folder in folders}
    is_on_cpu = all(computes_on_cpu(manifest) for manifest in manifests.values())
    times = interleaved(runs, repeats, threads if is_on_cpu else None)
    measured = {
        labels[folder]: Measured(times[labels[folder]], stored_bytes(manifest))
        for folder, manifest in manifests.items()
    }
    rows = make_rows(measured, threads, repeats)
    for row in rows:
        row["load_s"], row["peak_mib"] = profiles[row["label"]]
    return rows


def _labels(manifests: dict[Path, dict[str, Any]]) -> dict[Path, str]:
    """Target and dtype of each folder; their paths, where that tells them not apart."""
    labels = {
        folder: f"{manifest['target']} {manifest['dtype']}"
        for folder, manifest in manifests.items()
    }
    if len(set(labels.values())) < len(labels):
        return {folder: str(folder) for folder in manifests}
    return labels
