"""What a recipe would cost, before any weight is read: source and passes on the meta device, counted one by one."""

import json

from compress.cost import phones
from compress.cost.count import Cost, Replaced, component_table, measure, table
from compress.model.passes import Pass
from compress.recipe.checkpoint import convert_all
from compress.recipe.recipe import Recipe, resolved, to_yaml

PUBLISHED = "(as the paper counts)"


def label(step: Pass) -> str:
    """A short name of a pass for tables: its name, and bits and their placement where it has them."""
    fields = step.model_dump(by_alias=True)
    bits = f" W{fields['weights']}A{fields['activations']}" if "activations" in fields else ""
    placement = f" {step.label()}" if "placement" in fields else ""
    reduced = " in a reduced range" if fields.get("reduce_range") else ""
    return f"{fields['pass']}{bits}{placement}{reduced}"


def plan(recipe: Recipe, lr_size: tuple[int, int] = (128, 128)) -> list[tuple[str, Cost]]:
    """(label, cost) of the source and after each pass, at one low-resolution size (height, width)."""
    model = recipe.source.build()
    rows = [("source", measure(model, lr_size))]
    for step in recipe.passes:
        step.convert(model)
        rows.append((label(step), measure(model, lr_size)))
    return rows


def published_accounting(recipe: Recipe, lr_size: tuple[int, int] = (128, 128)) -> Cost:
    """The result's cost with every pass as its paper has it: nothing folded that the paper does not fold."""
    return measure(
        convert_all(recipe.source, [step.as_published() for step in recipe.passes]), lr_size
    )


def replaced(recipe: Recipe) -> Replaced | None:
    """What the published system runs and the source does not; None for a source that says nothing of the kind."""
    method = getattr(recipe.source, "replaced", None)
    return method and method()


def account(rows: list[tuple[str, Cost]]) -> str:
    """The papers' account and the real one side by side (compress/cost/count.py says what each counts); no speed is in it."""
    lines = [
        f"{'two accounts':<28}{'paper: params M':>16}{'ops G':>10}{'all in: params M':>18}{'ops G':>10}"
        f"{'real: MB':>12}{'full GMACs':>12}"
    ]
    for name, cost in rows:
        lines.append(
            f"{name:<28}{cost.paper_params / 1e6:>16,.3f}{cost.paper_ops / 1e9:>10,.3f}"
            f"{cost.param_equivalents / 1e6:>18,.3f}{cost.all_in_ops / 1e9:>10,.3f}{cost.bytes / 1e6:>12,.3f}"
            f"{cost.macs_full / 1e9:>12,.3f}"
        )
    return "\n".join(lines)


def as_text(recipe: Recipe, rows: list[tuple[str, Cost]], published: Cost) -> str:
    height, width = rows[0][1].lr_size
    first, last = rows[0][1], rows[-1][1]
    parts = [
        to_yaml(recipe),
        f"cost at LR {width}x{height} -> {4 * width}x{4 * height}",
        table([*rows, (PUBLISHED, published)]),
        "",
        "components of the source",
        component_table(first),
        "",
        "components of the result",
        component_table(last),
        "",
        f"predicted model.safetensors: {last.container_bytes / 1e6:,.1f} MB "
        f"({last.container_bytes / first.container_bytes:.3f} of the source at float32)",
    ]
    parts += ["", account([*rows, (PUBLISHED, published)]), ""]
    parts += [*phones.as_lines(last, recipe.source), ""]
    for name, cost in rows:
        parts.append(
            f"{name}: {cost.params:,} parameters, {cost.macs_paper:,} paper MACs, {cost.macs_full:,} full MACs"
        )
    for component in first.components():
        cost = first.component(component)
        parts.append(
            f"source {component}: {cost.params:,} parameters, {cost.macs_full:,} full MACs"
        )
    for component in last.components():
        halves = (
            {f" {half}": cost for half, cost in last.halves(component).items()}
            if component == "decoder"
            else {}
        )
        for half, cost in ({"": last.component(component)} | halves).items():
            parts.append(
                f"result {component}{half}: {cost.params:,} parameters, {cost.macs_paper:,} paper MACs, "
                f"{cost.macs_full:,} full MACs"
            )
    if part := replaced(recipe):
        cost = part.cost
        parts += [
            f"source {part.name} ({part.title}), replaced by {part.by}: {cost.params:,} parameters, "
            f"{cost.macs_full:,} full MACs",
            f"{part.system} as published (with {part.title}): {first.macs_paper + cost.macs_paper:,} paper MACs "
            f"/ {first.macs_full + cost.macs_full:,} full MACs",
        ]
    return "\n".join(parts)


def as_json(recipe: Recipe, rows: list[tuple[str, Cost]], published: Cost) -> str:
    part = replaced(recipe)
    return json.dumps(
        {
            "recipe": resolved(recipe),
            "plan": [{"after": name, **cost.as_dict()} for name, cost in rows],
            "published_accounting": published.as_dict(),
            "predicted_ms": {p.device: round(p.ms, 2) for p in phones.predict(rows[-1][1])},
        }
        | ({part.name: part.cost.as_dict()} if part else {}),
        indent=1,
    )
