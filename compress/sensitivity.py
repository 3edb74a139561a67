"""How much of the restored image every layer's quantisation costs, one layer at a time; and bits per layer from that.

    python -m compress.sensitivity RECIPE|RUN|MODEL [--bits 4 6 8] [--data DIR] -o sensitivity.json
    python -m compress.sensitivity RECIPE … --budget 2.1MB --recipe mixed.yaml

One layer's weights and input are on the grid, all others in float (`--others recipe`: as the recipe has them), and the
decoded image is compared with the float model's on calibration crops. Ranges are those that the quantize pass begins
with; transforms, learning and error feedback are left out, so the ranking is for a layer as it comes. What stands
before the layer's component is computed once and kept: a layer of the decoder costs a run of the decoder.

Finished measurements are in FILE.jsonl; a run that was killed goes on there.
"""

import argparse
import copy
import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn
from tqdm import tqdm

from compress.bits.allocate import (
    Budget,
    amounts,
    choose,
    everywhere,
    name_of,
    parse_budget,
    parse_width,
    pinned,
    predicted_ms,
)
from compress.core.arguments import usable_seed
from compress.core.errors import UserError, command
from compress.core.files import MADE_BY, check_file, check_name, write_text
from compress.core.identity import default_root, files_key
from compress.core.json_files import read_lines
from compress.core.locks import locked
from compress.cost.count import measure
from compress.cost.phones import rates
from compress.data.calibration import calibration_hash, calibration_images
from compress.model.passes import Pass
from compress.model.source import Source
from compress.model.sr_model import SRModel
from compress.passes.quantize import Quantize, Width
from compress.quant.distributed import observe, set_mode, start
from compress.quant.layers import QuantLayer, SplitConv2d
from compress.recipe.cache import PassCache, code_version
from compress.recipe.checkpoint import convert_all, dump, load_model, read_header
from compress.recipe.recipe import Recipe, load_recipe, parse_recipe, resolved
from compress.recipe.run_passes import compress
from compress.training.losses import lpips

ORDER = ("encoder", "denoiser", "decoder")


@dataclass
class Subject:
    """A float model, what made it, and the quantize pass whose widths are in question."""

    source: Source
    before: list[Pass]
    step: Quantize
    model: SRModel
    recipe: Recipe | None = None
    place: int = 0


def open_subject(path: str, overrides: list[str], cache: Path, workdir: Path) -> Subject:
    """Of a recipe, the model before its first quantize pass; of a run or model file, the model itself."""
    if not path.endswith((".yaml", ".yml")):
        if overrides:
            raise UserError(
                f"{path} is a model, which has nothing to override; drop {overrides[0]}, or give a recipe"
            )
        source, passes = read_header(path)
        if any(isinstance(step, Quantize) for step in passes):
            raise UserError(
                f"{path}: is quantised already; give the recipe that made it, or a float model"
            )
        return Subject(source, passes, Quantize(), load_model(path))
    recipe = load_recipe(path, overrides)
    places = [i for i, step in enumerate(recipe.passes) if isinstance(step, Quantize)]
    if not places:
        raise UserError(
            f"{path}: has no pass 'quantize', whose layers and methods are to be measured; add one"
        )
    before = recipe.passes[: places[0]]
    shortened = recipe.model_copy(update={"passes": before})
    model = compress(
        shortened, PassCache(cache, recipe.source, recipe.seed), torch.device("cpu"), workdir
    ).model
    return Subject(recipe.source, before, recipe.passes[places[0]], model.eval(), recipe, places[0])


def probing(step: Quantize) -> Quantize:
    """The pass as it is probed: layers' own quantisers alone."""
    return step.model_copy(
        update={
            "placement": "compat",
            "attention": False,
            "outputs": (),
            "norm_stride": 1,
            "transforms": False,
            "explicit": False,
            "equalise": False,
        }
    )


