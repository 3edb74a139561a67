"""Qualcomm's HTP (the NPU of Snapdragon phones) through onnxruntime's QNN execution provider.

Each part becomes a Q/DQ file, and, where onnxruntime-qnn is installed, a context binary for one chip with no node left
to the CPU. That package has the compiler and the HTP simulator for Linux x86-64, so that parity is measured on the
target.
"""

import csv
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from compress.core.errors import UserError, nearest
from export.targets.parts import Exported, Options, Parts, float_model
from export.targets.to_onnx import entry, float_graphs, quantise_file

WORKER = Path(__file__).with_name("qnn_worker.py")
TIMEOUT = 3600  # seconds that one graph may take to compile
LEVEL = 3  # of the HTP's graph optimisation, the highest


class Crashed(UserError):
    """A signal ended the QNN process."""


@dataclass(frozen=True)
class Chip:
    name: str
    part: str
    htp_arch: str
    soc_model: str
    phones: str


def chips() -> dict[str, Chip]:
    """By name, from htp_chips.csv."""
    with (files("export") / "targets" / "htp_chips.csv").open(
        encoding="utf-8", newline=""
    ) as stream:
        return {row["name"]: Chip(**row) for row in csv.DictReader(stream)}


def choose_chip(name: str) -> Chip:
    """A chip by its name, its part number or its HTP version: snapdragon-8-gen-3, SM8650, v75."""
    table = chips()
    for chip in table.values():
        if name.lower() in (chip.name, chip.part.lower(), f"v{chip.htp_arch}"):
            return chip
    raise UserError(
        f"chip '{name}' is unknown{nearest(name, table)}; choose one of "
        f"{', '.join(f'{c.name} (v{c.htp_arch}: {c.phones})' for c in table.values())}"
    )


def find_python(python: str | None) -> str | None:
    """The interpreter that has onnxruntime-qnn: the one given, or this one; None where neither has it."""
    if python is not None:
        probe = subprocess.run(
            [python, "-c", "import onnxruntime_qnn, onnxruntime, onnx, numpy"],
            capture_output=True,
            text=True,
        )
        if probe.returncode:
            raise UserError(
                f"{python} has no onnxruntime-qnn ({probe.stderr.strip().splitlines()[-1]}); run: {python} -m "
                "pip install onnxruntime-qnn==2.7.0 onnx"
            )
        return python
    return sys.executable if importlib.util.find_spec("onnxruntime_qnn") else None


