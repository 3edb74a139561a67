"""Size and speed of a compressed run beside its source in float32, as ONNX on this machine.

    python tests/bench/bench_int8.py RUN [--beside RUN] [--lr-size 128x128] [--threads 1,2]
        [--repeats N] [--components decoder,model]

Everything is measured component by component. `fp32` is the plain export. `fp32 forms` is the same
network stripped as the run strips it and in the forms of export/graphs/cpu_forms that the
compressed file has, so that what quantisation gives can be told from what they give. `--beside`
adds the file of another run, such as one with `reduce_range`. The first line says which features
the processor has and whether sessions ask for onnxruntime's exact kernels. Below each table stands
what each compressed file takes with exact and with fast kernels, and how far their results are
apart: 0 on a processor with VNNI, and of a file with `reduce_range` on every one.

`--openvino-python` names an interpreter that has OpenVINO, where this one has not. Below each table
also stands where the compressed file's time goes, in integers, in conversions and in floating
point, with the operators that stay float. With nncf or openvino installed, NNCF's int8 of the same
network (by part) and OpenVINO's runtime get lines of their own. Nothing is asserted: a latency is a
measurement of one machine on one day.
"""

import argparse
import copy
import importlib.util
import json
import os
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from rows import add_json, write_rows

from compress.core.errors import UserError, command
from compress.data.calibration import as_values, calibration_images
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.passes.strip import Strip
from compress.recipe.export_options import parse_size
from export.baselines.methods import Job
from export.graphs.components import graphs_of, reaching
from export.graphs.export_onnx import export_onnx
from export.parity.session import session, session_options
from export.targets.host import processor
from export.timing.files import compare, feed
from export.timing.rows import table
from export.timing.turns import interleaved

STEMS = ("model", "encoder", "denoiser", "decoder")
CONVERSIONS = {
    "QuantizeLinear",
    "DequantizeLinear",
    "Transpose",
    "Reshape",
    "Cast",
    "ReorderInput",
    "ReorderOutput",
}
INTEGERS = {
    "ConvInteger",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QGemm",
    "NhwcMaxPool",
}


def shares(
    path: Path, threads: int, runs: int = 3
) -> tuple[dict[str, float], dict[str, tuple[int, float]]]:
    """Milliseconds a run in `integer`, `conversion` and `float`, and operators of the last.

    An operator on 8-bit tensors counts as integer whatever its name: a Resize or MaxPool that was
    moved in there. Operators are name -> (nodes, milliseconds).
    """
    options = session_options(threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(""))
    loaded = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for _ in range(runs + 1):
        loaded.run(None, feed(loaded, 128))
    events = json.loads(Path(loaded.end_profiling()).read_text())
    first = [e["ts"] for e in events if e["name"] == "model_run"][1]
    total: dict[str, float] = defaultdict(float)
    nodes: dict[str, set] = defaultdict(set)
    floats: dict[str, float] = defaultdict(float)
    for event in events:
        if (
            event.get("cat") != "Node"
            or event["ts"] < first
            or not event["name"].endswith("kernel_time")
        ):
            continue
        name, ms = event["args"]["op_name"], event["dur"] / 1e3 / runs
        codes = any(
            kind in ("uint8", "int8")
            for t in event["args"].get("output_type_shape", [])
            for kind in t
        )
        kind = (
            "conversion"
            if name in CONVERSIONS
            else "integer"
            if name.startswith("QLinear") or name in INTEGERS or codes
            else "float"
        )
        total[kind] += ms
        if kind == "float":
            nodes[name].add(event["name"])
            floats[name] += ms
    return dict(total), {
        name: (len(nodes[name]), ms) for name, ms in sorted(floats.items(), key=lambda x: -x[1])
    }


def describe(total: dict[str, float], floats: dict[str, tuple[int, float]]) -> str:
    sums = ", ".join(
        f"{kind} {total.get(kind, 0):.1f} ms" for kind in ("integer", "conversion", "float")
    )
    stay = ", ".join(f"{name} x{count} {ms:.1f}" for name, (count, ms) in list(floats.items())[:12])
    return f"{sums}; float: {stay}"


