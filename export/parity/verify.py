"""Exported graphs run in their runtime and compared with torch, on images that are hard.

Every graph is given torch's own intermediate results, at every step if it takes the states of
several. `export.parity.rules` says what it has to reach; of several outputs the worst counts.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from compress.core.errors import UserError
from compress.model.sr_model import SCALE, SRModel
from export.graphs.components import (
    MODEL,
    build,
    check_size,
    graphs_of,
    outputs_of,
)
from export.graphs.layers import low_bit_layers
from export.graphs.probes import probes
from export.parity.measure import Arrays, Noise, measure_noise, unrounded, worst_psnr
from export.parity.probes import parity_images
from export.parity.reference import Case, Images, Reference
from export.parity.rows import make_row, write_rows
from export.parity.rules import FLOAT_DB, code_limit, float_limit, simulation_limit
from export.parity.session import session, static_size
from export.targets.contract import Exported, Parts, Row
from export.targets.host.arithmetic import FIXES
from export.targets.host.chain import run_parts, runner
from export.targets.host.runtimes import load
from export.targets.target import Target

END_TO_END = "end to end"
SIMULATED = ("onnx", "web")  # targets whose ONNX files compute what torch does
CODE_DTYPES = ("w", "fp8")  # how the names of dtypes with codes begin
# Runs a graph, by its name: label -> its inputs, to label -> its outputs.
RunGraph = Callable[[str, dict[str, Arrays]], dict[str, Arrays]]

# What a case has to reach in dB, and how far the simulation is from itself on it.
Rule = Callable[[Case], tuple[float, Noise | None]]


def compare(
    file: str, cases: list[Case], run: Callable[[dict[str, Arrays]], dict[str, Arrays]], rule: Rule
) -> list[Row]:
    """A row for each case of a graph.

    Args:
        file: What the rows call the graph.
        cases: Its cases.
        run: Name of a case -> inputs, to name -> outputs.
        rule: What they have to reach.
    """
    outputs = run({case.probe: tuple(x.numpy() for x in case.inputs) for case in cases})
    rows = []
    for case in cases:
        db = worst_psnr(outputs[case.probe], case.expected, case.peaks)
        limit, noise = rule(case)
        rows.append(make_row(file, case.probe, db, limit, noise))
    return rows


def simulation_rule(model: SRModel, stem: str, tolerance: float | None, seed: int) -> Rule:
    """`simulation_limit` for graph `stem`; or `tolerance` in dB, where one is given."""
    module = build(model, stem)
    is_quantised = bool(low_bit_layers(module))

    @torch.no_grad()
    def rule(case: Case) -> tuple[float, Noise | None]:
        noise = None
        if is_quantised:

            def run() -> Arrays:
                return tuple(x.numpy() for x in outputs_of(module, case.inputs))

            noise = measure_noise(run, module, case.expected, case.peaks, seed)
        if tolerance is not None:
            return tolerance, noise
        return simulation_limit(noise, case.is_of_one_colour), noise

    return rule


def runtime_rule(dtype: str, threshold: float, counts: bool) -> Rule:
    """`code_limit` or `float_limit`, by the dtype of a target's own arithmetic."""

    def rule(case: Case) -> tuple[float, Noise | None]:
        if dtype.startswith(CODE_DTYPES):
            return code_limit(threshold, counts, case.is_photograph), None
        return float_limit(threshold, counts), None

    return rule


def verify(
    model: SRModel,
    onnx_dir: Path,
    *,
    tolerance: float | None = None,
    threads: int | None = None,
    lr_size: tuple[int, int] = (128, 128),
    seed: int = 0,
) -> list[Row]:
    """Compare every ONNX file of a folder with torch on the probes, and write parity.json there.

    Args:
        model: What was exported.
        onnx_dir: Holds model.onnx and the files of the components, or some of them.
        tolerance: In dB; None for `simulation_limit`.
        threads: CPU threads; None for one per core.
        lr_size: Height and width for files that take any size.
        seed: Of the probes and of the noise.

    Returns:
        Rows in the order of files and probes.

    Raises:
        UserError: There is no file, one cannot be loaded, or torch's values are not finite.
    """
    folder = Path(onnx_dir)
    graphs = graphs_of(model)
    stems = [stem for stem in graphs if _file(folder, stem).is_file()]
    if not stems:
        names = ", ".join(_file(folder, stem).name for stem in graphs)
        raise UserError(f"{folder}: holds none of {names}; export first")
    rows: list[Row] = []
    references: dict[tuple[int, int], Reference] = {}
    for stem in stems:
        loaded = session(_file(folder, stem), threads)
        size = static_size(loaded) or lr_size
        check_size(model, size)
        if size not in references:
            references[size] = Reference(model, probes(size, seed))
        cases = references[size].cases(stem)
        rule = simulation_rule(model, stem, tolerance, seed)
        rows += compare(f"{stem}.onnx", cases, session_runner(loaded), rule)
    write_rows(folder, rows)
    return rows


def _file(folder: Path, stem: str) -> Path:
    return folder / f"{stem}.onnx"


def session_runner(
    loaded: ort.InferenceSession,
) -> Callable[[dict[str, Arrays]], dict[str, Arrays]]:
    """Runs a graph: label -> inputs, to label -> outputs."""
    names = [entry.name for entry in loaded.get_inputs()]
    return lambda arrays: {
        label: tuple(loaded.run(None, dict(zip(names, inputs, strict=True))))
        for label, inputs in arrays.items()
    }


