"""How much every layer's quantisation costs, one layer at a time; and bits per layer from that.

    python -m compress.sensitivity RECIPE|RUN|MODEL [--bits 4 6 8] [--data DIR] -o sensitivity.json
    python -m compress.sensitivity RECIPE … --budget 2.1MB --recipe mixed.yaml

What stands before a layer's component is computed once and kept: a layer of the decoder costs a run
of the decoder. Finished measurements are in FILE.jsonl; a run that was killed goes on there.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from compress.bits.allocate import Goal, allocate
from compress.bits.measure import measure_layers
from compress.bits.progress import Progress, first_key
from compress.bits.subject import Subject, open_subject
from compress.bits.widths import Budget, name_of, parse_budget, parse_width
from compress.bits.write import (
    choice_lines,
    choice_record,
    counts_of,
    how_it_was_made,
    report,
    write_recipe,
)
from compress.core.arguments import usable_seed
from compress.core.errors import UserError, command
from compress.core.files import MADE_BY, check_file, check_name, write_text
from compress.core.identity import default_root, files_key
from compress.core.locks import locked
from compress.core.memory import keep_freed_memory
from compress.core.program import program_name
from compress.cost.phones import rates
from compress.data.calibration import calibration_hash, calibration_images
from compress.passes.quantize import Width
from compress.recipe.cache import code_version
from compress.recipe.checkpoint import dump

DESCRIPTION = (
    "How much of the restored image every layer's quantisation costs, one layer at a time; and "
    "bits per layer from that."
)
KEY_DIGITS = 32


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program_name("compress.sensitivity"), description=DESCRIPTION
    )
    parser.add_argument(
        "subject",
        metavar="RECIPE|RUN|MODEL",
        help="a recipe with a quantize pass, or a float model",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the recipe")
    parser.add_argument(
        "--bits",
        nargs="+",
        default=["4", "6", "8"],
        metavar="N",
        help="widths: 6, or w4a8 (default 4 6 8)",
    )
    parser.add_argument(
        "--data", default="embedded", help="folder of LR photographs (default: %(default)s)"
    )
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument(
        "--size", type=int, default=64, help="side of their crops (default: %(default)s)"
    )
    parser.add_argument("--seed", type=usable_seed, default=0)
    parser.add_argument(
        "--others", choices=("float", "recipe"), default="float", help="what all other layers are"
    )
    parser.add_argument(
        "--lpips", metavar="FILE", help="weights of LPIPS (SqueezeNet), to measure that as well"
    )
    _add_choice(parser)
    parser.add_argument(
        "--cache",
        type=Path,
        default=None,
        help="pass cache (default ~/.cache/diffusion-sr-compress)",
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("sensitivity.json"))
    return parser


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--budget", help="2.1MB, 850KB or 12ms: choose bits per layer within it")
    parser.add_argument(
        "--metric", choices=("psnr", "lpips"), default="psnr", help="what is best within the budget"
    )
    parser.add_argument(
        "--device",
        default=next(iter(rates())),
        help="phone of a budget in ms (default: %(default)s)",
    )
    parser.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE",
        help="with --budget: write the recipe with its pins there",
    )


def check(options: argparse.Namespace) -> tuple[list[Width], Budget | None]:
    """The widths and the budget that were asked for.

    Raises:
        UserError: Options do not go together, or a file that is a user's would be overwritten.
    """
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
    _check_places(options)
    return widths, budget


def _check_places(options: argparse.Namespace) -> None:
    progress = options.out.with_suffix(".jsonl")
    check_name(progress, "-o")
    first_key(progress)
    inputs = [Path(options.subject), Path(options.data)]
    check_file(options.out, "-o", inputs)
    check_file(options.out.with_suffix(".png"), "-o", inputs)
    if options.recipe is not None:
        check_file(options.recipe, "--recipe", inputs)


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
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


@command
def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_intermixed_args(argv)
    widths, budget = check(options)
    keep_freed_memory()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with locked(options.out, "-o"):
        _work(options, widths, budget, " ".join(argv))
    return 0


def _work(
    options: argparse.Namespace, widths: list[Width], budget: Budget | None, typed: str
) -> None:
    """Measure, choose, write and print."""
    from compress.bits.picture import draw  # imports matplotlib, which a refusal need not wait for

    subject = open_subject(
        options.subject, options.overrides, options.cache or default_root(), options.out.parent
    )
    multiple = subject.model.multiple
    if options.size % multiple:
        raise UserError(
            f"--size {options.size} is not a multiple of {multiple}, as this model needs; round it"
        )
    images = calibration_images(options.data, options.images, options.size, options.seed)
    progress = Progress(options.out.with_suffix(".jsonl"), key_of(subject, options))
    rows = measure_layers(subject, images, widths, progress, options.others, options.lpips)
    names = [name_of(width) for width in widths]
    rows = [row for row in rows if row["width"] in names]
    measured: dict[str, Any] = {"made_by": MADE_BY}
    for name in ("subject", "data", "images", "size", "seed", "others"):
        measured[name] = getattr(options, name)
    measured["rows"] = rows
    print(report(rows, widths))
    if budget:
        goal = Goal(budget, options.device, options.metric)
        choice = allocate(subject, rows, widths, goal, images, options.lpips)
        counts = counts_of(choice, widths)
        lines = choice_lines(choice, goal, counts)
        print("\n".join(lines))
        measured["choice"] = choice_record(choice, goal, counts)
        if options.recipe:
            write_recipe(subject, choice, options.recipe, how_it_was_made(typed, lines))
    write_text(options.out, json.dumps(measured, indent=1))
    print(f"{options.out}, {draw(measured, options.out.with_suffix('.png'))}")


if __name__ == "__main__":
    main()
