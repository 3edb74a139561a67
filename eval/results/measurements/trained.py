"""What needs training: AdcSR's distillation, branches of BiMaCoSR, parts of Edge-SD-SR."""

import json
from functools import partial
from typing import Any

from compress.core.config import read_yaml
from compress.recipe.checkpoint import MODEL_FILE
from eval.results.measurement import (
    CODES_OF_EXPORTS,
    Column,
    Finished,
    Job,
    Measurement,
    Row,
    Short,
)
from eval.results.measurements.evaluated import BENCHMARK, COUNTS, averages, counts, on_realsr
from eval.results.measurements.scripts import read_rows, script
from eval.results.provenance import ROOT
from eval.results.weights import NANO, recipe_file, recipe_inputs

LPIPS = "{iqa_weights}/lpips_squeeze_v0.1.safetensors"
FOLDERS = "[{train}/bsds500,{train}/urban100]"
ADCSR = "adcsr_nano"
# Stage of an ablation's switch -> overrides.
SWITCHES = {
    "both": (),
    "no variance": ("source.variance=false",),
    "no mean": ("source.mean=false",),
    "neither": ("source.variance=false", "source.mean=false"),
    "both, encoder frozen": ("stages.2.encoder=frozen", "stages.3.encoder=frozen"),
}
ABLATION = "recipes/train/edge_ablation.yaml"


def distillation(short: Short) -> list[Job]:
    """AdcSR from the nano: pruned alone, distilled, in 8 bits."""
    start = ("python", "-m", "compress.run", recipe_file(ADCSR))
    none = ("eval.metrics=[psnr]", "--resume")
    pruned = [step for step in _passes() if step["pass"] != "distill"]
    publish = ("python", "-m", "compress.publish", "{out}/run", "adcsr")
    file = "{new}/adcsr.safetensors"
    quantise = ("python", "-m", "compress.run", recipe_file("adcsr_weights_w8a8"))
    inputs = recipe_inputs(ADCSR)
    return [
        Job(
            "pruned",
            (
                (*start, f"passes={json.dumps(pruned)}", *none, "--out", "{out}/run"),
                on_realsr("{out}/run", short, out="{out}/fp32"),
            ),
            partial(_read_models, {"pruned, swapped and joined, nothing trained": "run"}),
            inputs=inputs,
            codes=CODES_OF_EXPORTS,
        ),
        Job(
            "distilled",
            (
                (*start, *_on_folders(short), *none, "--out", "{out}/run"),
                on_realsr("{out}/run", short, out="{out}/fp32"),
                (*publish, "-o", file),
                (*quantise, f"source.weights={file}", "--out", "{new}/w8a8"),
                on_realsr("{new}/w8a8", short, out="{out}/w8a8"),
            ),
            partial(_read_models, {"distilled": "run", "distilled, then W8A8": "new/w8a8"}),
            inputs=(*inputs, recipe_file("adcsr_weights_w8a8")),
            codes=CODES_OF_EXPORTS,
        ),
    ]


def _passes() -> list[dict[str, Any]]:
    passes: list[dict[str, Any]] = read_yaml(ROOT / recipe_file(ADCSR))["passes"]
    return passes


def _on_folders(short: Short) -> list[str]:
    """Overrides of the passes that train: folders, LPIPS, steps."""
    words = []
    for index, step in enumerate(_passes()):
        if "steps" not in step:
            continue
        words += [f"passes.{index}.data.folders={FOLDERS}", f"passes.{index}.lpips_weights={LPIPS}"]
        if short.steps is not None:
            words.append(f"passes.{index}.steps={short.steps}")
    return words


def _read_models(runs: dict[str, str], finished: Finished) -> list[Row]:
    """A row for each run below the job's folder, evaluated in `fp32` and then in `w8a8`."""
    return [
        {"model": label, **counts(finished.out / run / MODEL_FILE), **averages(finished.out / name)}
        for (label, run), name in zip(runs.items(), ("fp32", "w8a8"), strict=False)
    ]


