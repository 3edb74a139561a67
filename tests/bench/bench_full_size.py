"""Full size, random weights: saved, run in torch, exported, run in onnxruntime, compared.

    nice python tests/bench/bench_full_size.py [adcsr|osediff|sd21-decoder] [--w8a8]
        [--lr-size 128x128] [--folder DIR]

`adcsr` is all of AdcSR (456M parameters), `osediff` all of OSEDiff on SD 2.1 (1,290M, stripped to
898M), `sd21-decoder` its VAE decoder alone. --w8a8 quantises in between, by PassionSR's method with
the ranges that it begins with: a step of learning on random weights says nothing. Each phase is a
process of its own, so that its peak of resident memory is its own. Ends with code 1 if parity fails
or a phase needs more than 24 GiB. Everything written (4 to 12 GB under DIR) is removed.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from random_weights import randomise
from rows import add_json, write_rows

from compress.core.errors import command
from compress.families.adcsr import AdcSRSource
from compress.families.osediff import OSEDiffSource
from compress.model.passes import FitContext, Pass
from compress.model.source import Source
from compress.passes.quantize import Quantize
from compress.passes.strip import Strip
from compress.recipe.checkpoint import load_model, save_model
from compress.recipe.export_options import parse_size
from export.graphs.export_onnx import export_onnx
from export.graphs.probes import probes
from export.parity.rows import failures, table
from export.parity.session import session
from export.parity.verify import verify

LIMIT_GIB = 24.0
Size = tuple[int, int]


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        source: At full size.
        passes: Run before quantisation.
        graphs: Exported, each to a file of its own.
        components: Quantised.
    """

    source: Source
    passes: tuple[Pass, ...]
    graphs: tuple[str, ...]
    components: tuple[str, ...]


PARTS = ("encoder", "denoiser", "decoder")
SUBJECTS = {
    "adcsr": Subject(AdcSRSource(size="sd21"), (), ("model",), ("denoiser", "decoder")),
    "osediff": Subject(
        OSEDiffSource(size="sd21"), (Strip(text="constant", timestep="fold"),), PARTS, PARTS
    ),
    "sd21-decoder": Subject(OSEDiffSource(size="sd21"), (), ("decoder",), ("decoder",)),
}


def _mb(paths: list[Path]) -> str:
    return ", ".join(f"{path.name} {path.stat().st_size / 1e6:,.1f} MB" for path in sorted(paths))


def save(folder: Path, size: Size, subject: Subject) -> str:
    model = randomise(subject.source.build())
    save_model(model, folder / "model.safetensors", subject.source, [])
    return _mb([folder / "model.safetensors"])


def strip(folder: Path, size: Size, subject: Subject) -> str:
    model = load_model(folder)
    for step in subject.passes:
        step.convert(model)
        step.fit(model, FitContext(source=model, before=lambda name: model))
    save_model(model, folder / "model.safetensors", subject.source, [*subject.passes])
    return _mb([folder / "model.safetensors"])


def quantise(folder: Path, size: Size, subject: Subject) -> str:
    before, model = load_model(folder), load_model(folder)
    step = Quantize(components=subject.components, epochs=0, calibration={"images": 2, "size": 64})
    step.convert(model)
    step.fit(model, FitContext(source=before, before=lambda name: before))
    save_model(model, folder / "model.safetensors", subject.source, [*subject.passes, step])
    return _mb([folder / "model.safetensors"])


@torch.no_grad()
def run_torch(folder: Path, size: Size, subject: Subject) -> str:
    model, lr = load_model(folder), probes(size)["textured"]
    began = time.perf_counter()
    image = model(lr)
    seconds = time.perf_counter() - began
    return (
        f"one image {seconds:.1f} s, {image.shape[-1]}x{image.shape[-2]}, "
        f"finite: {bool(image.isfinite().all())}, deviation {image.std():.3f}"
    )


def export(folder: Path, size: Size, subject: Subject) -> str:
    export_onnx(load_model(folder), folder / "onnx", lr_size=size, stems=subject.graphs)
    return _mb(list((folder / "onnx").iterdir()))


def run_onnx(folder: Path, size: Size, subject: Subject) -> str:
    told = []
    for name in subject.graphs:
        began = time.perf_counter()
        loaded = session(folder / "onnx" / f"{name}.onnx")
        generator = np.random.default_rng(0)
        inputs = {}
        for entry in loaded.get_inputs():
            inputs[entry.name] = generator.random(entry.shape, dtype=np.float32)
        middle = time.perf_counter()
        loaded.run(None, inputs)
        ended = time.perf_counter()
        told.append(f"{name} loaded in {middle - began:.1f} s, one run {ended - middle:.1f} s")
    return "; ".join(told)


def compare(folder: Path, size: Size, subject: Subject) -> list[dict]:
    return verify(load_model(folder), folder / "onnx", lr_size=size)


def measured(phase: Callable, *arguments) -> tuple[object, float, float]:
    """What `phase` returns, its seconds, and the peak resident GiB of this process."""
    began = time.perf_counter()
    result = phase(*arguments)
    return (
        result,
        time.perf_counter() - began,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )


@command
def main(argv: list[str]) -> int:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("subject", nargs="?", choices=tuple(SUBJECTS), default="adcsr")
    p.add_argument("--w8a8", action="store_true", help="quantise before exporting")
    p.add_argument(
        "--lr-size", default="128x128", help="height x width of the input (default 128x128)"
    )
    p.add_argument("--folder", help="where the temporary folder goes (default: the system's)")
    add_json(p)
    options = p.parse_args(argv)
    subject = SUBJECTS[options.subject]
    size, peaks, rows, phases_done = parse_size(options.lr_size), [], [], []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        phases = {
            "save": save,
            "strip": strip,
            "quantise": quantise,
            "torch": run_torch,
            "export": export,
            "onnxruntime": run_onnx,
            "verify": compare,
        }
        for name, phase in phases.items():
            if phase is quantise and not options.w8a8:
                continue
            if phase is strip and not subject.passes:
                continue
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                result, seconds, peak = pool.submit(
                    measured, phase, Path(folder), size, subject
                ).result()
            rows = result if phase is compare else rows
            peaks.append(peak)
            phases_done.append({"phase": name, "seconds": seconds, "peak_gib": peak})
            print(
                f"{name:12}{seconds:8.1f} s{peak:8.2f} GiB  {'' if phase is compare else result}",
                flush=True,
            )
    print(table(rows))
    phases_done[-1]["parity_db"] = " / ".join(f"{row['psnr_db']:.1f}" for row in rows)
    write_rows(options.json, phases_done)
    problem = failures(rows) or (
        f"a phase needs {max(peaks):.1f} GiB, more than {LIMIT_GIB:.0f}"
        if max(peaks) > LIMIT_GIB
        else None
    )
    if problem:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    main()