def kernels(path: Path, threads: int, repeats: int) -> dict[str, float]:
    """Medians of one file with exact and with fast kernels, interleaved.

    Beside them stands the largest difference of their results.
    """
    loaded = {
        name: ort.InferenceSession(
            str(path), session_options(threads, exact), providers=["CPUExecutionProvider"]
        )
        for name, exact in (("exact", True), ("fast", False))
    }
    x = feed(loaded["exact"], 128)
    results = [one.run(None, x)[0] for one in loaded.values()]
    apart = float(np.abs(results[0] - results[1]).max() / np.abs(results[0]).max())
    runs = {name: partial(one.run, None, x) for name, one in loaded.items()}
    times = interleaved(runs, repeats, threads)
    exact, fast = (float(np.median(times[name])) for name in ("exact", "fast"))
    return {"exact_ms": exact, "fast_ms": fast, "apart": apart}


def inputs_of(
    source: SRModel, stem: str, size: tuple[int, int], count: int = 8
) -> list[np.ndarray]:
    """What graph `stem` reads when the float model restores calibration images."""
    images = calibration_images("embedded", count, size[0], seed=0)
    return [reaching(source, stem, values)[0][0].numpy() for values in as_values(source, images)]


def openvino_runs(files: dict[str, Path], threads: int) -> dict[str, Callable[[], object]]:
    import openvino

    core, runs = openvino.Core(), {}
    for label, path in files.items():
        compiled = core.compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": threads})
        x = next(iter(feed(session(path, 1), 128).values()))
        runs[f"{label}, OpenVINO"] = partial(compiled, [x])
    return runs


ELSEWHERE = """
import json, statistics, sys, time
import numpy, openvino
files, threads, repeats = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
core = openvino.Core()
options = {"INFERENCE_NUM_THREADS": threads}
runs = {label: core.compile_model(path, "CPU", options) for label, path in files.items()}
times = {label: [] for label in runs}
shape = tuple(next(iter(runs.values())).inputs[0].shape)
x = numpy.random.default_rng(0).random(shape, dtype=numpy.float32)
for turn in range(0, repeats, 3):
    for label, run in runs.items():
        run([x])
        for _ in range(min(3, repeats - turn)):
            start = time.perf_counter()
            run([x])
            times[label].append((time.perf_counter() - start) * 1e3)
print(json.dumps({f"{label}, OpenVINO": statistics.median(ms) for label, ms in times.items()}))
"""


def openvino_elsewhere(
    python: str, files: dict[str, Path], threads: int, repeats: int
) -> dict[str, float]:
    """The files' medians in OpenVINO, interleaved, in a process of another interpreter."""
    named = json.dumps({label: str(path) for label, path in files.items()})
    done = subprocess.run(
        [python, "-c", ELSEWHERE, named, str(threads), str(repeats)], capture_output=True, text=True
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"--openvino-python {python} failed ({why})")
    return json.loads(done.stdout.splitlines()[-1])


def report(files: dict[str, Path], threads: int, arguments: argparse.Namespace) -> list[dict]:
    """Print what one part takes in all its forms; returns a row a form."""
    repeats = arguments.repeats
    rows: list[dict] = list(map(dict, compare(files, threads=threads, repeats=repeats)))
    print(table(rows))
    for row in rows:
        if row["label"].split(" ", 1)[1] not in ("compressed", "beside"):
            continue
        total, floats = shares(files[row["label"]], threads)
        row |= {f"{kind}_ms": total.get(kind, 0.0) for kind in ("integer", "conversion", "float")}
        row |= kernels(files[row["label"]], threads, repeats)
        print(f"{row['label']}: {describe(total, floats)}")
        print(
            f"{row['label']}: exact kernels {row['exact_ms']:.1f} ms, fast kernels "
            f"{row['fast_ms']:.1f} ms; results differ by {row['apart']:.2e} of the largest value"
        )
    medians: dict[str, float] = {}
    if arguments.openvino_python:
        medians = openvino_elsewhere(arguments.openvino_python, files, threads, repeats)
    elif importlib.util.find_spec("openvino"):
        times = interleaved(openvino_runs(files, threads), repeats, threads)
        medians = {label: float(np.median(ms)) for label, ms in times.items()}
    if medians:
        print("; ".join(f"{label} {ms:.1f} ms" for label, ms in medians.items()))
    more = [
        {"label": label, "median_ms": ms, "ratio": rows[0]["median_ms"] / ms, "threads": threads}
        for label, ms in medians.items()
    ]
    return rows + more