def probed_layers(step: Quantize, model: SRModel) -> list[str]:
    """Full names of the layers that `step` quantises, split ones as a whole, in the order of the components."""
    twin = copy.deepcopy(model)
    step.convert(twin)
    found = []
    for part in ORDER:
        if part in step.components:
            whole = [
                name
                for name, m in getattr(twin, part).named_modules()
                if isinstance(m, SplitConv2d)
            ]
            found += [
                f"{part}.{name}"
                for name, m in getattr(twin, part).named_modules()
                if isinstance(m, (QuantLayer, SplitConv2d))
                and not any(name.startswith(f"{w}.") for w in whole)
            ]
    return found


def prepared(step: Quantize, model: SRModel, stages: "Stages") -> SRModel:
    """A copy of `model` converted by `step`, its ranges begun on what the float components put out; all quantised."""
    twin = copy.deepcopy(model)
    step.convert(twin)
    search = step.method == "passionsr" and "lbq" not in step.ablate
    for part in step.components:
        component, inputs = getattr(twin, part), stages.inputs[part]
        run = {"encoder": twin.encoder, "decoder": twin.decoder, "denoiser": twin.clean_latent}[
            part
        ]
        with torch.no_grad():
            observe(component, run, inputs)
            start(component, search, search)
        set_mode(component, "quantise")
    return twin


class Stages:
    """What the model makes of the images, stage by stage, so that only what follows a change runs again."""

    @torch.no_grad()
    def __init__(self, model: SRModel, images: list[torch.Tensor]):
        self.model, self.context = model, model.context()
        latents = [model.encoder(x) for x in images]
        clean = [model.clean_latent(z, self.context) for z in latents]
        self.inputs = {"encoder": images, "denoiser": latents, "decoder": clean}
        self.restored = [model.decoder(z).clamp(0, 1) for z in clean]

    @torch.no_grad()
    def restore(self, part: str) -> list[torch.Tensor]:
        """The images [1, 3, 4h, 4w] in [0, 1] with the model as it is now, from the inputs of `part` on."""
        found = []
        for x in self.inputs[part]:
            if part == "encoder":
                x = self.model.encoder(x)
            if part != "decoder":
                x = self.model.clean_latent(x, self.context)
            found.append(self.model.decoder(x).clamp(0, 1))
        return found


class Metrics:
    """Distance of restored images to the float model's: mean square error, and LPIPS where its weights are given."""

    def __init__(self, reference: list[torch.Tensor], weights: str | None):
        self.reference, self.perceptual = reference, lpips(weights) if weights else None

    @torch.no_grad()
    def __call__(self, images: list[torch.Tensor]) -> dict[str, float]:
        pairs = list(zip(images, self.reference, strict=True))
        mse = sum((a - b).square().mean().item() for a, b in pairs) / len(pairs)
        found = {"mse": mse, "psnr": decibels(mse)}
        if self.perceptual is not None:
            found["lpips"] = sum(self.perceptual(a, b).mean().item() for a, b in pairs) / len(pairs)
        return found


def decibels(mse: float) -> float:
    return -10 * math.log10(max(mse, 1e-12))


@contextmanager
def swapped(model: SRModel, layer: str, other: nn.Module) -> Iterator[None]:
    """`model` with the module of that name replaced inside."""
    parent, _, attribute = layer.rpartition(".")
    owner, before = model.get_submodule(parent), model.get_submodule(layer)
    owner.register_module(attribute, other)
    try:
        yield
    finally:
        owner.register_module(attribute, before)


