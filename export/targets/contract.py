"""What a target is given, and what it makes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
import torch
from torch import nn

from compress.data.calibration import as_values, calibration_images
from compress.model.calls import Values
from compress.model.sr_model import SRModel
from compress.process.knobs import STEPS
from compress.process.linear_steps import Between, LinearSteps
from compress.process.linear_steps import Row as LinearRow
from compress.recipe.export_options import ExportOptions
from compress.routing.knobs import exported_knobs
from compress.routing.step_table import is_linear, step_table
from export.graphs.components import (
    MODEL,
    GraphSpec,
    Tensors,
    build,
    graphs_of,
    parts_of,
    reaching,
)
from export.graphs.layers import quantised_layers

Arrays = dict[str, np.ndarray]
Inputs = tuple[np.ndarray, ...]  # of a graph, or its outputs, in their order
# Factors of the clean latent where no host program computes one.
PREDICTION_ALONE = {"latent": 0.0, "prediction": 1.0}


class Row(TypedDict):
    """One graph on one image: a row of parity.json.

    Attributes:
        file: The graph's file or name; `end to end` for the chain of all parts.
        probe: The image.
        psnr_db: Of the runtime against torch; peak 1 for images, the reference's greatest
            magnitude for latents. None is an output that is not finite.
        self_db: See `export.parity.measure`; None for a float model.
        own_db: See `export.parity.measure`; None for a float model.
        tolerance_db: What it has to reach.
        passed: Whether it does.
    """

    file: str
    probe: str
    psnr_db: float | None
    self_db: float | None
    own_db: float | None
    tolerance_db: float
    passed: bool


class Runner(Protocol):
    """Runs the graphs that a target made."""

    def __call__(self, stem: str, arrays: dict[str, Inputs]) -> dict[str, Inputs]:
        """Run graph `stem`: label -> its inputs in their order, to label -> its outputs."""


class TapRunner(Protocol):
    """Runs an ONNX file in a target's runtime and returns all its outputs."""

    def __call__(self, file: Path, entry: dict[str, Any], *inputs: np.ndarray) -> Arrays:
        """Name of an output -> float32; `entry` is that of the graph in the manifest."""


@dataclass(frozen=True)
class Variant:
    """The same graphs in another arithmetic, beside those of the dtype that was asked for.

    Attributes:
        name: For rows of parity.
        dtype: The arithmetic.
        graphs: Stem -> its entry in the manifest.
        least_db: Parity with torch, end to end. A quantised model is compared without rounding of
            its activations.
    """

    name: str
    dtype: str
    graphs: dict[str, dict[str, Any]]
    least_db: float


@dataclass
class Exported:
    """What a target wrote.

    Attributes:
        graphs: Stem -> its entry in the manifest.
        tools: Packages whose versions the manifest lists.
        quantisation: What the manifest says of the codes; empty for floats.
        runs: Whether this machine can run it.
        notes: Lines for the terminal.
        runner: How; None for the runtimes of the host program.
        tap_runner: How to run a graph with inner tensors put out; None for onnxruntime.
        rows: The parity with torch, where it was measured.
        variants: The graphs in further dtypes, which onnxruntime computes.
        page: What a page for browsers has to know; empty for other targets.
        remark: Why it cannot run here, where the target could.
    """

    graphs: dict[str, dict[str, Any]]
    tools: tuple[str, ...]
    quantisation: dict[str, Any]
    runs: bool = True
    notes: list[str] = field(default_factory=list)
    runner: Runner | None = None
    tap_runner: TapRunner | None = None
    rows: list[Row] = field(default_factory=list)
    variants: list[Variant] = field(default_factory=list)
    page: dict[str, Any] = field(default_factory=dict)
    remark: str = ""


