"""List and shorten the cache of passes and exports.

    python -m compress.cache list [--check]
    python -m compress.cache prune --max-size 10GB

Only entries that this toolkit wrote are listed and deleted; whatever else lies in the folder is
left alone.
"""

import argparse
import contextlib
import re
import time
from pathlib import Path

from compress.core.errors import UserError, command
from compress.core.identity import default_root
from compress.core.log import add_options
from compress.core.program import command_parser
from compress.recipe.cache_entry import Entry, entries, problem
from compress.recipe.cache_folders import remove, sweep

DESCRIPTION = (
    "List and shorten the cache of passes and exports: `python -m compress.cache list` and "
    "`python -m compress.cache prune --max-size 10GB`."
)
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
# s in a day, an hour and a minute, with their names
SPANS = (("d", 86400), ("h", 3600), ("min", 60))
KEY_SHOWN = 12  # digits of a key in the list
BLOCK = 512  # bytes of one of stat's blocks
MB = 1e6


def parse_size(text: str) -> int:
    """Bytes from "10GB", "500 MB", "2GiB" or "0".

    Raises:
        UserError: It is anything else.
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[2].upper() not in UNITS:
        units = ", ".join(unit for unit in UNITS if unit)
        raise UserError(
            f"--max-size '{text}' is no size; give a number with one of {units}, such as 10GB"
        )
    return int(float(match[1]) * UNITS[match[2].upper()])


def age(seconds: float) -> str:
    """A time span in its largest unit: "5 s", "3 min", "7 h", "12 d"."""
    for unit, length in SPANS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def rows(listed: list[Entry], check: bool) -> list[str]:
    """One line for each entry, the last used first; with `check` also whether it is sound."""
    now = time.time()
    lines = []
    for entry in reversed(listed):
        state = ""
        if check:
            state = f"  [{problem(entry.folder) or 'sound'}]"
        lines.append(
            f"{entry.folder.name[:KEY_SHOWN]}  {entry.bytes / MB:10.1f} MB  "
            f"{age(now - entry.used):>7}  {entry.label}{state}"
        )
    return lines


def list_entries(root: Path, check: bool) -> None:
    """Print the entries of the cache `root`, and what else of the toolkit lies there."""
    listed = entries(root)
    total = sum(entry.bytes for entry in listed)
    print(f"cache {root}: {len(listed)} entries, {total / MB:.1f} MB")
    if listed:
        print("key                  size     used  what")
        print("\n".join(rows(listed, check)))
    for path in sorted(root.glob("*.sqlite")):
        size = path.stat().st_size
        print(f"beside them {path.name}, {size / MB:.1f} MB, which prune leaves alone")
    if (root / "teacher").is_dir():
        taken = sum(_taken(path) for path in (root / "teacher").rglob("*.bin") if path.is_file())
        print(
            f"beside them teacher, {taken / MB:.1f} MB of training pairs, which prune leaves alone"
        )


def _taken(path: Path) -> int:
    """Bytes that a file takes of the disk, less than its length where it has holes."""
    status = path.stat()
    return getattr(status, "st_blocks", 0) * BLOCK or status.st_size


def prune(root: Path, most: int) -> None:
    """Delete the least recently used entries until the rest is no larger than `most` bytes."""
    swept = sweep(root)
    listed = entries(root)
    total = sum(entry.bytes for entry in listed)
    deleted = 0
    freed = 0
    for entry in listed:
        if total - freed <= most:
            break
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            remove(entry.folder)
        deleted += 1
        freed += entry.bytes
    unfinished = f", and {swept} unfinished ones" if swept else ""
    print(
        f"cache {root}: deleted {deleted} of {len(listed)} entries, {freed / MB:.1f} MB"
        f"{unfinished}; {(total - freed) / MB:.1f} MB are left"
    )


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("compress.cache", description=DESCRIPTION)
    actions = parser.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="entries, the last used first, with sizes and ages")
    listing.add_argument(
        "--check", action="store_true", help="read every entry and compare it with its digests"
    )
    pruning = actions.add_parser("prune", help="delete the least recently used entries")
    pruning.add_argument(
        "--max-size", required=True, metavar="SIZE", help="what may stay, such as 10GB"
    )
    for action in (listing, pruning):
        add_options(action)
        action.add_argument(
            "--cache", type=Path, help="the folder (default ~/.cache/diffusion-sr-compress)"
        )
    return parser


@command
def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(argv)
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