def measure_layers(
    subject: Subject,
    images: list[torch.Tensor],
    widths: list[Width],
    progress: Path,
    key: str,
    others: str = "float",
    weights: str | None = None,
) -> list[dict]:
    """A row {layer, width, mse, psnr, lpips?} for every layer at every width; finished ones come from `progress`."""
    base = Stages(subject.model, images)
    step = probing(subject.step)
    layers = probed_layers(step, subject.model)
    metrics = Metrics(base.restored, weights)
    rows = read_progress(progress, key)
    done = {(row["layer"], row["width"]) for row in rows}
    stages = base
    if others == "recipe":
        # Everything in front of a component is that of the recipe as well.
        stages = Stages(prepared(step, subject.model, base), images)
    with (
        progress.open("a", encoding="utf-8") as stream,
        tqdm(total=len(layers) * len(widths), desc="sensitivity") as bar,
    ):
        for width in widths:
            missing = [layer for layer in layers if (layer, name_of(width)) not in done]
            bar.update(len(layers) - len(missing))
            probe = prepared(everywhere(step, width), subject.model, base) if missing else None
            for layer in missing:
                with swapped(stages.model, layer, probe.get_submodule(layer)):
                    found = metrics(stages.restore(layer.partition(".")[0]))
                row = {"layer": layer, "width": name_of(width), **found}
                stream.write(json.dumps(row) + "\n")
                stream.flush()
                rows.append(row)
                bar.update()
                bar.set_postfix(psnr=f"{found['psnr']:.1f}", refresh=False)
    order = {layer: i for i, layer in enumerate(layers)}
    return sorted(rows, key=lambda row: (order[row["layer"]], -row["mse"]))


def first_key(file: Path) -> str | None:
    """The key in the first line of a file of rows; None where there is no file. Raises UserError for any other file."""
    if not file.exists() and not file.is_symlink():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8").partition("\n")[0])
    except (OSError, ValueError, RecursionError):
        found = None
    if file.is_symlink() or not isinstance(found, dict) or "key" not in found:
        raise UserError(
            f"{file}: exists and holds no rows of python -m compress.sensitivity; give another -o, or move it "
            "away"
        )
    return found["key"]


def read_progress(file: Path, key: str) -> list[dict]:
    """The rows in `file` if its first line has `key`; otherwise the file is begun anew."""
    lines = read_lines(file, dict)
    if lines and first_key(file) == key:
        # Whole lines alone: a killed run may have ended within one, and the next row goes behind it.
        write_text(file, "\n".join(map(json.dumps, lines)) + "\n")
        return lines[1:]
    if lines:
        print(f"{file}: of another model, data or code; measuring anew")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps({"key": key}) + "\n")
    return []


def together(
    subject: Subject, images: list[torch.Tensor], step: Quantize, weights: str | None
) -> dict[str, float]:
    """The metrics with all layers of `step` quantised at once, ranges as begun, nothing learned."""
    base = Stages(subject.model, images)
    twin = prepared(probing(step), subject.model, base)
    return Metrics(base.restored, weights)(Stages(twin, images).restored)


@dataclass(frozen=True)
class Choice:
    """Bits per layer; `predicted` is what the sum of single errors says in dB, `measured` what all together give."""

    step: Quantize
    widths: dict[str, Width]
    amount: float
    predicted: float
    measured: dict[str, float]


def allocate(
    subject: Subject,
    rows: list[dict],
    widths: list[Width],
    budget: Budget,
    device: str,
    metric: str,
    images: list[torch.Tensor],
    weights: str | None,
) -> Choice:
    """The widths of the least summed error under `budget`, and the pass that has them as pins."""
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    found = {(row["layer"], row["width"]): row for row in rows}
    column = "mse" if metric == "psnr" else metric
    errors = np.array([[found[layer, name_of(w)][column] for w in widths] for layer in layers])
    costs, rest = amounts(
        subject.source, subject.before, subject.step, layers, widths, budget, device
    )
    picked = choose(errors, costs, budget.limit - rest)
    chosen = {layer: widths[i] for layer, i in zip(layers, picked, strict=True)}
    step = pinned(subject.step, chosen)
    cost = measure(convert_all(subject.source, [*subject.before, step]))
    amount = predicted_ms(cost, device) if budget.unit == "ms" else cost.bytes
    mse = sum(found[layer, name_of(w)]["mse"] for layer, w in chosen.items())
    return Choice(step, chosen, amount, decibels(mse), together(subject, images, step, weights))


