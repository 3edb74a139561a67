"""Quantisation methods side by side: method x width x placement, on one model and one runtime.

    python tests/bench/bench_quantisation.py [RECIPE [key=value ...]] --data FOLDER
        [--methods ours minmax nncf ...]
        [--widths W8A8 ...] -o DIR [--limit N] [--iqa-weights DIR]
        [--calibration DIR|embedded] [--images 16] [--size 64]

Every figure is of ONNX files in onnxruntime, each component in one. PSNR is to
what the float files restore (8-bit images, colour fix on, as a user sees them). LPIPS (SqueezeNet),
NIQE and the bytes of the files stand beside it, and the float files' latency over theirs
(medians of interleaved runs, components added up; above 1 is faster). Codes of 4 and 6 bits lie in
8-bit containers, but for onnxruntime's QNN form, whose W4 is int4. A row is a file in DIR/rows:
what was measured before is not measured again, and a method that fails has its reason there.
Nothing is asserted.
"""

import argparse
import copy
import hashlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from quantisation_table import METRICS, table
from rows import add_json, write_rows
from tqdm import tqdm

from compress.core.code_version import code_version
from compress.core.errors import UserError, command, nearest
from compress.core.files import write_text
from compress.core.memory import keep_freed_memory
from compress.data.calibration import calibration_hash, calibration_images
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.passes import PASSES
from compress.process.colour import FIXES
from compress.recipe.checkpoint import dump
from compress.recipe.recipe import load_recipe
from eval.data.dataset import Pair, open_data
from eval.metric.scorer import Metrics
from export.baselines.make import make
from export.baselines.methods import METHODS, check, parse_bits
from export.graphs.components import parts_of
from export.graphs.export_onnx import export_onnx
from export.parity.session import session
from export.timing.files import compare

WIDTHS = ("W8A8", "W6A6", "W4A8", "W8A16", "W8", "W4")
OWN = ("W8A8", "W6A6", "W4A8", "W8A16")
# In float, of the models that have it: it weighs most in the error and little in the MACs.
LAST = "decoder.decoder.conv_out"
# What recipes/passionsr_w4a8.yaml has beside the widths.
FOUR_BIT = {"low_rank": 8, "rounding": "feedback"}
# And recipes/passionsr_full_w8a8.yaml, for a whole graph.
WHOLE = {
    "epochs": 4,
    "lr": 2e-2,
    "pins": {
        "decoder.decoder.up_blocks.3.resnets.*.add": {"activations": 16},
        "decoder.decoder.conv_norm_out.group_norm": {"activations": 16},
    },
}


@dataclass(frozen=True)
class Row:
    method: str
    width: str
    placement: str

    @property
    def name(self) -> str:
        return f"{self.method}_{self.width}_{self.placement}"


def rows_of(methods: list[str], widths: list[str], placements: list[str]) -> list[Row]:
    """All combinations that exist, W8A8 first."""
    found = []
    for width in widths:
        for method in methods:
            if method in ("ours", "minmax"):
                found += [Row(method, width, placement) for placement in placements if width in OWN]
            elif width in METHODS[method].widths:
                found.append(Row(method, width, METHODS[method].placement))
    return found


def own_files(
    row: Row, model: SRModel, arguments: argparse.Namespace, folder: Path
) -> dict[str, Path]:
    """By the quantize pass: `ours` is PassionSR's method, `minmax` takes ranges as observed."""
    weights, activations = parse_bits(row.width)
    # As the recipes of this placement have it.
    has_last = LAST in dict(model.named_modules())
    more = {"skip": (LAST,)} if has_last and row.placement == "compat" else {}
    if row.method == "ours":
        whole = WHOLE if has_last else {key: WHOLE[key] for key in ("epochs", "lr")}
        more |= (FOUR_BIT if weights == 4 else {}) | (whole if row.placement == "full" else {})
    step = PASSES["quantize"](
        components=parts_of(model),
        method="passionsr" if row.method == "ours" else "minmax",
        weights=weights,
        activations=activations,
        placement=row.placement,
        **more,
        calibration={
            "data": arguments.calibration,
            "images": arguments.images,
            "size": arguments.size,
        },
    )
    before, twin = copy.deepcopy(model), copy.deepcopy(model)
    step.convert(twin)
    step.fit(
        twin,
        FitContext(source=before, seed=arguments.seed, before=lambda name: copy.deepcopy(before)),
    )
    twin.eval().requires_grad_(False)
    paths = export_onnx(twin, folder, lr_size=(arguments.lr_size,) * 2, end_to_end=False)
    return {path.stem: path for path in paths}


