"""Adaptive steps of a chain against the same number everywhere (AdaDiffSR)."""

from functools import partial

from compress.core.json_files import read_json
from eval.results.measurement import Column, Finished, Job, Measurement, Row, Short

RECIPE, TRAINING = "recipes/adaptive_steps.yaml", "recipes/train/sinsr_nano.yaml"
FOLDERS = ("{train}/bsds500", "{train}/urban100")
LPIPS = "{iqa_weights}/lpips_squeeze_v0.1.safetensors"
# Those whose weights are at hand; AHIQ and MUSIQ take part where somebody has them.
METRICS = "psnr=0.25,lpips-squeeze=0.25,nlpd=0.5,brisque=1"
CALLS = "1,2,3,4,5,6,8,10,12,15"


def on_realsr(short: Short) -> list[Job]:
    """The crop of RealSR, each photograph in one tile."""
    return [_compared("RealSR", ("--data", "{realsr}/HR", "--lr", "{realsr}/LR"), short, 30)]


def on_large(short: Short) -> list[Job]:
    """Photographs of many tiles."""
    return [_compared("2560×1600", ("--data", "{photographs}"), short, None)]


def _compared(key: str, data: tuple[str, ...], short: Short, full: int | None) -> Job:
    """Train the chain and its regressor where that is not done, then compare."""
    teacher = "{work}/adaptive_steps/train"
    run = "{work}/adaptive_steps/chain"
    steps = "{work}/adaptive_steps/steps.safetensors"
    stages: list[str] = []
    few: tuple[str, ...] = ()
    if short.steps is not None:
        stages = [f"stages.{index}.steps={short.steps}" for index in range(5)]
        few = ("--steps", str(short.steps), "--tiles", "10")
    train = (
        *("python", "-m", "compress.train", TRAINING, f"data.folders=[{','.join(FOLDERS)}]"),
        *(f"lpips_weights={LPIPS}", *stages, "--workdir", teacher),
    )
    chain = (
        *("python", "-m", "compress.run", RECIPE, "passes=[]", "eval.metrics=[psnr]"),
        *(f"source.weights={teacher}/2_resshift.safetensors", "--out", run, "--resume"),
    )
    regressor = (
        *("python", "-m", "compress.skip", "train", run, "--data", *FOLDERS),
        *("--metrics", METRICS, "--iqa-weights", "{iqa_weights}", *few, "-o", steps),
    )
    compare = (
        *("python", "-m", "compress.skip", "eval", run, steps, *data, *short.words(full=full)),
        *("--lpips-weights", LPIPS, "--calls", CALLS, "-o", "{out}/figures.json"),
    )
    return Job(
        key,
        (train, chain, regressor, compare),
        partial(_read_ways, key),
        inputs=(RECIPE, TRAINING),
    )


def _read_ways(key: str, finished: Finished) -> list[Row]:
    """A row for each number of even calls, and one for adaptive ones."""
    figures = read_json(finished.out / "figures.json", "figures of adaptive steps", dict)
    beside = figures["against_even"]
    rows: list[Row] = []
    for way, row in figures["ways"].items():
        more = beside if way == "adaptive" else {}
        rows.append({"photographs": key, "way": way, **row, **more})
    return rows


COLUMNS = (
    Column("photographs", "photographs"),
    Column("way", "steps"),
    Column("calls", "calls a tile", 2),
    Column("gmacs", "GMACs at 128 → 512", 1),
    Column("psnr", "PSNR", 2, "dB"),
    Column("lpips", "LPIPS-squeeze", 4),
    Column("psnr_more", "PSNR over even steps of as many MACs", 2, "dB"),
    Column("lpips_more", "LPIPS over these", 4),
    Column("macs_of_even", "MACs by even steps as good", 2),
)
REALSR = Measurement(
    name="adaptive_steps",
    title="Adaptive steps against even ones, on RealSR",
    page="router",
    jobs=on_realsr,
    columns=COLUMNS,
    needs=("realsr", "iqa_weights", "train"),
    hours=3,
)
LARGE = Measurement(
    name="adaptive_steps_large",
    title="Adaptive steps against even ones, on large photographs",
    page="router",
    jobs=on_large,
    columns=COLUMNS,
    needs=("photographs", "iqa_weights", "train"),
    hours=4,
)
ALL = (REALSR, LARGE)
