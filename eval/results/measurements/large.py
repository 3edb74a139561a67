"""Full sizes with random weights, large photographs, plans, and the speed of torch and scoring."""

from functools import partial

from compress.core.json_files import read_json
from eval.results.measurement import Column, Finished, Job, Measurement, Row, Short
from eval.results.measurements.evaluated import G, M
from eval.results.measurements.scripts import read_rows, read_stdout, script
from eval.results.weights import NANO, recipe_file

FULL_SIZES: dict[str, tuple[str, ...]] = {
    "AdcSR": ("adcsr", "source.size=sd21"),
    "BiMaCoSR": ("bimacosr", "source.size=full"),
    "BiMaCoSR from 64×64": ("bimacosr", "source.size=full", "--lr", "64"),
    "PassionSR": ("passionsr_w8a8", "source.size=sd21"),
    "Edge-SD-SR": ("edge_sd_sr", "source.size=default"),
    "Edge-SD-SR, lite": ("edge_sd_sr", "source.size=lite"),
    "TSD-SR, W8A8": ("tsdsr_w8a8", "source.size=full"),
    "TinySR": (
        "tinysr",
        "source.size=full",
        "passes.0.ratio=0.34",
        "passes.3.channels=128",
    ),
}
PHONE = "Galaxy S24"


def plans(short: Short) -> list[Job]:
    """Counts and predictions at full size, without any weight."""
    jobs = []
    for label, (recipe, *words) in list(FULL_SIZES.items())[: short.limit]:
        file = recipe_file(recipe)
        command = ("python", "-m", "compress.run", file, *words, "--plan", "--json")
        jobs.append(Job(label, (command,), partial(_read_plan, label), inputs=(file,)))
    return jobs


def _read_plan(label: str, finished: Finished) -> list[Row]:
    plan = read_stdout(finished)
    before, after = plan["plan"][0], plan["plan"][-1]
    published = plan["published_accounting"]
    parts = {part["name"]: part for part in published["components"]}
    return [
        {
            "model": label,
            "params_before_m": before["params"] / M,
            "gmacs_before": before["macs_full"] / G,
            "params_m": after["params"] / M,
            "megabytes": after["bytes"] / M,
            "gmacs": after["macs_full"] / G,
            "paper_params_m": published["paper_params"] / M,
            "paper_gops": published["paper_ops"] / G,
            "denoiser_params_m": parts["denoiser"]["paper_params"] / M,
            "denoiser_gops": parts["denoiser"]["paper_ops"] / G,
            "predicted_ms": plan["predicted_ms"][PHONE],
        }
    ]


def full_size(short: Short) -> list[Job]:
    """Models at full size: saved, run, exported, compared, in 32 and in 8 bits."""
    size = ("--lr-size", "32x32") if short != Short() else ()
    jobs = []
    for model, subject in {"AdcSR": "adcsr", "OSEDiff": "osediff"}.items():
        for dtype, more in {"fp32": (), "W8A8": ("--w8a8",)}.items():
            command = script("bench_full_size", subject, *more, *size)
            read = partial(_labelled, {"model": model, "dtype": dtype})
            # The command ends with 1 where parity fails. That is a row of the table, too.
            jobs.append(Job(f"{model} {dtype}", (command,), read, codes=(0, 1)))
    return jobs


def htp(short: Short) -> list[Job]:
    """AdcSR at full size through the compiler of Qualcomm's HTP."""
    size = "sd21" if short == Short() else "nano"
    recipe = recipe_file("adcsr")
    save = ("python", "tests/bench/save_random.py", recipe, f"source.size={size}")
    model = "{out}/model.safetensors"
    export = (
        *("python", "-m", "export.run", model, "--target", "qnn", "--dtype", "w8a8"),
        *("--lr-size", "64x64", "--images", "2", "--python", "{qnn_python}"),
        *("--probe", "photo 1", "--threads", "1", "-o", "{out}/export"),
    )
    commands = ((*save, "-o", model), export)
    return [Job("AdcSR", commands, _read_parts, inputs=(recipe,), codes=(0, 1))]


def _read_parts(finished: Finished) -> list[Row]:
    """A row for each part, and for all end to end."""
    good = finished.out / "export"
    folder = good if good.is_dir() else finished.out / "export.failed"
    files = read_json(folder / "manifest.json", "the manifest of an export")["files"]
    parts = read_json(folder / "parity.json", "the parity of an export", list)
    return [
        {
            "part": part["file"],
            "psnr_db": part["psnr_db"],
            "megabytes": files[part["file"]]["bytes"] / M if part["file"] in files else None,
            "minutes": finished.seconds[1] / 60 if part["file"] not in files else None,
        }
        for part in parts
    ]


def _labelled(labels: Row, finished: Finished) -> list[Row]:
    return [{**labels, **row} for row in read_rows(finished)]