def files_of(
    row: Row, model: SRModel, arguments: argparse.Namespace, folder: Path
) -> dict[str, Path]:
    if row.method in ("ours", "minmax"):
        return own_files(row, model, arguments, folder)
    # Static graphs take images of their own size only; as many pixels as the others calibrate on.
    side = arguments.lr_size
    count = max(1, math.ceil(arguments.images * arguments.size**2 / side**2))
    images = calibration_images(arguments.calibration, count, side, arguments.seed)
    return make(row.method, model, parse_bits(row.width), images, folder, (side, side))


def restore(
    model: SRModel, files: dict[str, Path], images: list[torch.Tensor], threads: int
) -> list[torch.Tensor]:
    """Images [1, 3, h, w] -> [1, 3, 4h, 4w], rounded to 8 bits.

    The files run, with the model's process between them.
    """
    loaded = {stem: session(path, threads) for stem, path in files.items()}

    def run(stem: str, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(
            loaded[stem].run(None, {loaded[stem].get_inputs()[0].name: x.numpy()})[0]
        )

    found = []
    for lr in images:
        first = run("encoder", lr) if "encoder" in loaded else lr
        clean = model.process.restore(first, lambda x, *_: run("denoiser", x))
        image = FIXES[model.colour_fix](run("decoder", clean), lr).clamp(0, 1)
        found.append((image * 255).round() / 255)
    return found


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(max((a - b).square().mean().item(), 1e-10))


def scored(restored: list[torch.Tensor], pairs: list[Pair], metrics: Metrics) -> dict[str, float]:
    """Averages over the images; a metric without a value on any of them is absent."""
    values: dict[str, list[float]] = {}
    for image, pair in zip(restored, pairs, strict=True):
        scores, _ = metrics.score(image, None if pair.hr is None else pair.hr())
        for name, value in scores.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def speed(
    reference: dict[str, Path], files: dict[str, Path], threads: int, repeats: int
) -> dict[str, float]:
    """Float ms, ms, and their ratio: medians of the components, added up."""
    ms = [0.0, 0.0]
    for stem in files:
        rows = compare(
            {"float": reference[stem], "row": files[stem]}, threads=threads, repeats=repeats
        )
        ms = [total + row["median_ms"] for total, row in zip(ms, rows, strict=True)]
    return {"float_ms": ms[0], "ms": ms[1], "ratio": ms[0] / ms[1]}


def float_model(path: str, overrides: list[str], cache: Path) -> SRModel:
    from compress.bits.subject import open_subject
    from compress.core.identity import default_root

    return open_subject(path, overrides, default_root(), cache).model


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "recipe",
        nargs="?",
        default="recipes/passionsr_w8a8.yaml",
        help="what stands before its quantize pass is the float model (default: %(default)s)",
    )
    p.add_argument("overrides", nargs="*", metavar="key=value", help="of the recipe")
    p.add_argument("--data", required=True, help="embedded, or a folder with LR/ and HR/")
    p.add_argument("--methods", nargs="+", default=["ours", "minmax", *METHODS])
    p.add_argument("--widths", nargs="+", default=list(WIDTHS))
    p.add_argument("--placements", nargs="+", default=["compat", "full"], help="of ours and minmax")
    p.add_argument("--limit", type=int, help="only that many images")
    p.add_argument(
        "--lr-size",
        type=int,
        default=128,
        help="side of the LR images, all of one size (default: %(default)s)",
    )
    p.add_argument("--iqa-weights", metavar="DIR")
    p.add_argument("--calibration", default="embedded", metavar="DATA")
    p.add_argument(
        "--images", type=int, default=16, help="of the calibration (default: %(default)s)"
    )
    p.add_argument(
        "--size", type=int, default=64, help="side of their crops (default: %(default)s)"
    )
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("-o", "--out", type=Path, default=Path("runs/quantisation"))
    add_json(p)
    return p


def plain(row: dict) -> dict:
    """A row without mappings in it."""
    metrics, ratio = row.get("metrics", {}), row.get("speed", {}).get("ratio")
    rest = {key: value for key, value in row.items() if key not in ("metrics", "speed")}
    return rest | metrics | {"speed": ratio}


