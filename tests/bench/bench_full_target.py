"""One source at full size by one recipe to one target: exported, and compared with torch.

    nice python tests/bench/bench_full_target.py "Edge-SD-SR lite" strip onnx [--json FILE]

Weights are random, because sizes and operators alone matter here. Passes that train are not run.
`quantize` takes the ranges that it observes on two images. Each phase is a process of its own, and
the row has the greatest peak of them. A part that is above the limit of the target's files
(export/targets/file_limits.csv) is told before anything is written. What is written is removed.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from full_size_recipes import load_full_size
from random_weights import randomise
from rows import add_json, write_rows

from compress.core.errors import UserError, command
from compress.core.json_files import read_json
from compress.cost import phones
from compress.cost.count import measure
from compress.data.config import Calibration
from compress.model.passes import FitContext
from compress.passes.quantize import Quantize
from compress.recipe.checkpoint import convert_all, load_model, save_model
from compress.recipe.export_options import parse_size
from eval.results.full_sizes import BY_LABEL, STRIP, W8A8, WAYS
from eval.results.measurements.recipes import parity
from export.graphs.components import MODEL, has_parts, parts_of
from export.targets.file_limits import too_large
from export.targets.phone_fit import part_sizes
from export.targets.table import TARGETS

KIB_OF_GIB = 2**20
DONE = (0, 1)  # exit codes of export.run that leave a folder; 1 is a parity below its threshold
IMAGES, SIDE = 2, 64  # that ranges are observed on


def way_to_save(way: str, target: str) -> str:
    """The recipe that is saved: a target that takes no codes gets a float model."""
    return STRIP if way == W8A8 and not TARGETS[target].takes_quantised else way


def save(file: Path, label: str, way: str) -> None:
    """Write the model with random weights, and ranges where the recipe quantises."""
    recipe = load_full_size(BY_LABEL[label], way)
    steps = [step for step in recipe.passes if not isinstance(step, Quantize)]
    save_model(randomise(convert_all(recipe.source, steps)), file, recipe.source, steps)


def quantise(file: Path, label: str, way: str) -> None:
    """Put observed ranges into the model that `save` wrote."""
    recipe = load_full_size(BY_LABEL[label], way)
    before, model = load_model(file), load_model(file)
    steps = [step for step in recipe.passes if not isinstance(step, Quantize)]
    calibration = Calibration(data="embedded", images=IMAGES, size=SIDE)
    observed = {"method": "minmax", "epochs": 0, "calibration": calibration}
    for step in recipe.passes:
        if isinstance(step, Quantize):
            plain = step.model_copy(update=observed)
            plain.convert(model)
            plain.fit(model, FitContext(source=before, before=lambda _name: before))
            steps.append(plain)
    save_model(model, file, recipe.source, steps)


def parts(label: str, way: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """The parts of the model, and bytes of each part's weights in float16 or codes."""
    recipe = load_full_size(BY_LABEL[label], way)
    model = convert_all(recipe.source, recipe.passes)
    names = parts_of(model) if has_parts(model) else (MODEL,)
    return names, part_sizes(measure(model, phones.PUBLISHED_SIZE), names)


def peak_of(phase: Callable, *arguments: Any) -> tuple[Any, float]:
    """What a phase returns, and the peak resident GiB of its process."""
    result = phase(*arguments)
    return result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_OF_GIB


def alone(phase: Callable, *arguments: Any) -> tuple[Any, float]:
    """`peak_of` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_of, phase, *arguments).result()


def export(words: list[str], log: Path) -> tuple[int, float]:
    """Run export.run; its exit code and its peak resident GiB."""
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen([sys.executable, "-m", "export.run", *words], stderr=stream)
        _, status, usage = os.wait4(process.pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss / KIB_OF_GIB


def read_export(folder: Path) -> dict:
    """What one export left, above its threshold or below."""
    good = folder.is_dir()
    found = folder if good else folder.with_name(f"{folder.name}.failed")
    files = read_json(found / "manifest.json", "the manifest of an export")["files"].values()
    return {
        "megabytes": sum(file["bytes"] for file in files) / 1e6,
        "parity_db": parity(found),
        "passed": good,
    }


def measured(options: argparse.Namespace, names: tuple[str, ...], folder: Path) -> dict:
    """Save, quantise and export: what came of it."""
    way = way_to_save(options.way, options.target)
    file = folder / "model.safetensors"
    peaks = [alone(save, file, options.source, way)[1]]
    recipe = load_full_size(BY_LABEL[options.source], way)
    quantised = any(isinstance(step, Quantize) for step in recipe.passes)
    if quantised:
        peaks.append(alone(quantise, file, options.source, way)[1])
    words = [str(file), "--target", options.target, "--lr-size", options.lr_size, "--no-cache"]
    if options.dtype is not None and not quantised:
        words += ["--dtype", options.dtype]
    words += ["--probe", "textured", "--threads", "1", "-o", str(folder / "export")]
    if names == (MODEL,):
        words += ["--component", MODEL]
    if options.compiler is not None:
        words += ["--python", options.compiler]
    code, peak = export(words, folder / "log.txt")
    peaks.append(peak)
    row: dict = {"peak_gib": max(peaks)}
    if code in DONE and list(folder.glob("export*/manifest.json")):
        return row | read_export(folder / "export")
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return row | {"error": lines[-1] if lines else f"export.run ended with {code}"}


@command
def main(argv: list[str]) -> int:
    """Print the row, and write it as JSON."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("source", choices=tuple(BY_LABEL))
    p.add_argument("way", choices=WAYS)
    p.add_argument("target", choices=tuple(TARGETS))
    p.add_argument("--dtype", help="of a float model; default: that of the target")
    p.add_argument("--lr-size", default="64x64", help="height x width (default 64x64)")
    p.add_argument("--compiler", metavar="PYTHON", help="with onnxruntime-qnn, for target qnn")
    p.add_argument("--folder", help="where the temporary folder goes (default: the system's)")
    add_json(p)
    options = p.parse_args(argv)
    parse_size(options.lr_size)
    one = BY_LABEL[options.source]
    if one.recipe(options.way) is None:
        raise UserError(f"{one.label} has no recipe '{options.way}'; choose another of its ways")
    row = {"source": one.label, "recipe": one.title(options.way), "target": options.target}
    began = time.perf_counter()
    names, sizes = parts(options.source, options.way)
    large = too_large(sizes, options.target)
    if large is None:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            row |= measured(options, names, Path(folder))
    else:
        row["error"] = large
    row["seconds"] = time.perf_counter() - began
    write_rows(options.json, [row])
    print("  ".join(f"{key}={value}" for key, value in row.items()))
    return 0


if __name__ == "__main__":
    main()
