"""Which recipe fits which phone at full size, and the *predicted* latency; nothing is run.

    python tests/bench/bench_phone_recipes.py "Edge-SD-SR lite" [--json FILE]

A row for each recipe of the source and each kind of phone. Models are built on the meta device, so
that no weight is read.
"""

import argparse

from full_size_recipes import load_full_size
from rows import add_json, write_rows

from compress.core.errors import command
from compress.cost import phones
from compress.cost.count import measure
from compress.recipe.checkpoint import convert_all
from eval.results.full_sizes import BY_LABEL, STRIP, WAYS, FullSize
from export.graphs.components import MODEL, has_parts, parts_of
from export.targets.file_limits import file_limits
from export.targets.phone_fit import exported_bytes, outcome, part_sizes, phone_kinds


def rows_of(one: FullSize, way: str) -> list[dict]:
    """A row for each kind of phone; none where the source has no such recipe."""
    recipe = load_full_size(one, way)
    if recipe is None:
        return []
    model = convert_all(recipe.source, recipe.passes)
    cost = measure(model, phones.PUBLISHED_SIZE)
    sizes = part_sizes(cost, parts_of(model) if has_parts(model) else (MODEL,))
    largest = max(sizes, key=lambda part: sizes[part])
    title = f"{one.title(way)}, float16" if way == STRIP else one.title(way)
    rows = []
    for kind in phone_kinds():
        found = outcome(cost, sizes, kind)
        limit = file_limits().get(kind.choice.target)
        rows.append(
            {
                "source": one.label,
                "recipe": title,
                "megabytes": exported_bytes(cost) / 1e6,
                "gmacs": cost.macs_full / 1e9,
                "largest": largest,
                "largest_mb": sizes[largest] / 1e6,
                "chip": kind.name,
                "target": kind.choice.target,
                "limit_mb": None if limit is None else limit.bytes / 1e6,
                "fits": found.fits,
                "predicted_ms": found.ms,
                "low_ms": found.low,
                "high_ms": found.high,
                "reason": found.reason,
                "verdict": found.verdict,
            }
        )
    return rows


@command
def main(argv: list[str]) -> int:
    """Print the rows."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("source", choices=tuple(BY_LABEL))
    add_json(p)
    options = p.parse_args(argv)
    rows = [row for way in WAYS for row in rows_of(BY_LABEL[options.source], way)]
    write_rows(options.json, rows)
    for row in rows:
        print(f"{row['recipe']:32}{row['megabytes']:9,.0f} MB  {row['chip']:8}{row['verdict']}")
    return 0


if __name__ == "__main__":
    main()
