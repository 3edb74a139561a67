"""Photographs to refer to, true ones and foreign ones, against none."""

from eval.results.measurement import CODES_OF_EXPORTS, Column, Job, Measurement, Short
from eval.results.measurements.scripts import read_rows, script

RECIPE = "recipes/osediff_reference_nano.yaml"
LPIPS = "{iqa_weights}/lpips_squeeze_v0.1.safetensors"
STEPS = 3000


def on_realsr(short: Short) -> list[Job]:
    """Train the adapter where that is not done, then compare on the crop of RealSR."""
    run = "{work}/references/run"
    train = (
        *("python", "-m", "compress.run", RECIPE, f"passes.0.steps={short.steps_or(STEPS)}"),
        "passes.0.data.folders=[{train}/bsds500, {train}/urban100]",
        *("passes.0.data.degradation=wide", "passes.0.losses.lpips=0.2"),
        *(f"passes.0.lpips_weights={LPIPS}", "--out", run, "--resume"),
    )
    compare = script(
        "bench_references",
        *(run, "--data", "{realsr}/HR", "--lr", "{realsr}/LR", "--lpips-weights", LPIPS),
        *short.words(),
    )
    return [Job("RealSR", (train, compare), read_rows, inputs=(RECIPE,), codes=CODES_OF_EXPORTS)]


REFERENCES = Measurement(
    name="references",
    title="References of the same scene and foreign ones against none, on RealSR",
    page="quality",
    jobs=on_realsr,
    columns=(
        Column("references", "references"),
        Column("psnr", "PSNR", 2, "dB"),
        Column("lpips", "LPIPS-squeeze", 4),
        Column("psnr_more", "PSNR over none", 3, "dB"),
        Column("lpips_more", "LPIPS over none", 4),
    ),
    needs=("realsr", "iqa_weights", "train"),
    hours=1.5,
)