def write_recipe(subject: Subject, choice: Choice, path: Path, how: list[str]) -> None:
    """The recipe with the chosen pins, and `how` it came about in its head."""
    if subject.recipe is None:
        raise UserError(
            "--recipe needs a recipe to put the pins into; give one in the place of the model"
        )
    data = resolved(subject.recipe)
    entry = dump(choice.step)
    pins = {
        name: (w["weights"] if w["weights"] == w["activations"] else w)
        for name, w in entry["pins"].items()
    }
    # Only what the recipe said or the choice set: the defaults are the pass's own affair.
    said = {
        key: value
        for key, value in entry.items()
        if key in choice.step.model_fields_set | {"pass"} or key in ("weights", "activations")
    }
    data["passes"] = [dump(step) for step in subject.recipe.passes]
    data["passes"][subject.place] = said | {"pins": pins}
    data["name"] = path.stem
    parse_recipe(data, str(path))
    text = yaml.safe_dump(data, sort_keys=False, width=110, default_flow_style=None)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f"# made by {MADE_BY}\n" + "".join(f"# {line}\n" for line in how) + text)


def report(rows: list[dict], widths: list[Width], worst: int = 12) -> str:
    """The layers that cost most at the narrowest width, and the median of all, in dB."""
    table = {(row["layer"], row["width"]): row["psnr"] for row in rows}
    names = [name_of(w) for w in widths]
    layers = sorted(
        {row["layer"] for row in rows}, key=lambda layer: min(table[layer, n] for n in names)
    )
    lines = [f"{'PSNR to float with this layer alone, dB':<72}" + "".join(f"{n:>9}" for n in names)]
    lines += [
        f"{layer:<72}" + "".join(f"{table[layer, n]:>9.2f}" for n in names)
        for layer in layers[:worst]
    ]
    medians = [float(np.median([table[layer, n] for layer in layers])) for n in names]
    return "\n".join(
        [
            *lines,
            f"{f'median of {len(layers)} layers':<72}" + "".join(f"{m:>9.2f}" for m in medians),
        ]
    )


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m compress.sensitivity", description=__doc__.splitlines()[0]
    )
    p.add_argument(
        "subject",
        metavar="RECIPE|RUN|MODEL",
        help="a recipe with a quantize pass, or a float model",
    )
    p.add_argument("overrides", nargs="*", metavar="key=value", help="of the recipe")
    p.add_argument(
        "--bits",
        nargs="+",
        default=["4", "6", "8"],
        metavar="N",
        help="widths: 6, or w4a8 (default 4 6 8)",
    )
    p.add_argument(
        "--data", default="embedded", help="folder of LR photographs (default: %(default)s)"
    )
    p.add_argument("--images", type=int, default=4)
    p.add_argument(
        "--size", type=int, default=64, help="side of their crops (default: %(default)s)"
    )
    p.add_argument("--seed", type=usable_seed, default=0)
    p.add_argument(
        "--others", choices=("float", "recipe"), default="float", help="what all other layers are"
    )
    p.add_argument(
        "--lpips", metavar="FILE", help="weights of LPIPS (SqueezeNet), to measure that as well"
    )
    p.add_argument("--budget", help="2.1MB, 850KB or 12ms: choose bits per layer within it")
    p.add_argument(
        "--metric", choices=("psnr", "lpips"), default="psnr", help="what is best within the budget"
    )
    p.add_argument(
        "--device",
        default=next(iter(rates())),
        help="phone of a budget in ms (default: %(default)s)",
    )
    p.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE",
        help="with --budget: write the recipe with its pins there",
    )
    p.add_argument(
        "--cache",
        type=Path,
        default=None,
        help="pass cache (default ~/.cache/diffusion-sr-compress)",
    )
    p.add_argument("-o", "--out", type=Path, default=Path("sensitivity.json"))
    return p


def check(options: argparse.Namespace) -> tuple[list[Width], Budget | None]:
    widths = list(dict.fromkeys(parse_width(text) for text in options.bits))
    budget = parse_budget(options.budget) if options.budget else None
    if budget and len(widths) < 2:
        raise UserError("--budget has nothing to choose from with one width; give several --bits")
    if options.recipe and budget is None:
        raise UserError("--recipe writes what --budget chose; give a --budget")
    if options.metric == "lpips" and not options.lpips:
        raise UserError("--metric lpips needs the weights of LPIPS; give --lpips FILE")
    if options.out.suffix != ".json":
        raise UserError(
            f"-o {options.out}: give a name that ends in .json; the picture goes beside it"
        )
    if options.device not in rates():
        raise UserError(
            f"--device '{options.device}' has no published rate; choose one of {', '.join(rates())}"
        )
    progress, picture = options.out.with_suffix(".jsonl"), options.out.with_suffix(".png")
    check_name(progress, "-o")
    first_key(progress)
    for file, option in ((options.out, "-o"), (picture, "-o"), (options.recipe, "--recipe")):
        if file is not None:
            check_file(file, option, [Path(options.subject), Path(options.data)])
    return widths, budget


