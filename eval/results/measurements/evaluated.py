"""Jobs that evaluate a model or pictures by `python -m eval.run`, and the rows they leave."""

from pathlib import Path

from compress.cost.count import measure
from compress.recipe.checkpoint import convert_all, read_header
from compress.recipe.run_files import read_averages
from eval.results.measurement import Column, Finished, Row, Short

M, G = 1e6, 1e9
LR_SIZE = (128, 128)  # at which MACs are counted
# Those whose weights are in the repository's reach, and of which no model was trained on all.
METRICS = ("psnr", "ssim", "lpips-squeeze", "niqe", "fsim", "ms_ssim", "vsi", "gmsd")
COUNTS = (
    Column("params_m", "params M", 2),
    Column("megabytes", "MB", 1, "10^6 bytes"),
    Column("gmacs", "GMACs", 2, "10^9 at 128 → 512"),
)
BENCHMARK = (
    Column("psnr", "PSNR-Y ↑", 3, "dB"),
    Column("ssim", "SSIM-Y ↑", 4),
    Column("lpips-squeeze", "LPIPS-squeeze ↓", 4),
    Column("niqe", "NIQE ↓", 2),
)
UNTRAINED = (
    Column("fsim", "FSIM ↑", 4),
    Column("ms_ssim", "MS-SSIM ↑", 4),
    Column("vsi", "VSI ↑", 4),
    Column("gmsd", "GMSD ↓", 4),
)


def on_realsr(subject: str, short: Short, out: str = "{out}") -> tuple[str, ...]:
    """The command that evaluates `subject` on the crop of RealSR, by all METRICS."""
    return (
        *("python", "-m", "eval.run", subject, "--data", "realsr={realsr}"),
        *("--metrics", ",".join(METRICS), "--iqa-weights", "{iqa_weights}"),
        *("--cache", "{out}/scores.sqlite", "-o", out, *short.words()),
    )


def averages(folder: Path) -> Row:
    """The metrics in averages.json, and how many images they are of."""
    found = read_averages(folder)
    row: Row = {name: found[name] for name in METRICS if name in found}
    return row | {"images": found["images"]}


def counts(model: Path) -> Row:
    """Parameters, megabytes and MACs of a model file, from its header alone."""
    cost = measure(convert_all(*read_header(model)), LR_SIZE)
    return {
        "params_m": cost.params / M,
        "equivalents_m": cost.param_equivalents / M,
        "megabytes": cost.bytes / M,
        "gmacs": cost.macs_paper / G,
        "full_gmacs": cost.macs_full / G,
    }


def read_pictures(label: str, finished: Finished) -> list[Row]:
    """The row of pictures that were evaluated."""
    return [{"model": label, **averages(finished.out)}]


def read_model(label: str, model: Path, finished: Finished) -> list[Row]:
    """The row of a model file that was evaluated."""
    return [{"model": label, **counts(model), **averages(finished.out)}]
