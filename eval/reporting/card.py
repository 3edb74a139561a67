"""A run's model card: what it is, costs and can do, where it comes from, and how to load it."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from eval.metric.names import in_order, metric_of
from eval.reporting import pages
from eval.reporting.cells import cell, heading
from eval.reporting.notes import notes, plural
from eval.reporting.rundir import Evaluation, Run

COSTS = ("params", "param_equivalents", "bytes", "macs_paper", "macs_equivalent")
MISSING = "–"
UNRECORDED = "- Licence: not recorded by this project; ask whoever gave you the weights."


@cache
def licences() -> dict[str, Any]:
    """What is recorded of weights and their terms, by family and size."""
    file = Path(__file__).with_name("licences.yaml")
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def licence(source: dict[str, Any]) -> list[str]:
    """Lines about the weights that a recipe's source names, and their terms."""
    family, size = source.get("family"), source.get("size")
    known = licences().get(str(family), {}).get(size)
    if known:
        lines = [f"- Weights: {known['weights']}.", f"- Licence: {known['licence']}."]
    else:
        lines = [f"- Weights: of the source `{family}`, size `{size}`.", UNRECORDED]
    brought = [
        f"`{key}`: {Path(str(source[key])).name}" for key in licences()["files"] if source.get(key)
    ]
    if brought:
        lines.append(
            f"- Files named in the recipe: {', '.join(brought)}. "
            "Their terms are those under which you got them."
        )
    return lines


def write_card(run: Run, folder: Path, summary: list[str] | None = None) -> Path:
    """Write card.md, whole or not at all.

    Args:
        run: The run.
        folder: Where to write it.
        summary: Lines of the run's terminal summary.

    Returns:
        The file's path.
    """
    return pages.write(card_text(run, summary), folder / "card.md")


def card_text(run: Run, summary: list[str] | None = None, place: str = "THIS_FOLDER") -> str:
    """The card as Markdown.

    Args:
        run: The run.
        summary: Lines of the run's terminal summary.
        place: What a reader loads the model by.
    """
    source = run.recipe["source"]
    passes = ", ".join(entry["pass"]["pass"] for entry in run.ledger["passes"]) or "no pass"
    lines = [
        f"# {run.name}",
        "",
        f"×4 super-resolution, compressed from {origin(source)} by {passes}.",
    ]
    if summary:
        lines += ["", "```", *summary, "```"]
    lines += [f"\n{note}" for note in notes(run.recipe)]
    lines += ["", "## Load", "", *_how_to_load(run, place)]
    lines += ["", "## Cost", "", *_costs(run)]
    for one in run.evaluations:
        count = one.averages["compressed"]["images"]
        images = f"{count} {plural(count, 'image')}"
        lines += ["", f"## Quality: {one.data}, protocol {one.protocol}, {images}", ""]
        lines += _quality(one)
    lines += ["", "## Weights and licence", "", *licence(source)]
    lines += ["", "## Ledger", "", *_ledger(run)]
    lines += ["", "## Recipe", "", "```yaml", run.recipe_yaml.rstrip(), "```", ""]
    return "\n".join(lines)


def origin(source: dict[str, Any]) -> str:
    """A source by its family, and its size where the family has sizes, as Markdown."""
    size = f" (size `{source['size']}`)" if source.get("size") else ""
    return f"`{source.get('family')}`{size}"


def _how_to_load(run: Run, place: str) -> list[str]:
    lines = [
        "`model.safetensors` holds source and passes in its header and loads alone. "
        "Input and output are RGB in [0, 1].",
        "",
        "```python",
        "from compress.recipe.checkpoint import load_model",
        "from compress.core.image import read_image, write_image",
        "",
        f'model = load_model("{place}")',
        'write_image(model(read_image("photo.png")), "photo_x4.png")',
        "```",
        "",
        f"Or, for images of any size: `python -m compress.upscale {place} photo.png -o OUT`.",
    ]
    names = [name for name, *_ in run.exported["files"]]
    if names:
        lines += ["", f"Exported: {', '.join(f'`{name}`' for name in names)}."]
    return lines


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return lines


def _costs(run: Run) -> list[str]:
    before = run.ledger["cost"]["before"]
    after = run.ledger["cost"]["after"]
    size = " × ".join(str(side) for side in before.get("lr_size", (128, 128)))
    rows = []
    for key in COSTS:
        if before.get(key) and after.get(key):
            rows.append([heading(key), cell(before[key], key), cell(after[key], key)])
    if after.get("file_bytes"):
        rows.append(["`model.safetensors`", "", cell(after["file_bytes"], "bytes")])
    table = _table(["", "source", "compressed"], rows)
    return [f"At a low-resolution input of {size}.", "", *table]


def _quality(one: Evaluation) -> list[str]:
    """The table of means, then what was not measured, then what was left out."""
    compressed = one.averages["compressed"]
    rows = []
    missing = []
    for name in in_order(compressed):
        values = [_value(averages.get(name)) for averages in one.averages.values()]
        if set(values) == {MISSING}:
            missing.append(name)
        else:
            rows.append([f"{name} {metric_of(name).arrow}", *values])
    lines = _table(["", *one.averages], rows) if rows else []
    if missing:
        why = compressed.get("blank", {})
        lines += ["", "Not measured:", ""]
        lines += [f"- {name}: {why.get(name, 'no image has a value')}" for name in missing]
    return lines + [f"\nLeft out: {why}" for why in compressed.get("problems", {}).values()]


def _value(mean: float | None) -> str:
    return MISSING if mean is None else f"{mean:.4f}"


def _ledger(run: Run) -> list[str]:
    head = ["", "pass", "seconds", "data hash", "weights after", "fp32-equivalent MACs after"]
    rows = []
    for number, entry in enumerate(run.ledger["passes"], 1):
        rows.append(
            [
                str(number),
                f"`{entry['pass']['pass']}`",
                f"{entry['seconds']:.1f}",
                f"`{entry['data'] or MISSING}`",
                cell(entry["after"]["bytes"], "bytes"),
                cell(entry["after"]["macs_equivalent"], "macs"),
            ]
        )
    versions = ", ".join(
        f"{package} {version}" for package, version in run.ledger.get("versions", {}).items()
    )
    seed = run.recipe.get("seed", 0)
    return [*_table(head, rows), "", f"Seed {seed}. Versions: {versions}."]
