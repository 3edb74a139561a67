"""What ranges of their own for each step of a chain pay: PSNR to the float model, in 8 and 6 bits.

    python tests/bench/bench_step_ranges.py invsr 5 [--json FILE]

The networks of the steps are quantised, with ranges as observed on six crops of the embedded
photographs; six others are restored, and compared as images. The autoencoder stays in float. The
weights are those of the embedded nano.
"""

import argparse
import copy

import torch
from rows import add_json, write_rows

from compress.core.errors import command
from compress.data.calibration import calibration_images
from compress.data.config import Calibration
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.passes.quantize import Quantize
from compress.passes.strip import Strip
from compress.recipe.checkpoint import parse_source

SIDE, FITTED, TESTED = 48, 6, 6


def quantised(source: SRModel, bits: int, ranges: str) -> SRModel:
    """The chain in so many bits."""
    step = Quantize(
        method="minmax",
        weights=bits,
        activations=bits,
        ranges=ranges,
        components=tuple(call.component for call in source.wiring.steps),
        calibration=Calibration(data="embedded", images=FITTED, size=SIDE),
    )
    model = copy.deepcopy(source)
    step.convert(model)
    step.fit(model, FitContext(source=source))
    return model


def psnr(found: torch.Tensor, expected: torch.Tensor) -> float:
    return -10 * (found - expected).square().mean().log10().item()


@command
@torch.no_grad()
def main(argv: list[str]) -> int:
    """Print a row for each number of bits, and write them as JSON."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("family", help="of a source whose nano serves a chain")
    p.add_argument("steps", type=int, help="of the chain")
    add_json(p)
    options = p.parse_args(argv)
    named = parse_source({"family": options.family, "steps": options.steps})
    source = named.build()
    named.load(source)
    Strip().convert(source)
    crops = calibration_images("embedded", FITTED + TESTED, SIDE, 0)[FITTED:]
    wanted = [source.network(lr).clamp(0, 1) for lr in crops]
    rows = []
    for bits in (8, 6):
        row = {"family": named.family, "steps": options.steps, "width": f"W{bits}A{bits}"}
        for ranges in ("shared", "by_step"):
            model = quantised(source, bits, ranges)
            found = [model.network(lr).clamp(0, 1) for lr in crops]
            levels = [psnr(*pair) for pair in zip(found, wanted, strict=True)]
            row[ranges] = sum(levels) / len(levels)
        rows.append(row)
        print(row)
    write_rows(options.json, rows)
    return 0


if __name__ == "__main__":
    main()
