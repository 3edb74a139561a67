"""What every target is made from: the networks of a model at fixed shapes, with inputs to calibrate and to trace
them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from compress.core.errors import UserError, nearest
from compress.data.calibration import calibration_images
from compress.model.sr_model import SRModel
from compress.process.bidirectional import PERIOD as BIDIRECTIONAL_PERIOD
from compress.process.bidirectional import Bidirectional
from compress.process.one_step import OneStep
from compress.process.residual_sampler import PERIOD as SAMPLER_PERIOD
from compress.process.residual_sampler import ResidualSampler
from export.graphs.export_onnx import GRAPHS, check_size, quantised_layers
from export.targets.host.tiles import clean_latent

if TYPE_CHECKING:
    from export.targets import Target

PARTS = ("encoder", "denoiser", "decoder")


@dataclass(frozen=True)
class Options:
    """`dtype` None: the target's default, or a quantised model's own. `components` None: the parts, and for ONNX the
    whole model too. `images` low-resolution crops of `calibration` (`embedded` or a folder) give ranges. `chip`,
    `python`, `doors` are for qnn. `model_sha256` is of the file that the model was read from, for the manifest."""

    lr_size: tuple[int, int] = (128, 128)
    components: tuple[str, ...] | None = None
    dtype: str | None = None
    dynamic: bool = False
    opset: int | None = None
    low_bits: str = "packed"
    rewrite: str | None = None
    calibration: str = "embedded"
    images: int = 16
    seed: int = 0
    chip: str = "snapdragon-8-gen-3"
    python: str | None = None
    doors: bool = True
    threads: int | None = None
    tolerance: float | None = None
    probes: tuple[str, ...] | None = None
    model_sha256: str | None = None


@dataclass
class Exported:
    """What a target wrote: `graphs` maps a stem to its entry in the manifest, `tools` names packages to list there.
    `runs`: this machine can run it, by `runner(stem, {label: input})` or, where that is None, by run.py's runtimes.
    `notes` are lines for the terminal."""

    graphs: dict[str, dict]
    tools: tuple[str, ...]
    quantisation: dict
    runs: bool = True
    notes: list[str] = field(default_factory=list)
    runner: Callable[[str, dict], dict] | None = None
    rows: list[dict] = field(default_factory=list)


class Parts:
    """The graphs to export of `model`, their modules and their inputs. All tensors are float32 [1, C, h, w]."""

    def __init__(
        self, model: SRModel, target: str, stems: tuple[str, ...], dtype: str, options: Options
    ):
        self.model, self.target, self.stems, self.dtype, self.options = (
            model,
            target,
            stems,
            dtype,
            options,
        )
        self.quantised = bool(quantised_layers(model))

    def module(self, stem: str) -> nn.Module:
        return GRAPHS[stem][0](self.model).eval()

    def names(self, stem: str) -> tuple[str, str]:
        return GRAPHS[stem][1:]

    @cached_property
    def images(self) -> list[torch.Tensor]:
        """Calibration images [1, 3, h, w], of the exported size."""
        height, width = self.options.lr_size
        crops = calibration_images(
            self.options.calibration, self.options.images, max(height, width), self.options.seed
        )
        return [crop[..., :height, :width].contiguous() for crop in crops]

    @cached_property
    def _calibration(self) -> dict[str, list[torch.Tensor]]:
        with torch.no_grad():
            latents = (
                [self.model.encoder(x) for x in self.images]
                if set(self.stems) - {"model", "encoder"}
                else []
            )
            clean = [self.model.clean_latent(x) for x in latents] if "decoder" in self.stems else []
        return {"lr": self.images, "latent": latents, "clean_latent": clean}

    def inputs(self, stem: str) -> list[torch.Tensor]:
        """What reaches a graph for the calibration images."""
        return self._calibration[self.names(stem)[0]]

    @property
    def activation_bits(self) -> int:
        """Of a dtype such as w8a16; 32 or 16 for floats."""
        return (
            int(self.dtype.partition("a")[2])
            if "a" in self.dtype
            else {"fp32": 32}.get(self.dtype, 16)
        )

    @property
    def clean_latent(self) -> dict[str, float]:
        """What a host computes between denoiser and decoder: factors of the latent and of the prediction."""
        process = self.model.process
        if isinstance(process, OneStep):
            return {"latent": 1 / process.signal, "prediction": -process.noise / process.signal}
        return {"latent": 0.0, "prediction": 1.0}

    @property
    def align(self) -> int:
        """What tile positions are multiples of, in low-resolution pixels: processes with noise repeat their map."""
        process = self.model.process
        period = {Bidirectional: BIDIRECTIONAL_PERIOD, ResidualSampler: SAMPLER_PERIOD}.get(
            type(process), 1
        )
        return max(self.model.multiple, round(period / self.model.latent_ratio))


def choose_parts(model: SRModel, name: str, target: "Target", options: Options) -> Parts:
    """Which graphs, and in which arithmetic. Raises UserError for components and dtypes that the model does not
    have."""
    check_size(model, options.lr_size)
    for component in options.components or ():
        if component not in GRAPHS:
            raise UserError(
                f"component '{component}' is unknown{nearest(component, GRAPHS)}; choose from "
                f"{', '.join(GRAPHS)}"
            )
    many = model.process.steps > 1
    stems = options.components or (
        (("model",) if many else PARTS)
        if not target.whole
        else ("model",)
        if many
        else ("model", *PARTS)
    )
    if many and set(stems) != {"model"}:
        raise UserError(
            f"the denoiser runs {model.process.steps} times with host code between, which one file a component "
            "cannot hold; export --component model"
        )
    layers = quantised_layers(model)
    if layers and not target.takes_quantised:
        raise UserError(
            f"target {name} quantises float models by its own tools and cannot take the ranges of the quantize "
            f"pass; export a run without that pass with --dtype w8a8, or choose onnx, qnn or openvino"
        )
    own = f"w8a{16 if any(layer.act_bits > 8 for layer in layers) else 8}"
    if layers and options.dtype not in (None, own):
        raise UserError(
            f"the model is quantised ({own}) and its ranges hold for that; leave out --dtype "
            f"{options.dtype}, or export a run without the quantize pass"
        )
    return Parts(
        model, name, tuple(stems), own if layers else options.dtype or target.default, options
    )


@torch.no_grad()
def check_host_arithmetic(parts: Parts) -> None:
    """Raise UserError unless the parts and the host's arithmetic give the model's clean latent."""
    if "decoder" not in parts.stems or "denoiser" not in parts.stems:
        return
    latent = parts.inputs("denoiser")[0]
    found = clean_latent(
        parts.clean_latent, latent.numpy(), parts.model.predictions(latent)[0].numpy()
    )
    wanted = parts.inputs("decoder")[0].numpy()
    if found.shape != wanted.shape or np.abs(found - wanted).max() > 1e-3 * np.abs(wanted).max():
        raise UserError(
            "between denoiser and decoder this model needs more than a host program's sum of latent and "
            "prediction; export --component model"
        )


def float_model(parts: Parts) -> None:
    """Raise UserError for packed weights of one or two bits, which only target onnx unpacks."""
    if any(getattr(m, "weight_packed", None) is not None for m in parts.model.modules()):
        raise UserError(
            f"target {parts.target} cannot hold weights of one or two bits; choose onnx"
        )


def example(parts: Parts, stem: str) -> torch.Tensor:
    return parts.inputs(stem)[0]


def relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder))
