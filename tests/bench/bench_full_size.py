"""AdcSR at full size (456M parameters), random weights: saved, run in torch, exported, run in onnxruntime, compared.

    nice python tests/bench/bench_full_size.py [--lr-size 128x128] [--folder DIR]

Each phase is a process of its own, so that its peak of resident memory is its own. Ends with code 1 if parity fails or
a phase needs more than 24 GiB. Everything written (about 4 GB under DIR) is removed.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from random_weights import randomise

from compress.checkpoint import load_model, save_model
from compress.errors import command
from compress.sources.adcsr import AdcSRSource
from export.onnx import export_onnx
from export.run import parse_size
from export.verify import failures, probes, session, table, verify

LIMIT_GIB = 24.0
Size = tuple[int, int]


def _mb(paths: list[Path]) -> str:
    return ", ".join(f"{path.name} {path.stat().st_size / 1e6:,.1f} MB" for path in sorted(paths))


def save(folder: Path, size: Size) -> str:
    source = AdcSRSource(size="sd21")
    save_model(randomise(source.build()), folder / "model.safetensors", source, [])
    return _mb([folder / "model.safetensors"])


@torch.no_grad()
def run_torch(folder: Path, size: Size) -> str:
    model, lr = load_model(folder), probes(size)["textured"]
    began = time.perf_counter()
    image = model(lr)
    seconds = time.perf_counter() - began
    return (f"one image {seconds:.1f} s, {image.shape[-1]}x{image.shape[-2]}, "
            f"finite: {bool(image.isfinite().all())}, deviation {image.std():.3f}")


def export(folder: Path, size: Size) -> str:
    export_onnx(load_model(folder), folder / "onnx", lr_size=size, per_component=False)
    return _mb(list((folder / "onnx").iterdir()))


def run_onnx(folder: Path, size: Size) -> str:
    began = time.perf_counter()
    loaded = session(folder / "onnx" / "model.onnx")
    middle = time.perf_counter()
    loaded.run(None, {"lr": probes(size)["textured"].numpy()})
    return f"loaded in {middle - began:.1f} s, one image {time.perf_counter() - middle:.1f} s"


def compare(folder: Path, size: Size) -> list[dict]:
    return verify(load_model(folder), folder / "onnx", lr_size=size)


def measured(phase: Callable, folder: Path, size: Size) -> tuple[object, float, float]:
    """What `phase` returns, its seconds, and the peak resident GiB of this process."""
    began = time.perf_counter()
    result = phase(folder, size)
    return result, time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@command
def main(argv: list[str]) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lr-size", default="128x128", help="height x width of the input (default 128x128)")
    p.add_argument("--folder", help="where the temporary folder goes (default: the system's)")
    options = p.parse_args(argv)
    size, peaks, rows = parse_size(options.lr_size), [], []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name, phase in (("save", save), ("torch", run_torch), ("export", export), ("onnxruntime", run_onnx),
                            ("verify", compare)):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                result, seconds, peak = pool.submit(measured, phase, Path(folder), size).result()
            rows = result if phase is compare else rows
            peaks.append(peak)
            print(f"{name:12}{seconds:8.1f} s{peak:8.2f} GiB  {'' if phase is compare else result}", flush=True)
    print(table(rows))
    problem = failures(rows) or (f"a phase needs {max(peaks):.1f} GiB, more than {LIMIT_GIB:.0f}"
                                 if max(peaks) > LIMIT_GIB else None)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    main()
