"""Speed of compressed models beside their sources in torch: one device, one process, interleaved.

    python tests/bench/bench_models.py RUN|MODEL|RECIPE... [key=value ...] [--random]
        [--device cpu|cuda]
    python tests/bench/bench_models.py recipes/adcsr.yaml source.size=sd21 --random --device cuda

What runs is `SRModel.network` in float32: no tiles, no colour fix. A recipe alone has no weights;
--random gives both structures random ones, so that even the full size needs no file. Quantised
layers run their simulation in floating point, which says nothing of integer kernels (bench_int8.py
does). Nothing is asserted: a latency is a measurement of one machine on one day.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from random_weights import randomise
from rows import add_json, write_rows

from compress.core.errors import UserError, command
from compress.cost.count import measure
from compress.model.passes import Pass
from compress.model.source import Source
from compress.model.sr_model import SRModel
from compress.recipe.checkpoint import convert_all, load_model, read_header
from compress.recipe.export_options import parse_size
from compress.recipe.recipe import load_recipe
from export.timing.turns import interleaved, machine


def structure(argument: str, overrides: list[str]) -> tuple[Source, list[Pass]]:
    """Source and passes of a recipe, a run directory or a model file."""
    if Path(argument).suffix in (".yaml", ".yml"):
        recipe = load_recipe(argument, overrides)
        return recipe.source, recipe.passes
    return read_header(argument)


def models(
    arguments: list[str], overrides: list[str], random: bool, device: str
) -> dict[str, tuple[SRModel, str]]:
    """Label -> (model on `device`, label of its source).

    A source that several arguments share is there once.
    """
    found: dict[str, tuple[SRModel, str]] = {}
    sources: dict[Source, str] = {}
    for argument in arguments:
        config, passes = structure(argument, overrides)
        if not random and Path(argument).suffix in (".yaml", ".yml"):
            raise UserError(
                f"{argument}: a recipe has no weights to run; add --random, or give a run of it"
            )
        if config not in sources:
            source = config.build()
            sources[config] = f"source of {argument}"
            if random:
                randomise(source, device=device)
            else:
                config.load(source)
            found[sources[config]] = source, sources[config]
        model = (
            randomise(convert_all(config, passes), device=device)
            if random
            else load_model(argument)
        )
        found[argument] = model, sources[config]
    return {
        label: (model.to(device).eval().requires_grad_(False), source)
        for label, (model, source) in found.items()
    }


def runner(model: SRModel, lr: torch.Tensor) -> Callable[[], None]:
    """One call of the network that ends when its result is there."""

    def run() -> None:
        with torch.inference_mode():
            model.network(lr)
        if lr.is_cuda:
            torch.cuda.synchronize()

    return run


@command
def main(argv: list[str]) -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("models", nargs="+", metavar="RUN|MODEL|RECIPE|key=value")
    p.add_argument("--random", action="store_true", help="random weights in both structures")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument(
        "--lr-size", default="128x128", help="height x width of the input (default 128x128)"
    )
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--repeats", type=int, default=20)
    add_json(p)
    options = p.parse_intermixed_args(argv)
    size = parse_size(options.lr_size)
    torch.set_num_threads(options.threads)
    overrides = [a for a in options.models if "=" in a]
    arguments = list(dict.fromkeys(a for a in options.models if "=" not in a))
    if not arguments:
        raise UserError(
            "no model to measure; give a run directory, a model.safetensors or, with --random, a "
            "recipe"
        )
    found = models(arguments, overrides, options.random, options.device)
    costs = {label: measure(model, size) for label, (model, _) in found.items()}
    lr = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(options.device)
    times = interleaved(
        {label: runner(model, lr) for label, (model, _) in found.items()}, options.repeats
    )

    where = (
        torch.cuda.get_device_name(lr.device)
        if lr.is_cuda
        else f"{machine()}, {options.threads} threads"
    )
    weights = ", random weights" if options.random else ""
    print(
        f"torch {torch.__version__}, float32, measured on {where}; LR {size[1]}x{size[0]}, "
        f"{options.repeats} interleaved repeats{weights}"
    )
    width = max(map(len, found))
    print(
        f"{'':{width}}{'params M':>10}{'GMACs':>9}{'fewer':>8}{'median ms':>11}{'min ms':>9}"
        f"{'faster':>8}"
    )
    table = []
    for label, (_, source) in found.items():
        cost, median = costs[label], statistics.median(times[label])
        table.append(
            {
                "model": label,
                "params_m": cost.params / 1e6,
                "gmacs": cost.macs_full / 1e9,
                "fewer": costs[source].macs_full / cost.macs_full,
                "median_ms": median,
                "min_ms": min(times[label]),
                "faster": statistics.median(times[source]) / median,
                "faster_at_best": min(times[source]) / min(times[label]),
            }
        )
        print(
            f"{label:{width}}{cost.params / 1e6:10.2f}{cost.macs_full / 1e9:9.2f}"
            f"{costs[source].macs_full / cost.macs_full:7.2f}x{median:11.1f}"
            f"{min(times[label]):9.1f}"
            f"{statistics.median(times[source]) / median:7.2f}x"
        )
    write_rows(options.json, table)


if __name__ == "__main__":
    main()
