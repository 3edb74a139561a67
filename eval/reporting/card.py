"""A run's model card: what it is, what it costs, how good it is, from what data and weights, and how to load it."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from eval.metric.metrics import METRICS
from eval.report import cell, heading
from eval.reporting import pages
from eval.reporting.notes import notes, plural
from eval.reporting.rundir import Evaluation, Run

COSTS = ("params", "param_equivalents", "bytes", "macs_paper", "macs_equivalent")


@cache
def _licences() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("licences.yaml").read_text(encoding="utf-8"))


def licence(source: dict[str, Any]) -> list[str]:
    """Lines about the weights that a source config names, and their terms."""
    known = _licences().get(source.get("family"), {}).get(source.get("size"))
    brought = [
        f"`{key}`: {Path(str(source[key])).name}" for key in _licences()["files"] if source.get(key)
    ]
    lines = (
        [f"- Weights: {known['weights']}.", f"- Licence: {known['licence']}."]
        if known
        else [
            f"- Weights: of the source `{source.get('family')}`, size `{source.get('size')}`.",
            "- Licence: not recorded by this project; ask whoever gave you the weights.",
        ]
    )
    if brought:
        lines.append(
            f"- Files named in the recipe: {', '.join(brought)}. Their terms are those under which you got "
            f"them."
        )
    return lines


def write_card(run: Run, folder: Path, summary: list[str] | None = None) -> Path:
    """Write `folder`/card.md, whole or not at all. `summary` are lines of the run's terminal summary."""
    source = run.recipe["source"]
    lines = [
        f"# {run.name}",
        "",
        f"×4 super-resolution, compressed from `{source.get('family')}` (size `{source.get('size')}`) by "
        f"{', '.join(entry['pass']['pass'] for entry in run.ledger['passes']) or 'no pass'}.",
    ]
    lines += ["", *_block(summary)] if summary else []
    lines += [f"\n{note}" for note in notes(run.recipe)]
    lines += ["", "## Load", "", *_how_to_load(run)]
    lines += ["", "## Cost", "", *_costs(run)]
    for one in run.evaluations:
        count = one.averages["compressed"]["images"]
        lines += [
            "",
            f"## Quality: {one.data}, protocol {one.protocol}, {count} {plural(count, 'image')}",
            "",
            *_quality(one),
        ]
    lines += ["", "## Weights and licence", "", *licence(source)]
    lines += ["", "## Ledger", "", *_ledger(run)]
    lines += ["", "## Recipe", "", "```yaml", run.recipe_yaml.rstrip(), "```", ""]
    return pages.write("\n".join(lines), folder / "card.md")


def _block(lines: list[str]) -> list[str]:
    return ["```", *lines, "```"]


def _how_to_load(run: Run) -> list[str]:
    lines = [
        "`model.safetensors` holds source and passes in its header and loads alone. Input and output are RGB in "
        "[0, 1].",
        "",
        "```python",
        "from compress.recipe.checkpoint import load_model",
        "from compress.core.image import read_image, write_image",
        "",
        'model = load_model("THIS_FOLDER")',
        'write_image(model(read_image("photo.png")), "photo_x4.png")',
        "```",
        "",
        "Or, for images of any size: `python -m compress.upscale THIS_FOLDER photo.png -o OUT`.",
    ]
    names = [name for name, *_ in run.exported["files"]]
    if names:
        lines += ["", f"Exported: {', '.join(f'`{name}`' for name in names)}."]
    return lines


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _costs(run: Run) -> list[str]:
    before, after = run.ledger["cost"]["before"], run.ledger["cost"]["after"]
    size = " × ".join(map(str, before["lr_size"])) if "lr_size" in before else "128 × 128"
    rows = [
        [heading(k), cell(before[k], k), cell(after[k], k)]
        for k in COSTS
        if before.get(k) and after.get(k)
    ]
    if after.get("file_bytes"):
        rows.append(["`model.safetensors`", "", cell(after["file_bytes"], "bytes")])
    return [
        f"At a low-resolution input of {size}.",
        "",
        *_table(["", "source", "compressed"], rows),
    ]


def _quality(one: Evaluation) -> list[str]:
    names = [m for m in METRICS if m in one.averages["compressed"]]
    values = {
        m: [f"{a[m]:.4f}" if a.get(m) is not None else "–" for a in one.averages.values()]
        for m in names
    }
    rows = [
        [f"{m} {'↑' if METRICS[m].higher else '↓'}", *values[m]]
        for m in names
        if set(values[m]) != {"–"}
    ]
    lines = _table(["", *one.averages], rows) if rows else []
    missing = [m for m in names if set(values[m]) == {"–"}]
    if missing:
        why = one.averages["compressed"].get("blank", {})
        lines += [
            "",
            "Not measured:",
            "",
            *(f"- {m}: {why.get(m, 'no image has a value')}" for m in missing),
        ]
    left_out = one.averages["compressed"].get("problems", {})
    return lines + [f"\nLeft out: {why}" for why in left_out.values()]


def _ledger(run: Run) -> list[str]:
    rows = [
        [
            str(i),
            f"`{entry['pass']['pass']}`",
            f"{entry['seconds']:.1f}",
            f"`{entry['data'] or '–'}`",
            cell(entry["after"]["bytes"], "bytes"),
            cell(entry["after"]["macs_equivalent"], "macs"),
        ]
        for i, entry in enumerate(run.ledger["passes"], 1)
    ]
    versions = ", ".join(f"{k} {v}" for k, v in run.ledger.get("versions", {}).items())
    return [
        *_table(
            ["", "pass", "seconds", "data hash", "weights after", "fp32-equivalent MACs after"],
            rows,
        ),
        "",
        f"Seed {run.recipe.get('seed', 0)}. Versions: {versions}.",
    ]