def large_photograph(short: Short) -> list[Job]:
    """Twelve megapixels by an exported folder."""
    model = NANO["adcsr"]
    size = "4000x3000" if short == Short() else "200x160"
    export = ("python", "-m", "export.run", model, "--target", "onnx", "-o", "{out}/export")
    restore = script("bench_large", "{out}/export", "--size", size, "--fix", "adain", "--png")
    return [Job(size, (export, restore), partial(_photograph, size), inputs=(model,))]


def _photograph(size: str, finished: Finished) -> list[Row]:
    return [{"photograph": size, **row} for row in read_rows(finished)]


def torch_speed(short: Short) -> list[Job]:
    """Source and compressed model side by side in torch."""
    repeats = ("--repeats", "1") if short != Short() else ()
    file = recipe_file("adcsr")
    words = (file, "--random", "--device", "cpu", "--lr-size", "64x64", "--threads", "1")
    return [Job("adcsr", (script("bench_models", *words, *repeats),), read_rows, inputs=(file,))]


def scoring(short: Short) -> list[Job]:
    """This toolkit's scoring beside pyiqa's own calls."""
    count = "24" if short.limit is None else "8"
    words = ("{published}", "--data", "{realsr}", "--images", count, "--repeats", "2")
    command = script("bench_eval", *words, "--iqa-weights", "{iqa_weights}")
    return [Job("scoring", (command,), read_rows)]


PLANS = Measurement(
    name="plans",
    title="Counts and predicted latency at full size",
    page="full-size",
    jobs=plans,
    columns=(
        Column("model", "model"),
        Column("params_before_m", "source: params M", 2),
        Column("gmacs_before", "GMACs with attention", 2),
        Column("params_m", "compressed: params M", 2),
        Column("megabytes", "MB", 1, "10^6 bytes"),
        Column("gmacs", "GMACs with attention", 2),
        Column("paper_params_m", "papers' account: params M", 3),
        Column("paper_gops", "G operations", 3),
        Column("denoiser_params_m", "of the UNet alone: params M", 3),
        Column("denoiser_gops", "G operations", 3),
        Column("predicted_ms", f"predicted ms, {PHONE}", 1, "ms"),
    ),
)
FULL_SIZE = Measurement(
    name="full_size",
    title="AdcSR and OSEDiff at full size with random weights, phase by phase",
    page="full-size",
    jobs=full_size,
    columns=(
        Column("model", "model"),
        Column("dtype", "dtype"),
        Column("phase", "phase"),
        Column("seconds", "seconds", 0, "s"),
        Column("peak_gib", "peak GiB", 1, "GiB"),
        Column("parity_db", "to torch on four probes, dB"),
    ),
    hours=1.5,
)
HTP = Measurement(
    name="htp_full_size",
    title="AdcSR at full size for the HTP",
    page="full-size",
    jobs=htp,
    columns=(
        Column("part", "part"),
        Column("megabytes", "MB", 1, "10^6 bytes"),
        Column("psnr_db", "simulator against torch, photograph, dB", 1, "dB"),
        Column("minutes", "the whole command, min", 0, "min"),
    ),
    needs=("qnn_python",),
    hours=0.5,
)
LARGE_PHOTOGRAPH = Measurement(
    name="large_photograph",
    title="Memory and time of a photograph of 12 megapixels",
    page="full-size",
    jobs=large_photograph,
    columns=(
        Column("photograph", "photograph"),
        Column("peak", "peak MiB", 0, "MiB"),
        Column("beside", "beside the loaded model, MiB", 0, "MiB"),
        Column("seconds", "seconds", 0, "s"),
        Column("share", "colour's share of it", 3),
    ),
    is_timing=True,
    hours=1,
)
TORCH_SPEED = Measurement(
    name="torch_speed",
    title="Speed of AdcSR's structure beside its source in torch",
    page="pruning",
    jobs=torch_speed,
    columns=(
        Column("model", "model"),
        Column("params_m", "params M", 2),
        Column("gmacs", "GMACs", 2),
        Column("median_ms", "ms", 1, "ms"),
        Column("fewer", "fewer MACs", 2, "times"),
        Column("faster", "faster", 2, "times"),
        Column("faster_at_best", "faster, shortest runs", 2, "times"),
    ),
    is_timing=True,
)
SCORING = Measurement(
    name="scoring",
    title="Speed of scoring beside pyiqa's own calls",
    page="evaluation",
    jobs=scoring,
    columns=(
        Column("way", "way"),
        Column("ms", "ms an image", 1, "ms"),
        Column("faster", "times as fast", 2),
    ),
    needs=("realsr", "published", "iqa_weights"),
    is_timing=True,
)
ALL = (PLANS, FULL_SIZE, HTP, LARGE_PHOTOGRAPH, TORCH_SPEED, SCORING)