def work(python: str, job: dict) -> dict:
    """One job of qnn_worker.py in a process of its own. Raises UserError where it fails."""
    # -P: the folder of the worker holds modules that are named after packages.
    done = subprocess.run(
        [python, "-P", str(WORKER), json.dumps(job)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    lines = done.stdout.strip().splitlines()
    try:
        result = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        said = [
            line for line in (*lines, *done.stderr.strip().splitlines()) if "LIBNATIVE" not in line
        ]  # the libraries report their settings on every start
        kind = Crashed if done.returncode < 0 else UserError  # by a signal, or by an exception
        raise kind(
            f"{job['model']}: the QNN process ended with code {done.returncode} and said: "
            f"{said[-1] if said else 'nothing'}; run {command_line(python, job)} to see all of it"
        ) from None
    if "error" in result:
        refused = ", ".join(refusals(python, job)) if "CPU EP" in result["error"] else ""
        raise UserError(
            f"{job['model']}: the HTP cannot {job['do']} it "
            + (f"because of {refused}" if refused else f"({result['error']})")
            + "; see python -m export.lint, or export another --dtype"
        )
    return result


def refusals(python: str, job: dict) -> list[str]:
    """The nodes that the HTP refused, out of the verbose log, as `LayerNormalization node_layer_norm`."""
    done = subprocess.run(
        [python, "-P", str(WORKER), json.dumps({**job, "log": 0})],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    text, found = done.stdout + done.stderr, []
    for block in re.split(r"Validation FAILED", text)[1:]:
        kind = re.search(r"OrtNodeUnit \((\w+)\)", block)
        name = re.search(rf"Operator type: {kind[1]} Node name: (\S+)", block) if kind else None
        found.append(f"{kind[1]} {name[1]}" if name else kind[1] if kind else "a node")
    return list(dict.fromkeys(found))[:8]


def command_line(python: str, job: dict) -> str:
    return shlex.join([python, "-P", str(WORKER), json.dumps(job)])


def compile_part(folder: Path, stem: str, graph: dict, python: str, level: int) -> None:
    """Compile <stem>.onnx into one context binary, and say so in `graph`. Raises UserError where it takes several."""
    job = {
        "do": "compile",
        "model": str(folder / f"{stem}.onnx"),
        "context": str(folder / f"{stem}_ctx.onnx"),
        "arch": graph["provider"]["htp_arch"],
        "soc": graph["provider"]["soc_model"],
        "optimise": level,
    }
    done = work(python, job)
    if done["nodes"] != {"EPContext": 1}:
        raise UserError(
            f"{stem}: the HTP took the graph in pieces ({done['nodes']}) and not as one; see python -m "
            "export.lint"
        )
    graph |= {
        "qdq": f"{stem}.onnx",
        "file": f"{stem}_ctx.onnx",
        "binaries": done["binaries"],
        "compiler": done["versions"],
        "context_bytes": done["bytes"],
        "compile_seconds": round(done["seconds"], 2),
        "optimisation": level,
    }


class Simulator:
    """Runs the compiled graphs of an exported folder, each call in a process of its own.

    On some graphs that were compiled at optimisation level 3 the simulator of onnxruntime-qnn 2.7.0 ends with a
    segmentation fault, and at level 2 it does not: such a graph is compiled again, a level lower, and a note says so.
    """

    def __init__(self, folder: Path, graphs: dict[str, dict], python: str, notes: list[str]):
        self.folder, self.graphs, self.python, self.notes = folder, graphs, python, notes

    def __call__(self, stem: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{label: float32 input} -> {label: output}."""
        graph = self.graphs[stem]
        while True:
            try:
                return self.run(graph, arrays)
            except Crashed:
                level = graph["optimisation"]
                if level == 1:
                    raise
                compile_part(self.folder, stem, graph, self.python, level - 1)
                self.notes.append(
                    f"{stem}: compiled again at optimisation level {level - 1} "
                    f"({graph['context_bytes'] / 1024:.0f} KiB, {graph['compile_seconds']:.1f} s), because "
                    f"the simulator crashed on level {level}"
                )

    def run(self, graph: dict, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            inputs, outputs = Path(folder) / "x.npz", Path(folder) / "y.npz"
            np.savez(inputs, **arrays)
            done = work(
                self.python,
                {
                    "do": "run",
                    "model": str(self.folder / graph["file"]),
                    "inputs": str(inputs),
                    "outputs": str(outputs),
                    "arch": graph["provider"]["htp_arch"],
                    "soc": graph["provider"]["soc_model"],
                },
            )
            graph["load_seconds"] = round(done["load_seconds"], 2)
            graph["simulator_seconds"] = round(sum(done["seconds"]) / len(done["seconds"]), 2)
            with np.load(outputs) as stored:
                return {key.rpartition("/")[0]: stored[key] for key in stored.files}


def write(parts: Parts, folder: Path, options: Options) -> Exported:
    float_model(parts)
    chip, python = choose_chip(options.chip), find_python(options.python)
    paths = float_graphs(parts, folder, options, rewrites=options.rewrite or "qnn")
    graphs, notes = {}, []
    for stem, path in paths.items():
        if parts.dtype != "fp16":
            quantise_file(path, "qnn", parts, doors=options.doors)
        graphs[stem] = {
            **entry(path),
            "provider": {"htp_arch": chip.htp_arch, "soc_model": chip.soc_model},
        }
        if python is None:
            job = {
                "do": "compile",
                "model": path.name,
                "context": f"{stem}_ctx.onnx",
                "arch": chip.htp_arch,
                "soc": chip.soc_model,
            }
            notes.append(
                f"{stem}: not compiled, because onnxruntime-qnn is not installed. In the exported folder, with a "
                f"Python that has it (pip install onnxruntime-qnn==2.7.0 onnx): {command_line('python', job)}"
            )
            continue
        compile_part(folder, stem, graphs[stem], python, LEVEL)
        notes.append(
            f"{stem}: one context binary for {chip.name} (v{chip.htp_arch}), "
            f"{graphs[stem]['context_bytes'] / 1024:.0f} KiB, compiled in {graphs[stem]['compile_seconds']:.1f} s, "
            "no node on the CPU"
        )
    kind = {"chip": chip.name, "part": chip.part, "htp_arch": f"v{chip.htp_arch}"}
    if parts.dtype != "fp16":
        kind |= {
            "scheme": "QuantizeLinear/DequantizeLinear pairs",
            "placement": "whole graph",
            "by": "onnxruntime get_qnn_qdq_config, min-max"
            + ("; the quantize pass's ranges kept" if parts.quantised else ""),
            "weights": "int8, symmetric, per output channel",
            "activations": f"uint{parts.activation_bits}, per tensor",
            "inputs and outputs": "uint16"
            if parts.activation_bits == 16 or options.doors and not parts.quantised
            else "uint8",
            "pinned": "softmax and sigmoid at [0, 1 - 2^-bits]",
        }
    return Exported(
        graphs,
        ("onnx", "onnxruntime", "onnxruntime-qnn"),
        kind,
        runs=python is not None,
        notes=notes,
        runner=None if python is None else Simulator(folder, graphs, python, notes),
    )
