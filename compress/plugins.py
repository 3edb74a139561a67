"""List what other packages add: sources, passes, targets and metrics.

python -m compress.plugins [--check]
"""

import argparse

from compress.core.errors import UserError, command
from compress.core.plugins import KINDS, Extended, declared, package_of
from compress.core.program import command_parser

DESCRIPTION = "List what other packages add: `python -m compress.plugins [--check]`."


@command
def main(argv: list[str]) -> int:
    """Print a line for each; with --check, 2 where one cannot be used."""
    options = _parser().parse_args(argv)
    rows = [(kind, name, point) for kind in KINDS for name, point in sorted(declared(kind).items())]
    if not rows:
        print("no installed package adds anything; docs/extend/plugin.md says how one does")
    broken = 0
    for kind, name, point in rows:
        state = _state(kind, name) if options.check else ""
        broken += state not in ("", "can be used")
        print("  ".join(filter(None, (f"{kind:8}", f"{name:20}", package_of(point), state))))
    return 2 if broken else 0


def _state(kind: str, name: str) -> str:
    """Whether one can be used; it is imported for that."""
    table = _tables()[kind]
    if name in table.own:
        return "never used: a name of the toolkit's own"
    try:
        table[name]
    except UserError as error:
        return str(error)
    return "can be used"


def _tables() -> dict[str, Extended]:
    # These bring torch with them. It takes seconds, which a list need not wait for.
    from compress.recipe.checkpoint import ALL_PASSES, ALL_SOURCES
    from eval.metric.names import ALL_METRICS
    from export.targets.table import ALL_TARGETS

    return {
        "sources": ALL_SOURCES,
        "passes": ALL_PASSES,
        "targets": ALL_TARGETS,
        "metrics": ALL_METRICS,
    }


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("compress.plugins", description=DESCRIPTION)
    parser.add_argument("--check", action="store_true", help="import each, and say what is wrong")
    return parser


if __name__ == "__main__":
    main()