def check_choices(arguments: argparse.Namespace) -> None:
    known = ("ours", "minmax", *METHODS)
    for key, given, choices in (
        ("--methods", arguments.methods, known),
        ("--widths", arguments.widths, WIDTHS),
        ("--placements", arguments.placements, ("compat", "full")),
    ):
        if unknown := [x for x in given if x not in choices]:
            raise UserError(
                f"{key}: '{unknown[0]}' is unknown{nearest(unknown[0], choices)}; choose of "
                f"{', '.join(choices)}"
            )


@command
def main(argv: list[str]) -> None:
    arguments = parser().parse_intermixed_args(argv)
    check_choices(arguments)
    keep_freed_memory()
    folder = arguments.out
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    pairs = open_data(arguments.data, limit=arguments.limit).pairs
    small = [pair.lr() for pair in pairs]
    if any(tuple(x.shape[-2:]) != (arguments.lr_size,) * 2 for x in small):
        raise UserError(
            f"--data {arguments.data}: not all LR images are {arguments.lr_size} pixels a side, "
            "which the static files take; set --lr-size or choose the crop protocol's folder"
        )
    model = float_model(arguments.recipe, arguments.overrides, folder)
    key = hashlib.sha256(
        json.dumps(
            [
                dump(recipe.source),
                recipe.source.data_key(),
                [dump(p) for p in recipe.passes],
                [p.name for p in pairs],
                str(arguments.data),
                calibration_hash(arguments.calibration),
                arguments.images,
                arguments.size,
                arguments.lr_size,
                arguments.threads,
                arguments.repeats,
                arguments.seed,
                arguments.iqa_weights,
                code_version(),
            ]
        ).encode()
    ).hexdigest()[:16]
    metrics = Metrics(METRICS, arguments.iqa_weights)
    for name, why in metrics.blank.items():
        print(f"{name}: blank: {why}")
    reference = folder / f"float_{key}"
    stems = parts_of(model)
    if not all((reference / f"{stem}.onnx").is_file() for stem in stems):
        export_onnx(model, reference, lr_size=(arguments.lr_size,) * 2, end_to_end=False)
    float_files = {stem: reference / f"{stem}.onnx" for stem in stems}
    expected = restore(model, float_files, small, arguments.threads)
    float_bytes = sum(path.stat().st_size for path in float_files.values())
    results = [
        {
            "method": "float",
            "width": "W32A32",
            "placement": "none",
            "to_fp32": None,
            "bytes": float_bytes,
            "metrics": scored(expected, pairs, metrics),
            "size_ratio": 1.0,
            "speed": {"ratio": 1.0},
        }
    ]
    bar = tqdm(rows_of(arguments.methods, arguments.widths, arguments.placements), desc="rows")
    for row in bar:
        bar.set_postfix_str(row.name)
        file = folder / "rows" / f"{row.name}.{key}.json"
        if not file.is_file():
            began = time.time()
            found: dict = {"method": row.method, "width": row.width, "placement": row.placement}
            try:
                if row.method in METHODS:
                    check(row.method, *parse_bits(row.width))
                files = files_of(row, model, arguments, folder / row.name)
                restored = restore(model, files, small, arguments.threads)
                size = sum(path.stat().st_size for path in files.values())
                found |= {
                    "to_fp32": sum(map(psnr, restored, expected)) / len(expected),
                    "bytes": size,
                    "size_ratio": size / float_bytes,
                    "metrics": scored(restored, pairs, metrics),
                    "speed": speed(float_files, files, arguments.threads, arguments.repeats),
                }
            except UserError as error:
                results.append(
                    found | {"error": str(error)}
                )  # the user can put it right: try again next time
                continue
            except Exception as error:  # of another library: the table goes on, and says so
                first, *_ = str(error).strip().splitlines() or [""]
                found["error"] = f"{type(error).__name__}: {first}"
            write_text(file, json.dumps(found | {"seconds": round(time.time() - began, 1)}))
        results.append(json.loads(file.read_text()))
        bar.write(table(results[-1:]).splitlines()[-1])
    text = (
        f"{len(pairs)} images of {arguments.data}; calibrated on {arguments.images} crops of "
        f"{arguments.size} pixels of {arguments.calibration}; {arguments.threads} threads\n"
        + table(results)
    )
    write_text(folder / "table.txt", text + "\n")
    write_rows(arguments.json, [plain(row) for row in results])
    print(text)


if __name__ == "__main__":
    main()
