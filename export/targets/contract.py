"""What a target is given, and what it makes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
import torch
from torch import nn

from compress.data.calibration import calibration_images
from compress.model.sr_model import SRModel
from compress.process.bidirectional import PERIOD as BIDIRECTIONAL_PERIOD
from compress.process.bidirectional import Bidirectional
from compress.process.one_step import OneStep
from compress.process.residual_sampler import PERIOD as SAMPLER_PERIOD
from compress.process.residual_sampler import ResidualSampler
from compress.recipe.export_options import ExportOptions
from export.graphs.components import GRAPHS
from export.graphs.layers import quantised_layers

PARTS = ("encoder", "denoiser", "decoder")
Arrays = dict[str, np.ndarray]


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

    def __call__(self, stem: str, arrays: Arrays) -> Arrays:
        """Run graph `stem` on each float32 array [1, C, h, w]; label -> output of that label."""


class TapRunner(Protocol):
    """Runs an ONNX file in a target's runtime and returns all its outputs."""

    def __call__(self, file: Path, entry: dict[str, Any], x: np.ndarray) -> Arrays:
        """Name of an output -> float32; `entry` is that of the graph in the manifest."""


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
    """

    graphs: dict[str, dict[str, Any]]
    tools: tuple[str, ...]
    quantisation: dict[str, Any]
    runs: bool = True
    notes: list[str] = field(default_factory=list)
    runner: Runner | None = None
    tap_runner: TapRunner | None = None
    rows: list[Row] = field(default_factory=list)


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
        """What a graph computes; reads and returns float32 [1, C, h, w]."""
        return GRAPHS[stem].build(self.model).eval()

    def names(self, stem: str) -> tuple[str, str]:
        """Names of a graph's input and output."""
        graph = GRAPHS[stem]
        return graph.input, graph.output

    @cached_property
    def images(self) -> list[torch.Tensor]:
        """Calibration images, float32 [1, 3, h, w] in [0, 1], of the exported size."""
        height, width = self.options.lr_size
        crops = calibration_images(
            self.options.calibration, self.options.images, max(height, width), self.options.seed
        )
        return [crop[..., :height, :width].contiguous() for crop in crops]

    @cached_property
    def _latents(self) -> list[torch.Tensor]:
        with torch.no_grad():
            return [self.model.encoder(image) for image in self.images]

    @cached_property
    def _clean_latents(self) -> list[torch.Tensor]:
        with torch.no_grad():
            return [self.model.clean_latent(latent) for latent in self._latents]

    def inputs(self, stem: str) -> list[torch.Tensor]:
        """What reaches a graph for the calibration images, float32 [1, C, h, w] each."""
        source, _ = self.names(stem)
        if source == "lr":
            return self.images
        return self._latents if source == "latent" else self._clean_latents

    def example(self, stem: str) -> torch.Tensor:
        """An input to trace a graph with, float32 [1, C, h, w]."""
        return self.inputs(stem)[0]

    @property
    def activation_bits(self) -> int:
        """Of a dtype such as w8a16; else 32 for fp32 and 16 for the rest."""
        _, has_activations, bits = self.dtype.partition("a")
        if has_activations:
            return int(bits)
        return 32 if self.dtype == "fp32" else 16

    @property
    def clean_latent(self) -> dict[str, float]:
        """What a host computes between denoiser and decoder.

        Returns:
            Factors of the `latent` and of the `prediction`.
        """
        process = self.model.process
        if isinstance(process, OneStep):
            return {"latent": 1 / process.signal, "prediction": -process.noise / process.signal}
        return {"latent": 0.0, "prediction": 1.0}

    @property
    def align(self) -> int:
        """What tile positions are multiples of, in low-resolution pixels.

        Processes with noise repeat their map of noise, with a period in pixels of the latent.
        """
        periods = {Bidirectional: BIDIRECTIONAL_PERIOD, ResidualSampler: SAMPLER_PERIOD}
        period = periods.get(type(self.model.process), 1)
        return max(self.model.multiple, round(period / self.model.latent_ratio))


# The files of a target, written into a folder.
Writer = Callable[[Parts, Path], Exported]