def branches(short: Short) -> list[Job]:
    """BiMaCoSR with and without its branches, and other methods at its size."""
    command = script(
        "bench_branches",
        *("--data", "{train}/bsds500", "{train}/urban100", "--images", "{realsr}/LR"),
        *short.words(full=20),
        *("--lpips-weights", LPIPS, "--steps", short.steps_or(250), "-o", "{out}/rows"),
    )
    return [Job("branches", (command,), read_rows, inputs=(NANO["resshift"],))]


def packed(short: Short) -> list[Job]:
    """A packed file of one bit: bytes, memory, time."""
    words = ("--source", "resshift", "--lr-size", "128")
    repeats = ("--repeats", "1") if short != Short() else ()
    command = script("bench_binary", *words, *repeats)
    return [Job("denoiser", (command,), read_rows, inputs=(NANO["resshift"],))]


def conditioning(short: Short) -> list[Job]:
    """Short trainings of Edge-SD-SR that differ in one part of its conditioning."""
    return [_trained(switch, short) for switch in list(SWITCHES)[: short.limit]]


def _trained(switch: str, short: Short) -> Job:
    steps: list[str] = []
    if short.steps is not None:
        stages = range(len(read_yaml(ROOT / ABLATION)["stages"]))
        steps = [f"stages.{index}.steps={short.steps}" for index in stages]
    train = (
        *("python", "-m", "compress.train", ABLATION, f"data.folders={FOLDERS}"),
        *(f"lpips_weights={LPIPS}", *SWITCHES[switch], *steps, "--workdir", "{out}/train"),
    )
    evaluate = (
        *("python", "-m", "eval.run", "{out}/train/edge_ablation.safetensors"),
        *("--data", "realsr={realsr}", *short.words(full=30), "--metrics", "lpips-squeeze"),
        *("--iqa-weights", "{iqa_weights}", "-o", "{out}"),
    )
    return Job(switch, (train, evaluate), partial(_read_switch, switch), inputs=(ABLATION,))


def _read_switch(switch: str, finished: Finished) -> list[Row]:
    return [{"conditioning": switch, **averages(finished.out)}]


DISTILLATION = Measurement(
    name="distillation",
    title="AdcSR distilled on BSDS500 and Urban100",
    page="adcsr",
    jobs=distillation,
    columns=(Column("model", "model"), *COUNTS, *BENCHMARK),
    needs=("realsr", "iqa_weights", "train"),
    hours=2.5,
)
BRANCHES = Measurement(
    name="branches",
    title="What each branch of BiMaCoSR is worth",
    page="binary",
    jobs=branches,
    columns=(
        Column("denoiser", "denoiser"),
        Column("kept", "layers kept"),
        Column("bytes", "bytes"),
        Column("psnr", "PSNR to the source, dB", 2, "dB"),
        Column("lpips", "LPIPS to the source", 4),
    ),
    needs=("realsr", "iqa_weights", "train"),
    hours=2,
)
PACKED = Measurement(
    name="packed",
    title="A file of one bit: bytes, memory, time",
    page="binary",
    jobs=packed,
    columns=(
        Column("denoiser", "denoiser"),
        Column("bytes", "bytes"),
        Column("size", "of float", 3),
        Column("memory", "memory of float", 2),
        Column("time", "time of float", 2),
        Column("of_its_bits", "of its bits", 3),
    ),
    is_timing=True,
)
CONDITIONING = Measurement(
    name="conditioning",
    title="Parts of Edge-SD-SR's conditioning",
    page="edge",
    jobs=conditioning,
    columns=(Column("conditioning", "conditioning"), Column("lpips-squeeze", "LPIPS-squeeze ↓", 4)),
    needs=("realsr", "iqa_weights", "train"),
    hours=4,
)
ALL = (DISTILLATION, BRANCHES, PACKED, CONDITIONING)
