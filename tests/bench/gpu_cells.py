"""What bench_gpu.py measures, one cell a process: inference in a way, or steps of a training."""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from random_weights import randomise
from torch import nn

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.families.adcsr import AdcSRSource
from compress.families.osediff import OSEDiffSource
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.passes.distill import Distill
from compress.passes.strip import Strip
from compress.recipe.checkpoint import convert_all
from compress.recipe.recipe import Recipe, load_recipe
from compress.training.distillation import distill
from export.timing.turns import interleaved, machine

ROOT = Path(__file__).parents[2]
WAYS = ("fp32", "bf16", "fp16", "bf16 compiled", "fp16 compiled", "w8a8 compiled", "tensorrt fp16")
TRAININGS = ("decoder", "decoder, recomputed", "student", "student, recomputed")
# One process builds the models once for what needs no compiler.
CELLS = {
    "eager": WAYS[:3],
    **{way: (way,) for way in WAYS[3:]},
    **{f"train {stage}": (stage,) for stage in TRAININGS},
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SIZES = {"sd21": ((128, 128), 512), "nano": ((32, 32), 128)}  # LR image, crop of a training
NANO = {"latent_channels": 4, "unet_channels": [16] * 4, "vae_channels": [8] * 4}
WARM_STEPS = 2  # of a training, which do not count
Cell = list[dict[str, Any]]


def where(device: str) -> str:
    """What the cells of `device` run on, with torch's version."""
    name = torch.cuda.get_device_name() if device == "cuda" else machine()
    return f"{name}, torch {torch.__version__}"


def measure_cell(cell: str, device: str, size: str, repeats: int) -> Cell:
    """The rows of one cell.

    Args:
        cell: A key of CELLS.
        device: cuda, or cpu for a dry run.
        size: A key of SIZES.
        repeats: Calls, or steps of a training, that count.

    Raises:
        UserError: What the cell needs is not installed.
    """
    torch.manual_seed(0)
    if cell.startswith("train "):
        return [train(cell.removeprefix("train "), device, size, repeats)]
    models = {"OSEDiff": osediff(size, device), "AdcSR": adcsr(size, device)}
    lr = torch.rand(1, 3, *SIZES[size][0], device=device)
    with torch.inference_mode():
        expected = {name: model.network(lr).float().cpu() for name, model in models.items()}
    rows = []
    for way in CELLS[cell]:
        prepared = {name: prepare(way, model, lr) for name, model in models.items()}
        rows += infer(way, prepared, expected, repeats)
    return rows


def osediff(size: str, device: str) -> SRModel:
    """OSEDiff without its tagger: prompt and timestep folded, as it is deployed."""
    source = OSEDiffSource(size=size, **({} if size == "sd21" else NANO))
    return randomise(convert_all(source, [Strip()]), device=device).eval().requires_grad_(False)


def adcsr(size: str, device: str) -> SRModel:
    """AdcSR as its authors run it."""
    model = AdcSRSource(size=size).build()
    return randomise(model, device=device).eval().requires_grad_(False)


def prepare(way: str, model: SRModel, lr: torch.Tensor) -> tuple[Callable[[], torch.Tensor], str]:
    """A call of the model in one way, and what is to be said of it."""
    if way == "tensorrt fp16":
        import tensorrt  # noqa: F401  the cell's reason where it is missing

        raise UserError("no engine is built by this script: python -m export.run --target tensorrt")
    precision, _, compiled = way.partition(" ")
    network: Callable[[torch.Tensor], torch.Tensor] = model.network
    dtype = DTYPES.get(precision, torch.bfloat16)
    note = ""
    if precision == "w8a8":
        note = to_integers(model, tuple(lr.shape[2:]))
    if compiled:
        backend = "inductor" if lr.is_cuda else "eager"
        network = torch.compile(network, backend=backend)
        note += f"; by {backend}"

    def run() -> torch.Tensor:
        is_half = dtype != torch.float32
        with torch.inference_mode(), torch.autocast(lr.device.type, dtype, enabled=is_half):
            image = network(lr)
        if lr.is_cuda:
            torch.cuda.synchronize()
        return image

    return run, note.strip("; ")


def to_integers(model: SRModel, size: tuple[int, int]) -> str:
    """Let torchao's kernels of int8 by int8 do the linear layers; returns their share of MACs."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    cost = measure(model, size)
    share = sum(layer.macs_linear for layer in cost.layers) / cost.macs_full
    quantize_(model, Int8DynamicActivationInt8WeightConfig(), lambda m, _: type(m) is nn.Linear)
    return f"{100 * share:.0f} % of the MACs in integers, which torchao has for linear layers alone"


def infer(
    way: str,
    prepared: dict[str, tuple[Callable[[], torch.Tensor], str]],
    expected: dict[str, torch.Tensor],
    repeats: int,
) -> Cell:
    """Both models in turns, and how far their images are from those in 32 bits."""
    images = {name: run().float().cpu() for name, (run, _) in prepared.items()}
    is_gpu = torch.cuda.is_available()
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
    times = interleaved({name: run for name, (run, _) in prepared.items()}, repeats)
    slow = statistics.median(times["OSEDiff"])
    rows = []
    for name, (_, note) in prepared.items():
        median = statistics.median(times[name])
        away = (images[name] - expected[name]).norm() / expected[name].norm()
        rows.append(
            {
                "what": name,
                "way": way,
                "median_ms": median,
                "min_ms": min(times[name]),
                "faster": slow / median,
                "error": away.item() if images[name].isfinite().all() else None,
                "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if is_gpu else None,
                "note": note,
            }
        )
    return rows


def train(stage: str, device: str, size: str, steps: int) -> dict[str, Any]:
    """Steps of a distillation of recipes/adcsr_paper.yaml in bf16, with its batches."""
    kind, _, recomputed = stage.partition(", ")
    small = [] if size == "sd21" else [f"source.{k}={v}" for k, v in NANO.items()]
    overrides = [f"source.size={size}", *small]
    recipe = load_recipe(str(ROOT / "recipes/adcsr_paper.yaml"), overrides)
    [place] = [i for i, p in enumerate(recipe.passes) if isinstance(p, Distill) and p.stage == kind]
    folder = Path.cwd()
    config = recipe.passes[place].model_copy(
        update={
            "data": type(recipe.passes[place].data)(folders=[str(photographs(folder))]),
            "steps": steps + WARM_STEPS,
            "precision": "bf16",
            "recompute": bool(recomputed),
            "crop": SIZES[size][1],
            **({} if size == "sd21" else {"batch": 1, "accumulate": 2}),
        }
    )
    began: dict[int, float] = {}

    def note(step: int) -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        began.setdefault(step, time.perf_counter())

    context = FitContext(
        source=structure(recipe, 0, device),
        workdir=folder / "work",
        device=torch.device(device),
        before=lambda name: structure(recipe, place_of(recipe, name), device),
    )
    distill(config, structure(recipe, place, device), context, before_batch=note)
    marks = [began[step] for step in sorted(began)][WARM_STEPS:]
    seconds = statistics.median(b - a for a, b in pairwise(marks))
    return {
        "what": f"adcsr_paper, {kind}",
        "way": "bf16, recomputed" if recomputed else "bf16",
        "median_ms": 1000 * seconds,
        "steps_per_s": 1 / seconds,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
        "note": f"{config.accumulate} x {config.batch} crops of {config.crop} pixels a step",
    }


def structure(recipe: Recipe, count: int, device: str) -> SRModel:
    """The recipe's model after so many passes, with random values."""
    model = convert_all(recipe.source, recipe.passes[:count])
    return randomise(model, device=device).eval().requires_grad_(False)


def place_of(recipe: Recipe, name: str) -> int:
    """Which pass of a recipe is called `name`."""
    return [step.pass_ for step in recipe.passes].index(name)


def photographs(folder: Path) -> Path:
    """A folder with pictures to train on: only their size matters for speed."""
    place = folder / "photographs"
    place.mkdir()
    random = np.random.default_rng(0)
    for number in range(4):
        pixels = random.integers(0, 256, (640, 640, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return place
