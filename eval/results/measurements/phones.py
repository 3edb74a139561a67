"""Latency on phones, published and predicted; and what a GPU does, where one was at hand."""

from eval.results.full_sizes import FULL_SIZES, WAYS, FullSize
from eval.results.measurement import Column, Job, Measurement, Short
from eval.results.measurements.scripts import read_rows, script
from eval.results.weights import recipe_file

RECIPE = "recipes/adcsr_paper.yaml"
TABLES = (
    "compress/assets/phone_networks.csv",
    "compress/assets/phone_published.csv",
    "compress/assets/phone_rates.csv",
)
OF_PHONES = (
    "export/targets/phones.csv",
    "export/targets/htp_chips.csv",
    "export/targets/file_limits.csv",
)


def fit(_short: Short) -> list[Job]:
    """Every published latency beside the prediction."""
    return [Job("fit", (script("bench_phones", "fit"),), read_rows, inputs=TABLES)]


def edge(_short: Short) -> list[Job]:
    """Edge-SD-SR, taken apart."""
    return [Job("edge", (script("bench_phones", "edge"),), read_rows, inputs=TABLES)]


def phone_recipes(short: Short) -> list[Job]:
    """Every source at full size by every recipe, on every kind of phone."""
    return [_recipes_of(one) for one in FULL_SIZES[: short.limit]]


def _recipes_of(one: FullSize) -> Job:
    shipped = {found.name: None for way in WAYS if (found := one.recipe(way)) is not None}
    recipes = tuple(recipe_file(name) for name in shipped)
    command = script("bench_phone_recipes", one.label)
    return Job(one.label, (command,), read_rows, inputs=(*TABLES[:2], *OF_PHONES, *recipes))


def gpu_dry_run(short: Short) -> list[Job]:
    """Every code path of the GPU's figures, with small networks on the CPU."""
    only = () if short == Short() else ("--only", "eager")
    words = ("--cells", "{out}/cells.json", "--device", "cpu", "--size", "nano")
    command = script("bench_gpu", *words, "--seconds", "3000", *only)
    return [Job("cpu", (command,), read_rows, inputs=(RECIPE,))]


def gpu(_short: Short) -> list[Job]:
    """What tests/bench/lent_gpu.sh left on a machine with a GPU."""
    words = ("--cells", "{gpu_cells}", "--collect")
    return [Job("gpu", (script("bench_gpu", *words),), read_rows, inputs=(RECIPE,))]


GPU_COLUMNS = (
    Column("what", "what"),
    Column("way", "way"),
    Column("state", "state"),
    Column("median_ms", "median ms", 2, "ms"),
    Column("faster", "faster than OSEDiff", 2, "times"),
    Column("steps_per_s", "steps a second", 3),
    Column("peak_gib", "peak GiB", 1, "GiB"),
    Column("error", "relative error to 32 bits", 4),
    Column("note", "note"),
    Column("machine", "machine"),
)
FIT = Measurement(
    name="phone_fit",
    title="Published latencies of phones beside the table of operators",
    page="phones",
    jobs=fit,
    columns=(
        Column("network", "network"),
        Column("precision", "precision"),
        Column("device", "phone"),
        Column("published_ms", "published ms", 2, "ms"),
        Column("predicted_ms", "predicted ms", 2, "ms"),
        Column("ratio", "of it", 2, "times"),
        Column("unseen_ratio", "where the fit had not seen the network", 2, "times"),
        Column("factor", "interval, times and over", 2, "times"),
    ),
)
EDGE = Measurement(
    name="phone_edge",
    title="Edge-SD-SR on a Galaxy S24, taken apart",
    page="phones",
    jobs=edge,
    columns=(
        Column("precision", "if it ran at"),
        Column("part", "part"),
        Column("gmacs", "GMACs", 1),
        Column("gigabytes", "GB moved", 2, "10^9 bytes"),
        Column("by_rate_ms", "by one rate, ms", 1, "ms"),
        Column("predicted_ms", "by operators, ms", 1, "ms"),
        Column("low_ms", "from", 1, "ms"),
        Column("high_ms", "to", 1, "ms"),
        Column("published_ms", "published ms", 1, "ms"),
        Column("ratio", "published over predicted", 2, "times"),
    ),
)
RECIPES = Measurement(
    name="phone_recipes",
    title="Which recipe fits which phone at full size, and the predicted latency",
    page="phones",
    jobs=phone_recipes,
    columns=(
        Column("source", "source"),
        Column("recipe", "recipe"),
        Column("megabytes", "MB", 0, "10^6 bytes"),
        Column("gmacs", "GMACs", 0),
        Column("largest", "largest part"),
        Column("largest_mb", "its MB", 0, "10^6 bytes"),
        Column("chip", "phones"),
        Column("verdict", "predicted ms"),
    ),
    hours=0.2,
)
GPU_DRY_RUN = Measurement(
    name="gpu_dry_run",
    title="A dry run on the CPU of what is measured on a GPU",
    page="gpu",
    jobs=gpu_dry_run,
    columns=(GPU_COLUMNS[0], GPU_COLUMNS[1], GPU_COLUMNS[2], GPU_COLUMNS[7], GPU_COLUMNS[8]),
)
GPU = Measurement(
    name="gpu",
    title="AdcSR beside OSEDiff on a GPU, and training steps",
    page="gpu",
    jobs=gpu,
    columns=GPU_COLUMNS,
    needs=("gpu_cells",),
)
ALL = (FIT, EDGE, RECIPES, GPU_DRY_RUN, GPU)
