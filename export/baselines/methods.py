"""The table of methods, and what each is given.

Placements: `products` is inputs and weights of convolutions and matrix products, attention's among
them (the toolkit's `compat with attention`). `full` is the whole graph. `library` is what NNCF
decides. `weights` leaves activations in float.
"""

import importlib.util
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.errors import UserError, nearest

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

ORT, NNCF, AO = "onnxruntime", "nncf", "torchao"
INSTALL = {NNCF: "nncf==3.4.0", ORT: "onnxruntime>=1.31,<1.32", AO: "torchao>=0.18,<0.19"}


@dataclass(frozen=True)
class Job:
    """One component to quantise.

    Attributes:
        stem: The component's name.
        names: Of the graph's input and output.
        file: Its float graph, an ONNX file.
        module: The same in torch.
        arrays: Inputs to calibrate on, float32 [1, C, h, w].
        weights: Bits.
        activations: Bits; None for floats.
    """

    stem: str
    names: tuple[str, str]
    file: Path
    module: "nn.Module"
    arrays: "list[np.ndarray]"
    weights: int
    activations: int | None

    @property
    def activation_bits(self) -> int:
        """`activations`, of a method that quantises them.

        Raises:
            ValueError: The job is for weights alone.
        """
        if self.activations is None:
            raise ValueError(f"{self.stem}: the job quantises weights alone")
        return self.activations


@dataclass(frozen=True)
class Method:
    """What a library can do to a component.

    Attributes:
        library: The package.
        placement: Which tensors it quantises, see above.
        widths: Such as W8A8, or W8 for weights alone.
        module: export.baselines.<module> has `function`.
        function: `function(job, target)` writes the file `target`.
        what: One line.
    """

    library: str
    placement: str
    widths: tuple[str, ...]
    module: str
    function: str
    what: str

    def __call__(self, job: Job, target: Path) -> None:
        """Write the file `target` of one component."""
        module = import_module(f"export.baselines.{self.module}")
        getattr(module, self.function)(job, target)


METHODS: dict[str, Method] = {
    "ort-minmax": Method(
        library=ORT,
        placement="products",
        widths=("W8A8", "W8A16"),
        module="ort",
        function="minmax",
        what="quantize_static, observed ranges",
    ),
    "ort-percentile": Method(
        library=ORT,
        placement="products",
        widths=("W8A8",),
        module="ort",
        function="percentile",
        what="quantize_static, the 99.999th percentile of a histogram",
    ),
    "ort-entropy": Method(
        library=ORT,
        placement="products",
        widths=("W8A8",),
        module="ort",
        function="entropy",
        what="quantize_static, ranges of the least Kullback-Leibler divergence",
    ),
    "ort-qnn": Method(
        library=ORT,
        placement="full",
        widths=("W8A8", "W8A16", "W4A8"),
        module="ort",
        function="qnn",
        what="quantize_static as get_qnn_qdq_config sets it",
    ),
    "nncf": Method(
        library=NNCF,
        placement="library",
        widths=("W8A8",),
        module="nncf_onnx",
        function="plain",
        what="nncf.quantize, ONNX backend",
    ),
    "nncf-accuracy": Method(
        library=NNCF,
        placement="library",
        widths=("W8A8",),
        module="nncf_onnx",
        function="with_accuracy_control",
        what="the same, layers put back into float until a component keeps 40 dB",
    ),
    "torchao-pt2e": Method(
        library=AO,
        placement="products",
        widths=("W8A8", "W6A6", "W4A8", "W8A16"),
        module="pt2e",
        function="quantise",
        what="prepare_pt2e and convert_pt2e, observed ranges; convolutions and linear layers",
    ),
    "torchao-weight-only": Method(
        library=AO,
        placement="weights",
        widths=("W8", "W4"),
        module="weight_only",
        function="quantise",
        what="quantize_, IntxWeightOnlyConfig",
    ),
}


def parse_bits(text: str) -> tuple[int, int | None]:
    """'w8a8' -> (8, 8); 'w8' -> (8, None).

    Raises:
        UserError: It is no width.
    """
    match = re.fullmatch(r"w(\d+)(?:a(\d+))?", text.lower())
    if not match:
        raise UserError(
            f"--bits '{text}' is no width; write weights and activations like w8a8, or w8 for "
            "weights alone"
        )
    return int(match[1]), int(match[2]) if match[2] else None


def label(weights: int, activations: int | None) -> str:
    """(8, 8) -> 'W8A8'; (8, None) -> 'W8'."""
    return f"W{weights}" if activations is None else f"W{weights}A{activations}"


def check(name: str, weights: int, activations: int | None) -> Method:
    """The method of that name.

    Args:
        name: A key of METHODS.
        weights: Bits.
        activations: Bits; None for floats.

    Raises:
        UserError: There is none, it has not that width, or its package is missing.
    """
    if name not in METHODS:
        raise UserError(
            f"baseline '{name}' is unknown{nearest(name, METHODS)}; choose one of "
            f"{', '.join(METHODS)}"
        )
    method = METHODS[name]
    width = label(weights, activations)
    if width not in method.widths:
        raise UserError(
            f"{name} has no {width}; it has {', '.join(method.widths)}, and the quantize pass "
            "(method: minmax) has every width"
        )
    if importlib.util.find_spec(method.library) is None:
        raise UserError(
            f"{name} needs the package {method.library}, which is not installed; run: pip install "
            f"'{INSTALL[method.library]}'"
        )
    return method
