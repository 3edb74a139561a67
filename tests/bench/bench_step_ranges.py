"""What ranges of their own for each step of a chain pay: PSNR to the float model, in 8 and 6 bits.

    python tests/bench/bench_step_ranges.py '{family: invsr, steps: 5, weights: NANO.safetensors}'

Activations of the networks of a step are quantised by ranges as observed: one for all steps, and
one for each. Without weights the embedded OSEDiff nano's UNet and autoencoder stand in, beside
random values for the rest: such a chain leaves the range of a trained one.
"""

import copy
import math
import sys

import torch
import yaml
from random_weights import randomise
from safetensors.torch import load_file

from compress.data.calibration import calibration_images
from compress.data.config import Calibration
from compress.families.osediff import ASSET
from compress.model.components import Components
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.networks.noise_maps import NoiseMaps
from compress.passes.quantize import Quantize
from compress.passes.strip import Strip
from compress.quant.affine import qparams
from compress.quant.layers import TensorQuantiser
from compress.recipe.checkpoint import parse_source

SIDE, FITTED, TESTED = 32, 4, 4
Range = tuple[float, float]
Ranges = dict[TensorQuantiser, list[Range]]  # one for each step


class ByStep:
    """Quantisers that watch, or that change with the step.

    Args:
        model: Quantised and frozen.
    """

    def __init__(self, model: SRModel):
        self.model = model
        self.quantisers = [
            part
            for call in model.wiring.steps
            for part in getattr(model, call.component).modules()
            if isinstance(part, TensorQuantiser) and not part.pinned
        ]
        self.step = 0
        self.seen: Ranges = {one: [] for one in self.quantisers}
        self.ranges: Ranges = {}

    def latent(self, lr: torch.Tensor) -> torch.Tensor:
        """The clean latent, with the ranges of each step in force."""
        self.step = 0
        predict = Components.predict

        def stepping(model, values, state, *step, watch=None):
            for one, bounds in self.ranges.items():
                low, high = (torch.tensor(bound) for bound in bounds[self.step])
                scale, zero = qparams(low, high, one.grid)
                one.set(scale, zero.to(torch.int64))
            found = predict(model, values, state, *step, watch=watch)
            self.step += 1
            return found

        Components.predict = stepping
        try:
            return self.model.latent_of(self.model.given(lr))
        finally:
            Components.predict = predict

    def observe(self, images: list[torch.Tensor]) -> None:
        """Note the range of every quantiser at every step, unrounded."""
        for one in self.quantisers:
            vars(one)["forward"] = self._watching(one)
        for lr in images:
            self.latent(lr)
        for one in self.quantisers:
            del vars(one)["forward"]

    def _watching(self, one: TensorQuantiser):
        def forward(x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
            low, high = (bound.item() for bound in x.aminmax())
            bounds = self.seen[one]
            if len(bounds) <= self.step:
                bounds.append((min(low, 0.0), max(high, 0.0)))
            bounds[self.step] = (min(low, bounds[self.step][0]), max(high, bounds[self.step][1]))
            return x * gain

        return forward


def shared(ranges: Ranges) -> Ranges:
    """One range for all steps."""
    return {
        one: [(min(low for low, _ in bounds), max(high for _, high in bounds))] * len(bounds)
        for one, bounds in ranges.items()
    }


def built(options: dict) -> SRModel:
    source = parse_source({**options, "weights": options.get("weights")})
    model = source.build()
    if options.get("weights"):
        source.load(model)
        return model
    randomise(model)
    for module in model.modules():
        if isinstance(module, NoiseMaps):
            module.reset_parameters()
    own = model.state_dict()
    known = load_file(ASSET)
    own |= {
        name: known[name] for name in own if name in known and known[name].shape == own[name].shape
    }
    model.load_state_dict(own)
    return model


def psnr(found: torch.Tensor, expected: torch.Tensor) -> float:
    peak = expected.abs().max().item()
    return 10 * math.log10(peak**2 / (found - expected).square().mean().item())


@torch.no_grad()
def main(options: dict) -> None:
    model = built(options)
    Strip().convert(model)
    images = calibration_images("embedded", FITTED + TESTED, SIDE, 0)
    expected = [model.latent_of(model.given(lr)) for lr in images[FITTED:]]
    components = tuple(call.component for call in model.wiring.steps)
    for bits in (8, 6):
        step = Quantize(
            method="minmax",
            weights=bits,
            activations=bits,
            components=components,
            calibration=Calibration(images=FITTED, size=SIDE),
        )
        quantised = copy.deepcopy(model)
        step.convert(quantised)
        step.fit(quantised, FitContext(source=model))
        chain = ByStep(quantised)
        chain.observe(images[:FITTED])
        ranges = {one: bounds for one, bounds in chain.seen.items() if bounds}
        for name, chosen in (("one range", shared(ranges)), ("one for each step", ranges)):
            chain.ranges = chosen
            found = [chain.latent(lr) for lr in images[FITTED:]]
            levels = [psnr(*pair) for pair in zip(found, expected, strict=True)]
            print(f"W{bits}A{bits}, {name}: latent {sum(levels) / len(levels):.2f} dB")


if __name__ == "__main__":
    main(yaml.safe_load(sys.argv[1]))
