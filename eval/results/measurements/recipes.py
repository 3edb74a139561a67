"""Every recipe that runs on the embedded models: run, and evaluated on RealSR."""

from functools import cache, partial
from pathlib import Path

from compress.core.config import read_yaml
from compress.core.json_files import read_json
from compress.recipe.checkpoint import MODEL_FILE
from compress.recipe.run_files import read_averages, read_fidelity, read_figures, read_ledger
from eval.results.measurement import (
    CODES_OF_EXPORTS,
    Column,
    Finished,
    Job,
    Measurement,
    Row,
    Short,
)
from eval.results.measurements.evaluated import (
    BENCHMARK,
    COUNTS,
    UNTRAINED,
    averages,
    counts,
    on_realsr,
)
from eval.results.provenance import ROOT
from eval.results.weights import recipe_file, recipe_inputs

RECIPES = (
    "passionsr_w8a8",
    "passionsr_fast_w8a8",
    "passionsr_full_w8a8",
    "passionsr_w8a16",
    "passionsr_w6a6",
    "passionsr_w4a8",
    "mixed_precision",
    "minmax_w8a8",
    "minmax_full_w8a8",
    "minmax_w6a6",
    "adcsr",
    "adcsr_w8a8",
    "adcsr_weights_w8a8",
    "edge_sd_sr",
    "edge_sd_sr_w8a8",
    "sinsr_w8a8",
    "bimacosr",
    "bimacosr_full",
    "dfosd_w8a8",
    "invsr_w8a8",
    "ccsr_w8a8",
    "addsr_w8a8",
    "dossr_w8a8",
    "tsdsr_w8a8",
    "adcsr_w4a8",
    "adcsr_binary",
    "depth_light_w8a8",
    "encoder_swap_binary",
    "spandrel_w8a8",
    "dfosd_binary",
    "invsr_light",
    "ccsr_pruned",
    "addsr_one_step",
    "dossr_depth_w8a8",
    "tinysr",
)
OVERRIDES = {"spandrel_w8a8": ("source.path={gan}",)}  # somebody else's network, as a peer
WHOLE = ("model.onnx", "model", "end to end")  # rows of parity of the whole model


def recipes(short: Short) -> list[Job]:
    """A job for each recipe."""
    return [_job(name, short) for name in RECIPES]


def run_command(name: str, short: Short) -> tuple[str, ...]:
    """The command that runs a recipe, or completes its run."""
    overrides = (*OVERRIDES.get(name, ()), *_fewer_steps(name, short))
    words = ("python", "-m", "compress.run", recipe_file(name), *overrides)
    return (*words, "--out", run_of(name, short), "--resume")


def run_of(name: str, short: Short) -> str:
    """The run directory, as a word in braces; a short run has one of its own."""
    return f"{{run:{name}}}" if short.steps is None else "{out}/run"


@cache
def _trained(name: str) -> tuple[int, ...]:
    """Places of the passes that train for a number of steps."""
    passes = read_yaml(ROOT / recipe_file(name))["passes"]
    return tuple(index for index, step in enumerate(passes) if "steps" in step)


def _fewer_steps(name: str, short: Short) -> list[str]:
    if short.steps is None:
        return []
    return [f"passes.{index}.steps={short.steps}" for index in _trained(name)]


def _job(name: str, short: Short) -> Job:
    run = run_of(name, short)
    return Job(
        name,
        (run_command(name, short), on_realsr(run, short, out=f"{run}/eval/RealSR")),
        partial(read_recipe, name, run),
        inputs=recipe_inputs(name),
        codes=CODES_OF_EXPORTS,
    )


def read_recipe(name: str, run: str, finished: Finished) -> list[Row]:
    """The row of a recipe: costs, RealSR, embedded photographs, its ONNX files."""
    folder = finished.place(run) if run.startswith("{run:") else finished.place("{out}") / "run"
    row: Row = {"recipe": f"`{name}`", **counts(folder / MODEL_FILE)}
    row |= averages(folder / "eval" / "RealSR")
    embedded = folder / "eval" / "embedded"
    fidelity = list(read_fidelity(embedded).values())
    row["to_source_db"] = sum(fidelity) / len(fidelity) if fidelity else None
    for key, place in (("source", embedded / "source"), ("compressed", embedded)):
        found = read_averages(place)
        row |= {f"{key}_psnr": found["psnr"], f"{key}_ssim": found["ssim"]}
    cost = read_ledger(folder)["cost"]
    row["weights_ratio"] = cost["after"]["bytes"] / cost["before"]["bytes"]
    if (folder / "onnx" / "figures.json").is_file():
        row["bytes_ratio"] = read_figures(folder / "onnx" / "figures.json")["latency"][-1][
            "size_ratio"
        ]
        row["parity_db"] = parity(folder / "onnx")
    return [row]


def parity(folder: Path) -> str:
    """PSNR of the whole model to torch on each probe, in dB, with slashes between."""
    rows = read_json(folder / "parity.json", "the parity of an export", list)
    values = [row["psnr_db"] for row in rows if row["file"] in WHOLE]
    return " / ".join("–" if value is None else f"{value:.1f}" for value in values)


MEASURED = Measurement(
    name="recipes",
    title="Every recipe on RealSR",
    page="quality",
    jobs=recipes,
    columns=(Column("recipe", "recipe"), *COUNTS, *BENCHMARK, *UNTRAINED),
    needs=("realsr", "iqa_weights", "gan"),
    packages=("spandrel",),
    edition=2,  # from here on with biases in the codes of runtimes
    hours=6,
)