def host_runner(folder: Path, stems: tuple[str, ...], threads: int | None) -> RunGraph:
    """Runs the graphs of an exported folder as its run.py does, in this process."""
    run_loaded = runner(load(folder, list(stems), threads))

    def run(stem: str, arrays: dict[str, Arrays]) -> dict[str, Arrays]:
        results = run_loaded(stem, list(arrays.values()))
        return {
            label: tuple(map(np.asarray, outputs))
            for label, outputs in zip(arrays, results, strict=True)
        }

    return run


def verify_exported(parts: Parts, made: Exported, folder: Path, target: Target) -> list[Row]:
    """Compare what a target wrote with torch in its runtime, and write parity.json there.

    `end to end` is the whole chain in the runtime, with the host's arithmetic and the colour
    correction. ONNX files that compute what torch computes have to reach `simulation_limit`.
    Floats have to reach the target's threshold on every image. Codes have to on photographs: end
    to end or, where not all parts were exported, graph by graph.

    Args:
        parts: What was exported; its options say on which images.
        made: What the target made of it.
        folder: Where it lies, with its manifest.
        target: That of `parts`.

    Returns:
        Rows in the order of graphs and images.

    Raises:
        UserError: An unknown image, or torch's values are not finite.
    """
    options = parts.options
    images = parity_images(options.lr_size, options.seed, options.probes)
    if parts.target in SIMULATED and (parts.dtype == "fp32" or parts.quantised):
        rows = _simulation_rows(parts, made, folder, images)
    else:
        run = made.runner or host_runner(folder, parts.stems, options.threads)
        threshold = target.dtypes[parts.dtype]
        if options.tolerance is not None:
            threshold = options.tolerance
        rows = _runtime_rows(parts, images, run, threshold)
    if made.variants:
        rows += _variant_rows(parts, made, folder, images)
    write_rows(folder, rows)
    return rows


def _simulation_rows(parts: Parts, made: Exported, folder: Path, images: Images) -> list[Row]:
    """Of ONNX files that compute what torch computes."""
    options = parts.options
    rows: list[Row] = []
    reference = Reference(parts.model, images)
    for stem in parts.stems:
        file = made.graphs[stem]["file"]
        loaded = session(folder / file, options.threads)
        cases = reference.cases(stem)
        if parts.dtype == "w8":  # nothing is rounded while it runs
            least = FLOAT_DB if options.tolerance is None else options.tolerance
            rule = runtime_rule("fp32", least, counts=True)
        else:
            rule = simulation_rule(parts.model, stem, options.tolerance, options.seed)
        rows += compare(file, cases, session_runner(loaded), rule)
    return rows


def _variant_rows(parts: Parts, made: Exported, folder: Path, images: Images) -> list[Row]:
    """Of the further dtypes in onnxruntime: the picture of the chain, or of the whole graph.

    A quantised model is compared without rounding of its activations, as it was written.
    """
    chained = MODEL not in parts.stems
    least = parts.options.tolerance
    rows: list[Row] = []
    with unrounded(parts.model):
        cases = Reference(parts.model, images).cases(MODEL)
        for variant in made.variants:
            run = _files_runner(variant.graphs, folder, parts.options.threads)
            rule = runtime_rule("fp32", variant.least_db if least is None else least, counts=True)
            whole = partial(run_chain, parts, run) if chained else partial(run, MODEL)
            rows += compare(variant.name, cases, whole, rule)
    return rows


def _files_runner(graphs: dict[str, dict[str, Any]], folder: Path, threads: int | None) -> RunGraph:
    """Runs ONNX files by the names of their graphs."""
    runners = {
        stem: session_runner(session(folder / graph["file"], threads))
        for stem, graph in graphs.items()
    }

    def run(stem: str, arrays: dict[str, Arrays]) -> dict[str, Arrays]:
        return runners[stem](arrays)

    return run


def _runtime_rows(parts: Parts, images: Images, run: RunGraph, threshold: float) -> list[Row]:
    """Of graphs in a target's own arithmetic, and of their chain."""
    chained = parts.are_whole and MODEL not in parts.stems
    rows: list[Row] = []
    reference = Reference(parts.model, images)
    for stem in parts.stems:
        cases = reference.cases(stem)
        rule = runtime_rule(parts.dtype, threshold, counts=not chained)
        rows += compare(stem, cases, partial(run, stem), rule)
    if chained:
        cases = reference.cases(MODEL)
        rule = runtime_rule(parts.dtype, threshold, counts=True)
        rows += compare(END_TO_END, cases, partial(run_chain, parts, run), rule)
    return rows


def run_chain(parts: Parts, run: RunGraph, images: dict[str, Arrays]) -> dict[str, Arrays]:
    """Images through the graphs of all components in their runtime, as a host program has them.

    Args:
        parts: All components.
        run: Their runtime.
        images: Label -> the inputs of the whole model: `lr`, float32 [1, 3, h, w] in [0, 1], and
            further images.

    Returns:
        Label -> float32 [1, 3, 4h, 4w]; values that are not finite as they are.
    """
    names = graphs_of(parts.model)[MODEL].inputs
    labels = list(images)
    batch = [dict(zip(names, images[label], strict=True)) for label in labels]

    def run_batch(stem: str, given: list[Arrays]) -> list[Arrays]:
        outputs = run(stem, dict(zip(labels, given, strict=True)))
        return [outputs[label] for label in labels]

    correct = FIXES[parts.model.colour_fix]
    restored: dict[str, Arrays] = {}
    for label, image in zip(labels, run_parts(parts.program, run_batch, batch), strict=True):
        restored[label] = (image,)
        if np.isfinite(image).all():  # else the row says that it is not
            restored[label] = (correct(image, images[label][0], SCALE).clip(0, 1),)
    return restored
