"""A plan as text for a terminal, and as JSON."""

import json
from typing import Any

from compress.cost import operators, phones
from compress.cost.cost import Cost, Replaced
from compress.cost.table import component_table, table
from compress.process.resample import SCALE
from compress.recipe.plan import knobs, references, replaced
from compress.recipe.recipe import Recipe, resolved, to_yaml

PUBLISHED = "(as the paper counts)"
M, G = 1e6, 1e9


def account(rows: list[tuple[str, Cost]]) -> str:
    """The papers' account and the real one side by side, as a table.

    compress/cost/count.py says what each counts. No speed is in it.
    """
    lines = [
        f"{'two accounts':<28}{'paper: params M':>16}{'ops G':>10}{'all in: params M':>18}"
        f"{'ops G':>10}{'real: MB':>12}{'full GMACs':>12}"
    ]
    for name, cost in rows:
        lines.append(
            f"{name:<28}{cost.paper_params / M:>16,.3f}{cost.paper_ops / G:>10,.3f}"
            f"{cost.param_equivalents / M:>18,.3f}{cost.all_in_ops / G:>10,.3f}"
            f"{cost.bytes / M:>12,.3f}{cost.macs_full / G:>12,.3f}"
        )
    return "\n".join(lines)


def as_text(recipe: Recipe, rows: list[tuple[str, Cost]], published: Cost) -> str:
    """The whole plan: the recipe with its defaults, tables of costs, predictions, exact counts.

    Args:
        recipe: What was planned.
        rows: From `plan`.
        published: From `published_accounting`.
    """
    first, last = rows[0][1], rows[-1][1]
    height, width = first.lr_size
    counted = [*rows, (PUBLISHED, published)]
    parts = [
        to_yaml(recipe),
        f"cost at LR {width}x{height} -> {SCALE * width}x{SCALE * height}",
        table(counted),
        "",
        "components of the source",
        component_table(first),
        "",
        "components of the result",
        component_table(last),
        "",
        f"predicted model.safetensors: {last.container_bytes / M:,.1f} MB "
        f"({last.container_bytes / first.container_bytes:.3f} of the source at float32)",
        "",
        account(counted),
        "",
        *phones.as_lines(last, recipe.source),
        *operators.as_lines(operators.by_precision(last)),
        "",
        knobs(recipe),
    ]
    parts += [f"{name}: {_all_counts(cost)}" for name, cost in rows]
    for component, cost in first.components().items():
        parts.append(f"source {component}: {_all_counts(cost)}")
    parts += [*_call_lines("source", first), *_result_lines(last), *_call_lines("result", last)]
    referred = references(recipe)
    if referred is not None:
        parts += referred.as_lines()
    part = replaced(recipe)
    if part is not None:
        parts += _replaced_lines(part, first)
    return "\n".join(parts)


def _all_counts(cost: Cost) -> str:
    return (
        f"{cost.params:,} parameters, {cost.macs_paper:,} paper MACs, {cost.macs_full:,} full MACs"
    )


def _full_counts(cost: Cost) -> str:
    return f"{cost.params:,} parameters, {cost.macs_full:,} full MACs"


def _call_lines(which: str, cost: Cost) -> list[str]:
    """One call of what runs several times; all other counts are of the whole chain."""
    lines = []
    for name, calls in cost.calls.items():
        if calls > 1:
            part = cost.component(name)
            lines.append(
                f"{which} {name}, one of {calls} calls: {part.macs_paper // calls:,} paper MACs, "
                f"{part.macs_full // calls:,} full MACs"
            )
    return lines


def _result_lines(last: Cost) -> list[str]:
    """Counts of every component of the result, and of both halves of a decoder."""
    lines = []
    for component, cost in last.components().items():
        lines.append(f"result {component}: {_all_counts(cost)}")
        if component == "decoder":
            for half, half_cost in last.halves(component).items():
                lines.append(f"result {component} {half}: {_all_counts(half_cost)}")
    return lines


def _replaced_lines(part: Replaced, source: Cost) -> list[str]:
    """What the source does without, and the published system with it."""
    cost = part.cost
    return [
        f"source {part.name} ({part.title}), replaced by {part.by}: {_full_counts(cost)}",
        f"{part.system} as published (with {part.title}): "
        f"{source.macs_paper + cost.macs_paper:,} paper MACs "
        f"/ {source.macs_full + cost.macs_full:,} full MACs",
    ]


def as_json(recipe: Recipe, rows: list[tuple[str, Cost]], published: Cost) -> str:
    """The whole plan for machines.

    Args:
        recipe: What was planned.
        rows: From `plan`.
        published: From `published_accounting`.
    """
    predictions = phones.predict(rows[-1][1])
    data = {
        "recipe": resolved(recipe),
        "plan": [{"after": name, **cost.as_dict()} for name, cost in rows],
        "published_accounting": published.as_dict(),
        "predicted_ms": {one.device: round(one.ms, 2) for one in predictions},
        "predicted_by_operators": _by_operators(rows[-1][1]),
        "knobs": knobs(recipe),
    }
    referred = references(recipe)
    if referred is not None:
        data["references"] = referred.as_dict()
    part = replaced(recipe)
    if part is not None:
        data[part.name] = part.cost.as_dict()
    return json.dumps(data, indent=1)


def _by_operators(cost: Cost) -> dict[str, Any]:
    """Device -> [ms, low, high], and in what the model is unlike what was fitted."""
    table = operators.by_precision(cost)
    found: dict[str, Any] = {}
    for one in operators.estimates(table):
        found[one.device] = [round(value, 2) for value in (one.ms, one.low, one.high)]
    return {"ms": found, "no_ground": operators.gaps(table)}