@command
def main(argv: list[str]) -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("run", help="run directory or model.safetensors file")
    p.add_argument(
        "--beside", metavar="RUN", help="another run of the same source, in the same tables"
    )
    p.add_argument("--lr-size", default="128x128")
    p.add_argument("--threads", default="1,2", help="one table for each, comma separated")
    p.add_argument("--repeats", type=int, default=10)
    p.add_argument(
        "--openvino-python",
        metavar="PATH",
        help="an interpreter that has openvino, for the same files",
    )
    p.add_argument("--components", default=",".join(STEMS), help=f"of {', '.join(STEMS)}")
    add_json(p)
    arguments = p.parse_args(argv)
    size, stems = parse_size(arguments.lr_size), arguments.components.split(",")
    if unknown := [stem for stem in stems if stem not in STEMS]:
        raise UserError(f"--components: '{unknown[0]}' is unknown; choose of {', '.join(STEMS)}")
    from compress.recipe.checkpoint import load_model, read_header

    print(processor.describe())
    config, passes = read_header(arguments.run)
    source = config.build()
    config.load(source)
    stripped = copy.deepcopy(
        source
    )  # what the compressed file computes, in float: no text, no timestep
    for step in passes:
        if isinstance(step, Strip):
            step.convert(stripped)
            step.fit(stripped, FitContext(source=source, seed=0))
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / name for name in ("fp32", "fp32 forms", "compressed")}
        parts = {"end_to_end": "model" in stems, "per_component": stems != ["model"]}
        export_onnx(source.eval(), paths["fp32"], lr_size=size, **parts)
        export_onnx(stripped.eval(), paths["fp32 forms"], lr_size=size, for_cpu=True, **parts)
        export_onnx(load_model(arguments.run), paths["compressed"], lr_size=size, **parts)
        if arguments.beside:
            paths["beside"] = Path(folder) / "beside"
            export_onnx(load_model(arguments.beside), paths["beside"], lr_size=size, **parts)
        plain_files, nncf = (
            Path(folder) / "plain",
            importlib.util.find_spec("nncf") and stems != ["model"],
        )
        if nncf:
            export_onnx(stripped, plain_files, lr_size=size, end_to_end=False)
        measured: list[dict] = []
        for stem in stems:
            files = {f"{stem} {name}": path / f"{stem}.onnx" for name, path in paths.items()}
            if nncf and stem != "model":  # of a whole model it asserts its way out
                from export.baselines.nncf_onnx import plain

                float_file, files[f"{stem} nncf"] = (
                    plain_files / f"{stem}.onnx",
                    Path(folder) / f"{stem}.nncf.onnx",
                )
                spec = graphs_of(source)[stem]
                names = spec.inputs[0], spec.outputs[0]
                plain(
                    Job(stem, names, float_file, stripped, inputs_of(source, stem, size), 8, 8),
                    files[f"{stem} nncf"],
                )
            for threads in map(int, arguments.threads.split(",")):
                measured += [
                    {"part": stem, "form": row["label"].removeprefix(f"{stem} "), **row}
                    for row in report(files, threads, arguments)
                ]
                print()
        write_rows(arguments.json, measured)
    print(f"cores: {os.cpu_count()}")


if __name__ == "__main__":
    main()