def key_of(subject: Subject, options: argparse.Namespace) -> str:
    """Identity of everything that a row depends on."""
    parts = {
        "source": dump(subject.source),
        "weights": subject.source.data_key(),
        "before": [[dump(step), step.data_key()] for step in subject.before],
        "step": dump(subject.step),
        "data": calibration_hash(options.data),
        "images": options.images,
        "size": options.size,
        "seed": options.seed,
        "others": options.others,
        "lpips": files_key([options.lpips] if options.lpips else []),
        "code": code_version(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@command
def main(argv: list[str]) -> int:
    options = parser().parse_intermixed_args(argv)
    widths, budget = check(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with locked(options.out, "-o"):
        return work(options, widths, budget, argv)


def work(
    options: argparse.Namespace, widths: list[Width], budget: Budget | None, argv: list[str]
) -> int:
    """Measure, choose, write and print; returns the exit code."""
    subject = open_subject(
        options.subject, options.overrides, options.cache or default_root(), options.out.parent
    )
    if options.size % subject.model.multiple:
        raise UserError(
            f"--size {options.size} is not a multiple of {subject.model.multiple}, as this model needs; "
            "round it"
        )
    images = calibration_images(options.data, options.images, options.size, options.seed)
    rows = measure_layers(
        subject,
        images,
        widths,
        options.out.with_suffix(".jsonl"),
        key_of(subject, options),
        options.others,
        options.lpips,
    )
    rows = [row for row in rows if row["width"] in map(name_of, widths)]
    found = {
        "made_by": MADE_BY,
        "subject": options.subject,
        "data": options.data,
        "images": options.images,
        "size": options.size,
        "seed": options.seed,
        "others": options.others,
        "rows": rows,
    }
    print(report(rows, widths))
    if budget:
        choice = allocate(
            subject, rows, widths, budget, options.device, options.metric, images, options.lpips
        )
        counts = {name_of(w): sum(x == w for x in choice.widths.values()) for w in widths}
        amount = (
            f"{choice.amount:.2f} ms predicted on {options.device}"
            if budget.unit == "ms"
            else (f"{choice.amount / 1e6:.4f} MB, weights packed")
        )
        lines = [
            f"{budget}: {', '.join(f'{n} layers {w}' for w, n in counts.items())}; {amount}",
            f"sum of single errors {choice.predicted:.2f} dB; all together, nothing learned, "
            f"{choice.measured['psnr']:.2f} dB to float",
        ]
        print("\n".join(lines))
        found["choice"] = {
            "budget": str(budget),
            "amount": choice.amount,
            "predicted_psnr": choice.predicted,
            "measured": choice.measured,
            "counts": counts,
            "pins": {name: w.model_dump() for name, w in choice.widths.items()},
        }
        if options.recipe:
            write_recipe(
                subject,
                choice,
                options.recipe,
                [
                    "Bits per layer by an integer program from the layers' sensitivities, as written by",
                    *_wrapped(f"python -m compress.sensitivity {' '.join(argv)}"),
                    *lines,
                    "Codes below 8 bits are stored in 8-bit containers; the size is that of weights packed.",
                ],
            )
    write_text(options.out, json.dumps(found, indent=1))
    from compress.bits.picture import draw

    print(f"{options.out}, {draw(found, options.out.with_suffix('.png'))}")
    return 0


def _wrapped(text: str, width: int = 112) -> list[str]:
    import textwrap

    return textwrap.wrap(
        text, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
    )


if __name__ == "__main__":
    main()
