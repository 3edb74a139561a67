"""Qualcomm's HTP (the NPU of Snapdragon phones) by onnxruntime's QNN execution provider.

Each part becomes a Q/DQ file, and, where onnxruntime-qnn is installed, a context binary for one
chip with no node left to the CPU. That package has the compiler and the HTP simulator for Linux
x86-64, so that parity is measured on the target.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from compress.core.errors import UserError
from export.graphs.components import GraphSpec
from export.targets.chips import Chip, choose_chip
from export.targets.coarse import LEAST_DB
from export.targets.constant_graph import constant_outputs, store
from export.targets.contract import Arrays, Exported, Inputs, Parts
from export.targets.host.runtimes import STORED, read_outputs
from export.targets.onnx_files import manifest_entry
from export.targets.parts import check_no_packed_weights
from export.targets.qdq import QNN, quantise_file
from export.targets.qnn_process import SimulatorCrashError, command_line, find_python, work
from export.targets.to_onnx import float_graphs

HIGHEST_LEVEL = 3  # of the HTP's graph optimisation
LOWEST_LEVEL = 1
KIBIBYTE = 2**10
PACKAGES = ("onnx", "onnxruntime", "onnxruntime-qnn")


def compile_part(folder: Path, stem: str, graph: dict[str, Any], python: str, level: int) -> None:
    """Compile <stem>.onnx into one context binary, and say so in its entry of the manifest.

    Args:
        folder: Holds the file; gets the binary.
        stem: Name of the graph.
        graph: Its entry, with the chip's numbers in `provider`. It is extended.
        python: An interpreter that has onnxruntime-qnn.
        level: Of optimisation, from 1 to 3.

    Raises:
        UserError: The HTP takes the graph in several pieces, or not at all.
    """
    done = work(
        python,
        {
            "do": "compile",
            "model": str(folder / f"{stem}.onnx"),
            "context": str(folder / f"{stem}_ctx.onnx"),
            "arch": graph["provider"]["htp_arch"],
            "soc": graph["provider"]["soc_model"],
            "optimise": level,
        },
    )
    if done["nodes"] != {"EPContext": 1}:
        raise UserError(
            f"{stem}: the HTP took the graph in pieces ({done['nodes']}) and not as one; see "
            "python -m export.lint"
        )
    graph |= {
        "qdq": f"{stem}.onnx",
        "file": f"{stem}_ctx.onnx",
        "binaries": done["binaries"],
        "compiler": done["versions"],
        "context_bytes": done["bytes"],
        "compile_seconds": round(done["seconds"], 2),
        "optimisation": level,
        "operators": done["operators"],
        "moved_bytes": done["moved_bytes"],
    }


class Simulator:
    """Runs the compiled graphs of an exported folder, each call in a process of its own.

    On some graphs that were compiled at optimisation level 3 the simulator of onnxruntime-qnn 2.7.0
    ends with a segmentation fault, and at level 2 it does not. Such a graph is compiled again, a
    level lower, and a note says so.

    Attributes:
        folder: Where the graphs lie.
        specs: Names of their inputs and outputs.
        graphs: Their entries in the manifest, which get what is measured.
        python: An interpreter that has onnxruntime-qnn.
        notes: Lines for the terminal.
    """

    def __init__(
        self,
        folder: Path,
        specs: dict[str, GraphSpec],
        graphs: dict[str, dict[str, Any]],
        python: str,
        notes: list[str],
    ):
        self.folder = folder
        self.specs = specs
        self.graphs = graphs
        self.python = python
        self.notes = notes

    def __call__(self, stem: str, arrays: dict[str, Inputs]) -> dict[str, Inputs]:
        """Run a graph: label -> float32 inputs, to label -> outputs."""
        graph = self.graphs[stem]
        if graph.get("format") == STORED:
            return dict.fromkeys(arrays, read_outputs(graph, self.folder))
        while True:
            try:
                return self._run(self.specs[stem], graph, arrays)
            except SimulatorCrashError:
                level = graph["optimisation"]
                if level == LOWEST_LEVEL:
                    raise
                compile_part(self.folder, stem, graph, self.python, level - 1)
                self.notes.append(
                    f"{stem}: compiled again at optimisation level {level - 1} "
                    f"({graph['context_bytes'] / KIBIBYTE:.0f} KiB, "
                    f"{graph['compile_seconds']:.1f} s), because the simulator crashed on level "
                    f"{level}"
                )

    def run_tapped(self, file: Path, entry: dict[str, Any], *inputs: np.ndarray) -> Arrays:
        """Compile an ONNX file as that of `entry` was, and run it: name of an output -> float32."""
        names = [value.name for value in onnx.load(file, load_external_data=False).graph.input]
        feeds = {"x": dict(zip(names, inputs, strict=True))}
        outputs, _ = self._work(file, entry, feeds, {"optimise": entry["optimisation"]})
        return outputs["x"]

    def _run(
        self, spec: GraphSpec, graph: dict[str, Any], arrays: dict[str, Inputs]
    ) -> dict[str, Inputs]:
        feeds = {label: dict(zip(spec.inputs, x, strict=True)) for label, x in arrays.items()}
        outputs, done = self._work(self.folder / graph["file"], graph, feeds, {})
        graph["load_seconds"] = round(done["load_seconds"], 2)
        graph["simulator_seconds"] = round(sum(done["seconds"]) / len(done["seconds"]), 2)
        return {
            label: tuple(named[name] for name in spec.outputs) for label, named in outputs.items()
        }

    def _work(
        self, file: Path, graph: dict[str, Any], feeds: dict[str, Arrays], more: dict[str, Any]
    ) -> tuple[dict[str, Arrays], dict[str, Any]]:
        """Label -> name of an output -> array, and what the process answered."""
        with tempfile.TemporaryDirectory() as folder:
            inputs = Path(folder) / "x.npz"
            outputs = Path(folder) / "y.npz"
            save_feeds(inputs, feeds)
            done = work(
                self.python,
                {
                    "do": "run",
                    "model": str(file),
                    "inputs": str(inputs),
                    "outputs": str(outputs),
                    "arch": graph["provider"]["htp_arch"],
                    "soc": graph["provider"]["soc_model"],
                    **more,
                },
            )
            return load_outputs(outputs), done


def save_feeds(path: Path, named: dict[str, Arrays]) -> None:
    """Write label -> name -> array as `label/name` -> array."""
    flat = {f"{label}/{name}": x for label, xs in named.items() for name, x in xs.items()}
    # Its stub takes every keyword for `allow_pickle`.
    np.savez(path, **flat)  # type: ignore[arg-type]


def load_outputs(path: Path) -> dict[str, Arrays]:
    """Label -> name -> array, as `save_feeds` wrote them."""
    named: dict[str, Arrays] = {}
    with np.load(path) as stored:
        for key in stored.files:
            label, _, name = key.partition("/")
            named.setdefault(label, {})[name] = stored[key]
    return named


def write(parts: Parts, folder: Path) -> Exported:
    """Write the Q/DQ files, and compile them where that is possible."""
    check_no_packed_weights(parts)
    options = parts.options
    chip = choose_chip(options.chip)
    python = find_python(options.python)
    paths = float_graphs(parts, folder, rewrites=options.rewrite or "qnn")
    graphs: dict[str, dict[str, Any]] = {}
    notes = []
    for stem, path in paths.items():
        numbers = constant_outputs(path)
        if numbers is not None:
            graphs[stem] = store(path, numbers)
            notes.append(f"{stem}: the same for every image, stored as {graphs[stem]['file']}")
            continue
        if parts.dtype != "fp16":
            quantise_file(path, QNN, parts, wide_io=not options.eight_bit_io)
        graphs[stem] = {
            **manifest_entry(path),
            "provider": {"htp_arch": chip.htp_arch, "soc_model": chip.soc_model},
        }
        if python is None:
            notes.append(_how_to_compile(stem, path, chip))
            continue
        compile_part(folder, stem, graphs[stem], python, HIGHEST_LEVEL)
        notes.append(
            f"{stem}: one context binary for {chip.name} (v{chip.htp_arch}), "
            f"{graphs[stem]['context_bytes'] / KIBIBYTE:.0f} KiB, compiled in "
            f"{graphs[stem]['compile_seconds']:.1f} s, no node on the CPU; "
            f"{sum(graphs[stem]['operators'].values())} operators move "
            f"{graphs[stem]['moved_bytes'] / 1e6:,.1f} MB"
        )
    specs = {stem: parts.spec(stem) for stem in paths}
    simulator = None if python is None else Simulator(folder, specs, graphs, python, notes)
    return Exported(
        graphs,
        PACKAGES,
        _describe_codes(parts, chip),
        runs=simulator is not None,
        notes=notes,
        runner=simulator,
        tap_runner=None if simulator is None else simulator.run_tapped,
    )


def _how_to_compile(stem: str, path: Path, chip: Chip) -> str:
    job = {
        "do": "compile",
        "model": path.name,
        "context": f"{stem}_ctx.onnx",
        "arch": chip.htp_arch,
        "soc": chip.soc_model,
    }
    return (
        f"{stem}: not compiled, because onnxruntime-qnn is not installed. In the exported folder, "
        "with a Python that has it (pip install onnxruntime-qnn==2.7.0 onnx): "
        f"{command_line('python', job)}"
    )


def _placement(parts: Parts) -> str:
    """Which operators are on a grid, for the manifest."""
    if parts.activation_bits == 16:
        return "whole graph"
    return f"whole graph, but operators in float16 with a tensor that it leaves under {LEAST_DB} dB"


def _describe_codes(parts: Parts, chip: Chip) -> dict[str, Any]:
    """What the manifest says of the chip and of the codes."""
    kind = {"chip": chip.name, "part": chip.part, "htp_arch": f"v{chip.htp_arch}"}
    if parts.dtype == "fp16":
        return kind
    by = "onnxruntime get_qnn_qdq_config, min-max"
    if parts.quantised:
        by += "; the quantize pass's ranges kept"
    wide_io = not parts.options.eight_bit_io and not parts.quantised
    return {
        **kind,
        "scheme": "QuantizeLinear/DequantizeLinear pairs",
        "placement": _placement(parts),
        "by": by,
        "weights": "int8, symmetric, per output channel",
        "activations": f"uint{parts.activation_bits}, per tensor",
        "inputs and outputs": "uint16" if parts.activation_bits == 16 or wide_io else "uint8",
        "pinned": "softmax and sigmoid at [0, 1 - 2^-bits]",
    }
