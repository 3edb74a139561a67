"""Draw floors.svg: the rooms of the code, floor by floor, and which floors import which.

    python docs/images/floors.py

tests/test_architecture.py holds the same floors, room by room.
"""

from html import escape
from pathlib import Path

FLOORS = (
    ("commands", "compress.run, compress.train, compress.upscale, export.run, eval.run, …"),
    ("eval/results", "measurements, and the pages of docs/results"),
    ("compress/search, pipeline", "a study of many recipes; a run directory from one"),
    ("", ""),  # where export and eval stand side by side
    ("compress/recipe, bits, stages", "recipe, checkpoint, cache, plan; bits a layer; sources"),
    ("compress/families", "published models, made of networks and passes"),
    ("compress/passes", "one file a pass"),
    ("compress/routing, training, binary, pruning, quant, folding", "what passes use"),
    ("compress/networks, data, cost", "parts of models, photographs, counts"),
    ("compress/model", "the contracts SRModel and Pass"),
    ("compress/process", "how a network restores an image"),
    ("compress/core, photographs", "errors, config, files, tensors; files of users"),
)
BESIDE = (
    ("export", "graphs, parity, targets, rewrites, linting"),
    ("eval", "data, metric, score, reporting"),
)
WIDTH, HEIGHT, GAP, MARGIN = 760, 50, 22, 8
INK, FILL, LINE = "#1f2328", "#eef2f8", "#8a94a6"


def box(x: int, y: int, width: int, name: str, text: str) -> list[str]:
    """A room: its name, and below it what lives there."""
    middle = x + width // 2
    return [
        f'<rect x="{x}" y="{y}" width="{width}" height="{HEIGHT}" rx="6" fill="{FILL}" '
        f'stroke="{LINE}"/>',
        f'<text x="{middle}" y="{y + 21}" font-weight="bold">{escape(name)}</text>',
        f'<text x="{middle}" y="{y + 39}">{escape(text)}</text>',
    ]


def arrow(x: int, y: int) -> str:
    """From the floor above down to the one below."""
    return f'<path d="M{x} {y} V{y + GAP - 3}" stroke="{LINE}" marker-end="url(#tip)"/>'


def picture() -> str:
    """The SVG, with a white ground so that it can be read in a dark page."""
    height = len(FLOORS) * (HEIGHT + GAP) - GAP + 2 * MARGIN
    shapes = []
    half = (WIDTH - GAP) // 2
    for number, (name, text) in enumerate(FLOORS):
        y = MARGIN + number * (HEIGHT + GAP)
        places = [(MARGIN, WIDTH, name, text)]
        if not name:
            places = [(MARGIN + i * (half + GAP), half, *room) for i, room in enumerate(BESIDE)]
        for x, width, title, what in places:
            shapes += box(x, y, width, title, what)
        split = not name or (number + 1 < len(FLOORS) and not FLOORS[number + 1][0])
        middles = [MARGIN + half // 2, MARGIN + half + GAP + half // 2]
        if number + 1 < len(FLOORS):
            shapes += [arrow(x, y + HEIGHT) for x in (middles if split else [MARGIN + WIDTH // 2])]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 2 * MARGIN} {height}" '
            f'font-family="sans-serif" font-size="14" fill="{INK}" text-anchor="middle">',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{LINE}"/></marker>'
            "</defs>",
            '<rect width="100%" height="100%" fill="white"/>',
            *shapes,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(picture(), encoding="utf-8")
