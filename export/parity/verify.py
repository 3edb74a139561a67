"""Exported graphs run in their runtime and compared with torch, on images that are hard.

Every graph is given torch's own intermediate results. `export.parity.rules` says what it has to
reach.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from compress.core.errors import UserError
from compress.model.sr_model import SCALE, SRModel
from export.graphs.components import GRAPHS, check_size
from export.graphs.layers import low_bit_layers
from export.graphs.probes import probes
from export.parity.measure import Noise, measure_noise, psnr
from export.parity.probes import PHOTOGRAPH, parity_images
from export.parity.rows import make_row, write_rows
from export.parity.rules import code_limit, float_limit, simulation_limit
from export.parity.session import session, static_size
from export.targets.contract import PARTS, Arrays, Exported, Parts, Row, Runner
from export.targets.host.arithmetic import FIXES
from export.targets.host.runtimes import load
from export.targets.host.tiles import clean_latent
from export.targets.target import Target

END_TO_END = "end to end"
CODE_DTYPES = ("w", "fp8")  # how the names of dtypes with codes begin
Images = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One graph on one image, as torch computes it.

    Attributes:
        probe: The image's name.
        lr: The image, float32 [1, 3, h, w] in [0, 1].
        x: What reaches the graph, float32 [1, C, h, w].
        expected: What the graph gives.
        peak: 1 for images, the greatest magnitude for latents.
    """

    probe: str
    lr: torch.Tensor
    x: torch.Tensor
    expected: np.ndarray
    peak: float

    @property
    def is_photograph(self) -> bool:
        """Whether the image is one, and no probe."""
        return self.probe.startswith(PHOTOGRAPH)

    @property
    def is_of_one_colour(self) -> bool:
        """Whether all pixels of the image are the same."""
        return torch.equal(self.lr, self.lr[..., :1, :1].expand_as(self.lr))


# What a case has to reach in dB, and how far the simulation is from itself on it.
Rule = Callable[[Case], tuple[float, Noise | None]]


@torch.no_grad()
def cases_of(model: SRModel, stem: str, images: Images) -> list[Case]:
    """What torch gives for graph `stem` on each image.

    Raises:
        UserError: Something that is not finite.
    """
    graph = GRAPHS[stem]
    module = graph.build(model).eval()
    cases = []
    for probe, lr in images.items():
        x = lr if graph.input == "lr" else model.encoder(lr)
        if graph.input == "clean_latent":
            x = model.clean_latent(x)
        expected = module(x).numpy()
        if not np.isfinite(expected).all():
            raise UserError(
                f"{stem}: the torch model itself gives values that are not finite on the {probe} "
                "probe, so there is nothing to compare with; calibrate or train it again"
            )
        peak = 1.0
        if graph.output not in ("sr", "image"):
            peak = float(np.abs(expected).max()) or 1.0
        cases.append(Case(probe, lr, x, expected, peak))
    return cases


def compare(file: str, cases: list[Case], run: Callable[[Arrays], Arrays], rule: Rule) -> list[Row]:
    """A row for each case of a graph.

    Args:
        file: What the rows call the graph.
        cases: Its cases.
        run: Name of an image -> input, to name -> output.
        rule: What they have to reach.
    """
    outputs = run({case.probe: case.x.numpy() for case in cases})
    rows = []
    for case in cases:
        db = psnr(outputs[case.probe], case.expected, case.peak)
        limit, noise = rule(case)
        rows.append(make_row(file, case.probe, db, limit, noise))
    return rows


