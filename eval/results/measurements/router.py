"""Tiles by the cheapest good path, and the seams between tiles."""

from functools import partial

from compress.core.json_files import read_json
from eval.results.measurement import Column, Finished, Job, Measurement, Row, Short
from eval.results.measurements.scripts import read_rows, script
from eval.results.weights import ASSETS

ROUTERS = {
    "osediff_nano": f"{ASSETS}/osediff_nano_router.safetensors",
    "edge_nano": f"{ASSETS}/edge_nano_router.safetensors",
}
LPIPS = ("--lpips-weights", "{iqa_weights}/lpips_squeeze_v0.1.safetensors")
REGION = ("--region", "40:440,1160:2000")  # sky in the enlarged photograph


def router(short: Short) -> list[Job]:
    """Routed tiles against one path for all, on RealSR."""
    return [
        _compared(name, ("--data", "{realsr}/HR", "--lr", "{realsr}/LR", *short.words(full=30)))
        for name in ROUTERS
    ]


def large(short: Short) -> list[Job]:
    """The same on photographs of many tiles."""
    return [_compared(name, ("--data", "{photographs}", *short.words())) for name in ROUTERS]


def _compared(name: str, data: tuple[str, ...]) -> Job:
    model, file = f"{ASSETS}/{name}.safetensors", ROUTERS[name]
    words = ("python", "-m", "compress.route", "eval", model, file, *data, *LPIPS)
    command = (*words, "-o", "{out}/figures.json")
    return Job(name, (command,), partial(_read_ways, name), inputs=(model, file))


def _read_ways(name: str, finished: Finished) -> list[Row]:
    """A row for each way: every path for all tiles, and routed."""
    figures = read_json(finished.out / "figures.json", "figures of a router", dict)
    whole = figures["diffusion"]
    return [
        {
            "model": f"`{name}`",
            "way": way,
            **row,
            "lpips_more": row["lpips"] - whole["lpips"],
            "psnr_more": row["psnr"] - whole["psnr"],
        }
        for way, row in figures.items()
        if isinstance(row, dict)
    ]


def seams(short: Short) -> list[Job]:
    """Steps at tile borders in a sky."""
    subjects: dict[str, tuple[str, ...]] = {
        "osediff_nano": (),
        "edge_nano": ("--router", ROUTERS["edge_nano"]),
        "adcsr_nano": (),
        "sinsr_nano": (),
    }
    jobs = []
    for name, more in list(subjects.items())[: short.limit]:
        model = f"{ASSETS}/{name}.safetensors"
        command = script("bench_seams", model, "camera", *REGION, *more)
        jobs.append(Job(name, (command,), read_rows, inputs=(model, *more[1:])))
    return jobs


WAYS = (
    Column("model", "model"),
    Column("way", "tiles go to"),
    Column("macs", "MACs of all", 3),
    Column("psnr", "PSNR", 2, "dB"),
    Column("lpips", "LPIPS-squeeze", 4),
    Column("psnr_more", "PSNR more, dB", 2, "dB"),
    Column("lpips_more", "LPIPS more", 4),
)
ROUTER = Measurement(
    name="router",
    title="Tiles by the cheapest good path, on RealSR",
    page="router",
    jobs=router,
    columns=WAYS,
    needs=("realsr", "iqa_weights"),
    hours=0.2,
)
LARGE = Measurement(
    name="router_large",
    title="Tiles by the cheapest good path, on large photographs",
    page="router",
    jobs=large,
    columns=WAYS,
    needs=("photographs", "iqa_weights"),
    hours=0.5,
)
SEAMS = Measurement(
    name="seams",
    title="Steps at the borders of tiles",
    page="router",
    jobs=seams,
    columns=(
        Column("model", "model"),
        Column("borders", "borders"),
        Column("step", "largest step at a border", 2, "levels of 255"),
        Column("elsewhere_median", "elsewhere, median", 2, "levels of 255"),
        Column("elsewhere_99", "elsewhere, 99%", 2, "levels of 255"),
    ),
    hours=0.1,
)
ALL = (ROUTER, LARGE, SEAMS)
