"""List and shorten the pass cache: `python -m compress.cache list` and `python -m compress.cache
prune --max-size 10GB`.

Only entries that this toolkit wrote are listed and deleted; whatever else lies in the folder is
left alone.
"""

import argparse
import re
import time
from pathlib import Path

from compress.core.errors import UserError, command
from compress.core.identity import default_root
from compress.recipe.cache_entry import Entry, entries, problem, remove, sweep

UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)\s*")


def parse_size(text: str) -> int:
    """Bytes from "10GB", "500 MB", "2GiB" or "0". Raises UserError for anything else."""
    match = _SIZE.fullmatch(text)
    if match is None or match[2].upper() not in UNITS:
        raise UserError(
            f"--max-size '{text}' is no size; give a number with one of "
            f"{', '.join(filter(None, UNITS))}, "
            "such as 10GB"
        )
    return int(float(match[1]) * UNITS[match[2].upper()])


def age(seconds: float) -> str:
    """A time span in its largest unit: "5 s", "3 min", "7 h", "12 d"."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def rows(found: list[Entry], check: bool) -> list[str]:
    now, lines = time.time(), []
    for entry in reversed(found):
        state = (problem(entry.folder) or "sound") if check else ""
        lines.append(
            f"{entry.folder.name[:12]}  {entry.bytes / 1e6:10.1f} MB  {age(now - entry.used):>7}  "
            f"{entry.label}{f'  [{state}]' if state else ''}"
        )
    return lines


def list_entries(root: Path, check: bool) -> None:
    found = entries(root)
    print(
        f"pass cache {root}: {len(found)} entries, "
        f"{sum(entry.bytes for entry in found) / 1e6:.1f} MB"
    )
    if found:
        print(
            "\n".join(["key                  size     used  source: passes", *rows(found, check)])
        )
    others = sorted(path for path in root.glob("*.sqlite")) if root.is_dir() else []
    for path in others:
        print(
            f"beside them {path.name}, {path.stat().st_size / 1e6:.1f} MB, which prune leaves alone"
        )
    if (root / "teacher").is_dir():
        pools = [path for path in (root / "teacher").rglob("*.bin") if path.is_file()]
        taken = sum(
            getattr(path.stat(), "st_blocks", 0) * 512 or path.stat().st_size for path in pools
        )
        print(
            f"beside them teacher, {taken / 1e6:.1f} MB of training pairs, which prune leaves alone"
        )


def prune(root: Path, most: int) -> None:
    """Delete the least recently used entries until the rest is no larger than `most` bytes."""
    swept = sweep(root)
    found = entries(root)
    total, gone, freed = sum(entry.bytes for entry in found), 0, 0
    for entry in found:
        if total - freed <= most:
            break
        try:
            remove(entry.folder)
        except FileNotFoundError:  # another process was quicker
            pass
        gone, freed = gone + 1, freed + entry.bytes
    print(
        f"pass cache {root}: deleted {gone} of {len(found)} entries, {freed / 1e6:.1f} MB"
        + f", and {swept} unfinished ones" * bool(swept)
        + f"; {(total - freed) / 1e6:.1f} MB are left"
    )


@command
def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m compress.cache", description=__doc__.splitlines()[0]
    )
    actions = parser.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="entries, the last used first, with sizes and ages")
    listing.add_argument(
        "--check", action="store_true", help="read every entry and compare it with its digests"
    )
    pruning = actions.add_parser("prune", help="delete the least recently used entries")
    pruning.add_argument(
        "--max-size", required=True, metavar="SIZE", help="what may stay, such as 10GB"
    )
    for one in (listing, pruning):
        one.add_argument(
            "--cache", type=Path, help="the folder (default ~/.cache/diffusion-sr-compress)"
        )
    options = parser.parse_args(argv)
    root = options.cache or default_root()
    if options.cache is not None and not root.is_dir():
        raise UserError(f"--cache {root}: no such folder; give the one that compress.run was given")
    if options.action == "list":
        list_entries(root, options.check)
    else:
        prune(root, parse_size(options.max_size))
    return 0


if __name__ == "__main__":
    main()
