"""What the command `compress.sensitivity` does: check, measure, choose, write and print."""

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
from compress.core.code_version import code_version
from compress.core.errors import UserError
from compress.core.files import MADE_BY, check_file, check_name, write_text
from compress.core.identity import default_root, files_key
from compress.cost.phones import rates
from compress.data.calibration import calibration_hash, calibration_images
from compress.passes.quantize import Width
from compress.recipe.checkpoint import dump

KEY_DIGITS = 32


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


def work(
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