class Parts:
    """The graphs to export of a model, with inputs to calibrate and to trace them.

    Attributes:
        model: In float, or with the codes of a quantize pass.
        stems: Names of the graphs, in running order.
        dtype: The arithmetic.
        options: What was asked for.
        quantised: Whether the model has codes of its own.
    """

    def __init__(
        self, model: SRModel, stems: tuple[str, ...], dtype: str, options: ExportOptions
    ) -> None:
        self.model = model
        self.stems = stems
        self.dtype = dtype
        self.options = options
        self.quantised = bool(quantised_layers(model))

    @property
    def target(self) -> str:
        """The name of the target."""
        return self.options.target

    def module(self, stem: str) -> nn.Module:
        """What a graph computes, in evaluation mode."""
        return build(self.model, stem)

    def spec(self, stem: str) -> GraphSpec:
        """Names of a graph's inputs and outputs."""
        return graphs_of(self.model)[stem]

    @property
    def are_whole(self) -> bool:
        """Whether all graphs of components are exported."""
        return set(parts_of(self.model)) <= set(self.stems)

    @cached_property
    def images(self) -> list[torch.Tensor]:
        """Calibration images, float32 [1, 3, h, w] in [0, 1], of the exported size."""
        height, width = self.options.lr_size
        crops = calibration_images(
            self.options.calibration, self.options.images, max(height, width), self.options.seed
        )
        return [crop[..., :height, :width].contiguous() for crop in crops]

    @cached_property
    def known(self) -> list[Values]:
        """What there is of each calibration image: itself, and what was computed already."""
        return as_values(self.model, self.images)

    @torch.no_grad()
    def tuples(self, stem: str) -> list[Tensors]:
        """What reaches a graph for the calibration images, and at each step if there are several.

        Each is a tuple of all its inputs.
        """
        if stem != MODEL:
            for values in self.known:
                values |= self.model.values_before(stem, values)
        return [x for values in self.known for x in reaching(self.model, stem, values)]

    def example(self, stem: str) -> Tensors:
        """The inputs to trace a graph with, laid out as a host program gives them."""
        return tuple(x.contiguous() for x in self.tuples(stem)[0])

    @property
    def activation_bits(self) -> int:
        """Of a dtype such as w8a16; else 32 for fp32 and 16 for the rest."""
        _, has_activations, bits = self.dtype.partition("a")
        if has_activations:
            return int(bits)
        return 32 if self.dtype == "fp32" else 16

    @property
    def process(self) -> dict[str, Any]:
        """What a host computes between the graphs, as host/chain.py reads it."""
        process = self.model.process
        section: dict[str, Any] = {"clean_latent": dict(process.factors or PREDICTION_ALONE)}
        images = self.model.wiring.images
        if images:
            section["images"] = {name: list(size) for name, size in images.items()}
        references = self.model.wiring.references
        if references is not None:
            section["references"] = {
                "places": references.count,
                "size": list(references.size),
                "kept": {name: list(shape) for name, shape in references.shapes.items()},
            }
        if isinstance(process, LinearSteps) and process.steps > 1:
            present = parts_of(self.model)
            calls = self.model.wiring.steps
            section["each_step"] = [c.component for c in calls if c.component in present]
            section["start"] = dict(process.start)
            section["steps"] = [self._step(row) for row in process.rows]
            if process.between:
                again = (call for call in process.between if call.component in present)
                section["between"] = [self._between(call) for call in again]
            ladder = process.ladder
            if ladder is not None and STEPS in exported_knobs(process):
                for place, step in enumerate(section["steps"]):
                    step["clean"] = dict(ladder.clean_of(place))
        if isinstance(process, LinearSteps) and process.scalable:
            section["noise"] = list(process.scalable)
        if is_linear(process):
            present = parts_of(self.model)
            calls = self.model.wiring.steps
            section["each_step"] = [c.component for c in calls if c.component in present]
            section["start"] = dict(process.ladder.start)
            section["adaptive"] = step_table(process)
        return section

    def _step(self, row: LinearRow) -> dict[str, Any]:
        """One step, as host/chain.py reads it."""
        step: dict[str, Any] = {"timestep": row.timestep, "factors": dict(row.factors)}
        present = parts_of(self.model)
        calls = (call for call in self.model.wiring.steps if call.component in present)
        read = {name for call in calls for name in self.spec(call.component).inputs}
        instead = {name: other for name, other in row.instead.items() if name in read}
        return {**step, "instead": instead} if instead else step

    def _between(self, call: Between) -> dict[str, Any]:
        """One call between two steps, as host/chain.py reads it."""
        wired = self.model.wiring.call(call.component)
        taken = self.spec(call.component).inputs
        read = zip(wired.inputs, call.inputs, strict=True) if wired.inputs else ()
        made = zip(wired.outputs, call.outputs, strict=True)
        return {
            "graph": call.component,
            "instead": {own: other for own, other in read if own in taken and own != other},
            "makes": {own: other for own, other in made if own != other},
        }

    @property
    def program(self) -> dict[str, Any]:
        """As much of the manifest as host/chain.py needs: the graphs of all components."""
        graphs = {}
        for stem in parts_of(self.model):
            spec = self.spec(stem)
            graphs[stem] = {
                "inputs": [{"name": name} for name in spec.inputs],
                "outputs": [{"name": name} for name in spec.outputs],
            }
        return {"graphs": graphs, "host": self.process}

    @property
    def align(self) -> int:
        """What tile positions are multiples of, in low-resolution pixels.

        Processes with noise repeat their map of noise, with a period in pixels of the latent. Tiles
        at multiples of it see the noise of the whole. A smaller tile begins the map anew: at
        multiples of the period such tiles would leave gaps.
        """
        period = round(self.model.process.period / self.model.latent_ratio)
        if period > min(self.options.lr_size):
            return self.model.multiple
        return max(self.model.multiple, period)


# The files of a target, written into a folder.
Writer = Callable[[Parts, Path], Exported]
