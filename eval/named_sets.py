"""python -m eval.named_sets [NAME=DIR ...]: the field's data sets, their protocols, and whether a folder holds one."""

import argparse
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from compress.core.errors import UserError, command, nearest


@dataclass(frozen=True)
class Layout:
    """Folders of small and large images under the data set's own; file names end in the suffixes."""

    small: tuple[str, ...]
    large: tuple[str, ...] = ()
    small_suffix: str = ""
    large_suffix: str = ""


@dataclass(frozen=True)
class Protocol:
    """`images`: how many there are; `small`, `large`: sides in pixels; None where unstated or varying."""

    images: int | None = None
    small: int | None = None
    large: int | None = None
    layouts: tuple[Layout, ...] = ()


@dataclass(frozen=True)
class NamedSet:
    """One published data set. Without `reference` there are small images only."""

    name: str
    origin: str
    protocols: dict[str, Protocol] = field(default_factory=dict)
    reference: bool = True


@cache
def known() -> dict[str, NamedSet]:
    """The entries of named_sets.yaml."""
    table = yaml.safe_load(Path(__file__).with_name("named_sets.yaml").read_text(encoding="utf-8"))
    return {
        key: NamedSet(
            entry["name"],
            entry["from"],
            {p: _protocol(v) for p, v in entry["protocols"].items()},
            entry.get("reference", True),
        )
        for key, entry in table.items()
    }


def _protocol(entry: dict[str, Any]) -> Protocol:
    layouts = tuple(
        Layout(tuple(x["small"]), tuple(x["large"]), x["small_suffix"], x["large_suffix"])
        for x in entry.get("layouts", [])
    )
    return Protocol(entry.get("images"), entry.get("small"), entry.get("large"), layouts)


def find(name: str) -> NamedSet:
    """The data set called `name`, in any case; UserError with the nearest spelling."""
    for key, entry in known().items():
        if name.lower() in (key, entry.name.lower()):
            return entry
    raise UserError(
        f"data set '{name}' is unknown{nearest(name.lower(), known())}; choose from {', '.join(known())}"
    )


def full_count(name: str, protocol: str) -> int | None:
    """How many images the data set has under a protocol; None where that is not known."""
    entry = next((e for e in known().values() if e.name == name), None)
    return entry.protocols[protocol].images if entry and protocol in entry.protocols else None


def listing() -> str:
    """Every data set with its protocols, layouts and source."""
    lines = []
    for key, entry in known().items():
        lines.append(
            f"{key}: {entry.name}{'' if entry.reference else ', small images only'}; {entry.origin}"
        )
        for name, p in entry.protocols.items():
            sides = (
                f"{p.small} -> {p.large}"
                if p.small
                else "any size, x4"
                if entry.reference
                else "any size"
            )
            lines.append(f"  {name:<7} {p.images or 'unstated number of'} images, {sides}")
            for layout in p.layouts:
                lines += [
                    f"          {small}/*{layout.small_suffix}.png and {large}/*{layout.large_suffix}.png"
                    for small, large in zip(layout.small, layout.large, strict=True)
                ]
    return "\n".join(
        [
            *lines,
            "every data set: LR/ and HR/, lq/ and gt/, or test_LR/ and test_HR/ with the same file names",
        ]
    )


@command
def main(argv: list[str]) -> int:
    """List the data sets, or check folders; 2 if a folder is not what its name says."""
    from eval.data.dataset import open_data

    parser = argparse.ArgumentParser(prog="python -m eval.named_sets", description=__doc__)
    parser.add_argument(
        "folders",
        nargs="*",
        metavar="NAME=DIR",
        help="such as realsr=DIR; none: list the data sets",
    )
    parser.add_argument("--protocol", help="default: by the sizes")
    args = parser.parse_args(argv)
    if not args.folders:
        print(listing())
        return 0
    wrong = 0
    for folder in args.folders:
        if "=" not in folder:
            raise UserError(f"'{folder}': give NAME=DIR, such as realsr={folder}")
        data = open_data(folder, protocol=args.protocol)
        print(
            f"{folder}: {data.name}, protocol {data.protocol}, {len(data.pairs)} of {data.total} images can be used"
        )
        for line in (*data.notes, *(f"{name}: {why}" for name, why in data.problems.items())):
            print(f"  {line}")
            wrong += 1
    return 2 if wrong else 0


if __name__ == "__main__":
    main()
