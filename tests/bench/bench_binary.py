"""A binarised nano denoiser in onnxruntime beside the float one: bytes, memory at load, latency.

    nice python tests/bench/bench_binary.py [--source resshift] [--method bimacosr] [--lr-size 64]
        [--repeats 10]

onnxruntime expands the bits when it loads the file, unless constant folding is off; then it does at
every run. Both are measured, each memory in a process of its own. The last line compares the file
with what it must hold: the bits, and in float16 every other weight, without the attention masks and
indices that follow from the sizes. No ratio of operations is a speed: see compress/cost/count.py.
"""

import argparse
import resource
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import onnxruntime as ort
from rows import add_json, write_rows
from torch import nn

from compress.binary.config import METHODS
from compress.core.errors import command
from compress.families.osediff import OSEDiffSource
from compress.families.resshift import ResShiftSource
from compress.model.sr_model import SRModel
from compress.passes.binarize import Binarize
from compress.passes.pack import Pack
from export.graphs.export_onnx import export_onnx
from export.timing.files import feed
from export.timing.turns import interleaved

FOLDING = "ConstantFolding"
SOURCES = {"osediff": OSEDiffSource, "resshift": ResShiftSource}


def load(file: Path, disabled: list[str]) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(
        str(file), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )


def resident() -> int:
    """KiB of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def growth(file: Path, disabled: list[str]) -> int:
    """KiB of resident memory that a loaded `file` keeps."""
    before = resident()
    session = load(file, disabled)
    grown = resident() - before
    del session
    return grown


def write(folder: Path, kind: str, method: str | None, side: int) -> tuple[Path, int]:
    """The denoiser's file, and the bytes of the weights in it."""
    source = SOURCES[kind]()
    model: SRModel = source.build()
    source.load(model)
    if method:
        Binarize(method=method).convert(model)
        Pack().convert(model)
    export_onnx(
        model.eval().requires_grad_(False), folder, lr_size=(side, side), stems=("denoiser",)
    )
    derived = {
        id(b)
        for name, b in model.denoiser.named_buffers()
        if "attn_mask" in name or (name.endswith("_index") and "relative_position" in name)
    }
    parts = [model.denoiser, *([model.process] if isinstance(model.process, nn.Module) else [])]
    tensors = {id(t): t for part in parts for t in (*part.parameters(), *part.buffers())}
    return folder / "denoiser.onnx", sum(
        t.nbytes for key, t in tensors.items() if key not in derived
    )


@command
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", choices=SOURCES, default="osediff")
    parser.add_argument("--method", choices=METHODS, default="bimacosr")
    parser.add_argument("--lr-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=10)
    add_json(parser)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        (plain, _), (packed, needed) = (
            write(Path(folder) / name, options.source, method, options.lr_size)
            for name, method in (("float", None), ("packed", options.method))
        )
        runs = {
            "float": (plain, []),
            f"{options.method}": (packed, []),
            f"{options.method}, folding off": (packed, [FOLDING]),
        }
        memory = {}
        for label, arguments in runs.items():
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                memory[label] = pool.submit(growth, *arguments).result()
        sessions = {label: load(*arguments) for label, arguments in runs.items()}
        inputs = feed(sessions["float"], options.lr_size)
        times = interleaved(
            {label: partial(s.run, None, inputs) for label, s in sessions.items()}, options.repeats
        )
        medians = {label: statistics.median(values) for label, values in times.items()}
        print(
            f"{'denoiser':28}{'bytes':>12}{'ratio':>8}{'load KiB':>12}{'ratio':>8}"
            f"{'ms':>10}{'ratio':>8}"
        )
        table = []
        for label, (file, _) in runs.items():
            size = file.stat().st_size
            table.append(
                {
                    "denoiser": label,
                    "bytes": size,
                    "size": size / plain.stat().st_size,
                    "load_kib": memory[label],
                    "memory": memory[label] / max(1, memory["float"]),
                    "ms": medians[label],
                    "time": medians[label] / medians["float"],
                    "of_its_bits": size / needed if file == packed else None,
                }
            )
            print(
                f"{label:28}{size:>12,}{size / plain.stat().st_size:>8.3f}{memory[label]:>12,}"
                f"{memory[label] / max(1, memory['float']):>8.3f}{medians[label]:>10.1f}"
                f"{medians[label] / medians['float']:>8.3f}"
            )
        share = packed.stat().st_size / needed
        write_rows(options.json, table)
        print(f"bits and float16 numbers: {needed:,} bytes; the file has {share:.3f} of that")


if __name__ == "__main__":
    main()
