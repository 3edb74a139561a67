"""What pruning alone costs, before any training, by choice of channels.

    python tests/bench/bench_prune.py [--ratios 0.75 0.5] [--components denoiser decoder]

The figure is PSNR of the pruned nano model to its source's output, on the embedded evaluation
photographs. The colour fix is off, so that it hides nothing.
"""

import argparse
import copy
import math

import torch
from rows import add_json, write_rows

from compress.core.errors import command
from compress.families.osediff import OSEDiffSource
from compress.model.passes import FitContext
from compress.passes import PASSES
from eval.data.embedded import PHOTOGRAPHS, low

COMPONENTS = ("denoiser", "decoder")
CHANNELS = ("first", "dependency", "l1", "activation")


@torch.no_grad()
@command
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.75, 0.5])
    parser.add_argument("--components", nargs="+", choices=COMPONENTS, default=COMPONENTS)
    parser.add_argument("--limit", type=int, help="only the first N photographs")
    add_json(parser)
    options = parser.parse_args(argv)
    config = OSEDiffSource(colour_fix="none")
    source = config.build()
    config.load(source)
    images = [low(name) for name in list(PHOTOGRAPHS)[: options.limit]]
    whole = copy.deepcopy(source)
    PASSES["strip"]().convert(whole)
    expected = [source(x) for x in images]
    print(
        f"PSNR in dB to the source's output, mean of {len(images)} embedded photographs; "
        "nothing is trained"
    )
    print(f"{'component':<10} {'ratio':>6}  " + "  ".join(f"{c:>10}" for c in CHANNELS))
    rows = []
    for component in options.components:
        for ratio in options.ratios:
            row = {}
            for channels in CHANNELS:
                step = PASSES["prune"](ratio=ratio, channels=channels, components=(component,))
                model = copy.deepcopy(whole)
                step.convert(model)
                step.fit(model, FitContext(source=source, before=lambda name: copy.deepcopy(whole)))
                errors = [
                    (model(x) - y).square().mean().item()
                    for x, y in zip(images, expected, strict=True)
                ]
                row[channels] = sum(-10 * math.log10(e) for e in errors) / len(errors)
            cells = "  ".join(f"{x:>10.2f}" for x in row.values())
            print(f"{component:<10} {ratio:>6}  {cells}", flush=True)
            rows.append({"component": component, "ratio": ratio, **row, "images": len(images)})
    write_rows(options.json, rows)


if __name__ == "__main__":
    main()
