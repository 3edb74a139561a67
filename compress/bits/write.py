"""What came of it, as text and as a recipe."""

import textwrap
from pathlib import Path

import numpy as np
import yaml

from compress.bits.allocate import Choice, Goal
from compress.bits.subject import Subject
from compress.bits.widths import name_of
from compress.core.errors import UserError
from compress.core.files import MADE_BY, write_text
from compress.passes.quantize import Width
from compress.recipe.checkpoint import dump
from compress.recipe.recipe import parse_recipe, resolved

WORST = 12  # layers in the table
LINE = 100  # characters of a line of a recipe
COMMAND_LINE = 98  # of a command in its head


def report(rows: list[dict], widths: list[Width], worst: int = WORST) -> str:
    """The layers that cost most at the narrowest width, and the median of all, in dB.

    Args:
        rows: From `measure_layers`.
        widths: The columns.
        worst: How many layers are listed.
    """
    psnr = {(row["layer"], row["width"]): row["psnr"] for row in rows}
    names = [name_of(width) for width in widths]
    least: dict[str, float] = {}
    for row in rows:
        layer = row["layer"]
        least[layer] = min(psnr[layer, name] for name in names)
    layers = sorted(least, key=lambda layer: least[layer])
    heading = "".join(f"{name:>9}" for name in names)
    lines = [f"{'PSNR to float with this layer alone, dB':<72}{heading}"]
    for layer in layers[:worst]:
        values = "".join(f"{psnr[layer, name]:>9.2f}" for name in names)
        lines.append(f"{layer:<72}{values}")
    medians = [float(np.median([psnr[layer, name] for layer in layers])) for name in names]
    values = "".join(f"{median:>9.2f}" for median in medians)
    lines.append(f"{f'median of {len(layers)} layers':<72}{values}")
    return "\n".join(lines)


def counts_of(choice: Choice, widths: list[Width]) -> dict[str, int]:
    """How many layers have each width."""
    chosen = list(choice.widths.values())
    return {name_of(width): chosen.count(width) for width in widths}


def choice_record(choice: Choice, goal: Goal, counts: dict[str, int]) -> dict:
    """The choice as sensitivity.json keeps it."""
    return {
        "budget": str(goal.budget),
        "amount": choice.amount,
        "predicted_psnr": choice.predicted,
        "measured": choice.measured,
        "counts": counts,
        "pins": {name: width.model_dump() for name, width in choice.widths.items()},
    }


def choice_lines(choice: Choice, goal: Goal, counts: dict[str, int]) -> list[str]:
    """The choice in two lines of text."""
    if goal.budget.unit == "ms":
        amount = f"{choice.amount:.2f} ms predicted on {goal.device}"
    else:
        amount = f"{choice.amount / 1e6:.4f} MB, weights packed"
    layers = ", ".join(f"{count} layers {width}" for width, count in counts.items())
    return [
        f"{goal.budget}: {layers}; {amount}",
        f"sum of single errors {choice.predicted:.2f} dB; all together, nothing learned, "
        f"{choice.measured['psnr']:.2f} dB to float",
    ]


def how_it_was_made(command: str, lines: list[str]) -> list[str]:
    """The head of a recipe with chosen pins.

    Args:
        command: What was typed, without the program.
        lines: From `choice_lines`.
    """
    typed = textwrap.wrap(
        f"python -m compress.sensitivity {command}",
        COMMAND_LINE,
        initial_indent="  ",
        subsequent_indent="    ",
        break_on_hyphens=False,
    )
    return [
        "Bits per layer by an integer program from the layers' sensitivities. Written by",
        *typed,
        *lines,
        "Codes below 8 bits are stored in 8-bit containers; the size is that of weights packed.",
    ]


def write_recipe(subject: Subject, choice: Choice, path: Path, how: list[str]) -> None:
    """Write the recipe with the chosen pins.

    Args:
        subject: Of a recipe.
        choice: The widths.
        path: The recipe file; its name becomes that of the recipe.
        how: Lines for its head that say how it came about.

    Raises:
        UserError: The subject is a model alone.
    """
    if subject.recipe is None:
        raise UserError(
            "--recipe needs a recipe to put the pins into; give one in the place of the model"
        )
    data = resolved(subject.recipe)
    data["passes"] = [dump(step) for step in subject.recipe.passes]
    data["passes"][subject.place] = _entry(choice)
    data["name"] = path.stem
    parse_recipe(data, str(path))
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=LINE, default_flow_style=None)
    head = [f"made by {MADE_BY}", *how]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(f"# {line}\n" for line in head) + text)


def _entry(choice: Choice) -> dict:
    """The quantize pass as the recipe writes it.

    Only what the recipe said or the choice set: the defaults are the pass's own affair.
    """
    said = choice.step.model_fields_set | {"pass", "weights", "activations"}
    whole = dump(choice.step)
    entry = {key: value for key, value in whole.items() if key in said}
    pins = {}
    for name, width in whole["pins"].items():
        same = width["weights"] == width["activations"]
        pins[name] = width["weights"] if same else width
    return entry | {"pins": _OneALine(pins)}


class _OneALine(dict):
    """A mapping that is written with one key a line."""


class _Dumper(yaml.SafeDumper):
    """As `yaml.safe_dump`, which writes a mapping of plain values on as few lines as it can."""


def _write_one_a_line(dumper: yaml.SafeDumper, mapping: _OneALine) -> yaml.Node:
    return dumper.represent_mapping("tag:yaml.org,2002:map", mapping, flow_style=False)


_Dumper.add_representer(_OneALine, _write_one_a_line)
