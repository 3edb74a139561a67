"""PSNR, and how far a quantised simulation is from itself when nothing but rounding changes.

A quantised network is discontinuous: a difference in the last bit flips a code, and flips spread
until they are noise of about the quantiser's own size. Two numbers measure that on torch alone.

`self_db` is the simulation against itself with the output of every layer disturbed by 1e-6 of its
value, which is about what another order of summation does.

`own_db` is the simulation against itself with no activation rounded: the size of what all flips
together can do. On an image of one colour whole maps hold one value. Where that value lies between
two codes, a whole map flips or none of it, which a few draws of noise need not show.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from compress.quant.calls import paused
from compress.quant.quantiser import TensorQuantiser

JITTER = 1e-6  # of a value
Arrays = tuple[np.ndarray, ...]  # of one graph
MOST_DB = 999.0  # stands for equality in JSON, which has no infinity


@dataclass(frozen=True)
class Noise:
    """How far a quantised simulation is from itself, in dB; None where that is not finite."""

    self_db: float | None
    own_db: float | None


def psnr(value: np.ndarray, reference: np.ndarray, peak: float) -> float:
    """Peak signal-to-noise ratio in dB.

    Args:
        value: What is measured.
        reference: What it should be, of the same shape.
        peak: The greatest magnitude that a signal has.

    Returns:
        Infinity for equal arrays, NaN where `value` is not finite.
    """
    error = float(np.mean((value.astype(np.float64) - reference) ** 2))
    if error == 0:
        return math.inf
    if not math.isfinite(error):
        return math.nan
    return 10 * math.log10(peak**2 / error)


def finite_db(db: float) -> float | None:
    """`db` as JSON can hold it: MOST_DB for equality, None for an output that is not finite."""
    if math.isnan(db):
        return None
    return round(min(db, MOST_DB), 2)


@contextmanager
def rounding_noise(module: nn.Module, seed: int) -> Iterator[None]:
    """Within, every layer of `module` that has weights answers with relative noise of JITTER."""
    generator = torch.Generator().manual_seed(seed)

    def disturb(layer: nn.Module, inputs: tuple, y: torch.Tensor) -> torch.Tensor:
        with paused():  # the noise is no operator of the network
            # The product is laid out in memory as y is: another layout would sum in another order.
            return y * torch.randn(y.shape, generator=generator).mul_(JITTER).add_(1)

    handles = [
        layer.register_forward_hook(disturb)
        for layer in module.modules()
        if hasattr(layer, "weight") or hasattr(layer, "weight_q")
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def unrounded(module: nn.Module) -> Iterator[None]:
    """Within, activations pass through `module` without being rounded or clipped.

    Weights stay as they are. It may lie within another.
    """

    def pass_through(x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
        return x * gain

    rounding = [
        layer
        for layer in module.modules()
        if isinstance(layer, TensorQuantiser) and "forward" not in vars(layer)
    ]
    for quantiser in rounding:  # in the place of its forward, which need not run then
        vars(quantiser)["forward"] = pass_through
    try:
        yield
    finally:
        for quantiser in rounding:
            del vars(quantiser)["forward"]


def worst_psnr(values: Arrays, references: Arrays, peaks: tuple[float, ...]) -> float:
    """The smallest `psnr` of several arrays; NaN where one is not finite."""
    found = [psnr(*three) for three in zip(values, references, peaks, strict=True)]
    if any(map(math.isnan, found)):
        return math.nan
    return min(found)


def measure_noise(
    run: Callable[[], Arrays],
    module: nn.Module,
    references: Arrays,
    peaks: tuple[float, ...],
    seed: int,
) -> Noise:
    """How far a quantised simulation is from itself.

    Args:
        run: Runs the simulation on one image.
        module: The simulation.
        references: What it gives there.
        peaks: For `psnr`, of each output.
        seed: Of the disturbance.
    """
    with rounding_noise(module, seed):
        self_db = finite_db(worst_psnr(run(), references, peaks))
    with unrounded(module):
        own_db = finite_db(worst_psnr(run(), references, peaks))
    return Noise(self_db, own_db)