def simulation_rule(model: SRModel, stem: str, tolerance: float | None, seed: int) -> Rule:
    """`simulation_limit` for graph `stem`; or `tolerance` in dB, where one is given."""
    module = GRAPHS[stem].build(model).eval()
    is_quantised = bool(low_bit_layers(module))

    @torch.no_grad()
    def rule(case: Case) -> tuple[float, Noise | None]:
        noise = None
        if is_quantised:
            noise = measure_noise(module, case.x, case.expected, case.peak, seed)
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
        onnx_dir: Holds model.onnx, encoder.onnx, denoiser.onnx, decoder.onnx or some of them.
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
    stems = [stem for stem in GRAPHS if _file(folder, stem).is_file()]
    if not stems:
        names = ", ".join(_file(folder, stem).name for stem in GRAPHS)
        raise UserError(f"{folder}: holds none of {names}; export first")
    rows: list[Row] = []
    for stem in stems:
        loaded = session(_file(folder, stem), threads)
        size = static_size(loaded) or lr_size
        check_size(model, size)
        cases = cases_of(model, stem, probes(size, seed))
        rule = simulation_rule(model, stem, tolerance, seed)
        rows += compare(f"{stem}.onnx", cases, session_runner(loaded), rule)
    write_rows(folder, rows)
    return rows


def _file(folder: Path, stem: str) -> Path:
    return folder / f"{stem}.onnx"


def session_runner(loaded: ort.InferenceSession) -> Callable[[Arrays], Arrays]:
    """Runs a graph of one input and one output: label -> input, to label -> output."""
    source = loaded.get_inputs()[0].name
    return lambda arrays: {
        label: loaded.run(None, {source: array})[0] for label, array in arrays.items()
    }


def host_runner(folder: Path, stems: tuple[str, ...], threads: int | None) -> Runner:
    """Runs the graphs of an exported folder as its run.py does, in this process."""
    graphs = load(folder, list(stems), threads)

    def run(stem: str, arrays: Arrays) -> Arrays:
        return {label: np.asarray(graphs[stem](array)) for label, array in arrays.items()}

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
    if parts.target == "onnx" and (parts.dtype == "fp32" or parts.quantised):
        rows = _simulation_rows(parts, folder, images)
    else:
        run = made.runner or host_runner(folder, parts.stems, options.threads)
        threshold = target.dtypes[parts.dtype]
        if options.tolerance is not None:
            threshold = options.tolerance
        rows = _runtime_rows(parts, images, run, threshold)
    write_rows(folder, rows)
    return rows


def _simulation_rows(parts: Parts, folder: Path, images: Images) -> list[Row]:
    """Of ONNX files that compute what torch computes."""
    options = parts.options
    rows: list[Row] = []
    for stem in [stem for stem in GRAPHS if stem in parts.stems]:
        loaded = session(_file(folder, stem), options.threads)
        cases = cases_of(parts.model, stem, images)
        rule = simulation_rule(parts.model, stem, options.tolerance, options.seed)
        rows += compare(f"{stem}.onnx", cases, session_runner(loaded), rule)
    return rows


def _runtime_rows(parts: Parts, images: Images, run: Runner, threshold: float) -> list[Row]:
    """Of graphs in a target's own arithmetic, and of their chain."""
    chained = set(parts.stems) == set(PARTS)
    rows: list[Row] = []
    for stem in parts.stems:
        cases = cases_of(parts.model, stem, images)
        rule = runtime_rule(parts.dtype, threshold, counts=not chained)
        rows += compare(stem, cases, partial(run, stem), rule)
    if chained:
        cases = cases_of(parts.model, "model", images)
        rule = runtime_rule(parts.dtype, threshold, counts=True)
        rows += compare(END_TO_END, cases, partial(run_chain, parts, run), rule)
    return rows


def run_chain(parts: Parts, run: Runner, images: Arrays) -> Arrays:
    """Images through encoder, denoiser and decoder in their runtime, as a host program has them.

    Args:
        parts: The three parts.
        run: Their runtime.
        images: Label -> float32 [1, 3, h, w] in [0, 1].

    Returns:
        Label -> float32 [1, 3, 4h, 4w] in [0, 1]; values that are not finite as they are.
    """
    latents = run("encoder", images)
    predictions = run("denoiser", latents)
    clean = {
        label: clean_latent(parts.clean_latent, latent, predictions[label])
        for label, latent in latents.items()
    }
    correct = FIXES[parts.model.colour_fix]
    restored = {}
    for label, image in run("decoder", clean).items():
        restored[label] = image
        if np.isfinite(image).all():  # else the row says that it is not
            restored[label] = correct(image, images[label], SCALE).clip(0, 1)
    return restored
