"""The field's data sets by name: protocols, counts and layouts, as named_sets.yaml has them."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from compress.core.errors import UserError, nearest


@dataclass(frozen=True)
class Layout:
    """Folders of small and large images, and how the names of their files end.

    Attributes:
        small: Folders of small images, relative to the data set's own folder.
        large: Folders of large images, in the order of `small`; empty without originals.
        small_suffix: What the stems of small images end in; other files do not count.
        large_suffix: The same of large images.
    """

    small: tuple[str, ...]
    large: tuple[str, ...] = ()
    small_suffix: str = ""
    large_suffix: str = ""

    def under(self, root: Path) -> "Layout":
        """The same layout with its folders under `root`."""
        return Layout(
            tuple(str(root / folder) for folder in self.small),
            tuple(str(root / folder) for folder in self.large),
            self.small_suffix,
            self.large_suffix,
        )


@dataclass(frozen=True)
class Protocol:
    """What the images of a data set are under one protocol.

    Attributes:
        images: Their number; None where no source states it.
        small: Side of a small image in pixels; None where sizes vary.
        large: Side of a large image in pixels; None where sizes vary.
        layouts: Layouts of the data set's own, tried before the common ones.
    """

    images: int | None = None
    small: int | None = None
    large: int | None = None
    layouts: tuple[Layout, ...] = ()


@dataclass(frozen=True)
class NamedSet:
    """One published data set.

    Attributes:
        name: As the papers spell it.
        origin: Who distributes it.
        protocols: Its protocols by name.
        reference: Whether it has original images; without it there are small images only.
    """

    name: str
    origin: str
    protocols: dict[str, Protocol] = field(default_factory=dict)
    reference: bool = True


@cache
def known() -> dict[str, NamedSet]:
    """The entries of named_sets.yaml by key, which is what `--data KEY=DIR` gives."""
    file = Path(__file__).with_name("named_sets.yaml")
    table = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {key: _named_set(entry) for key, entry in table.items()}


def _named_set(entry: dict[str, Any]) -> NamedSet:
    protocols = {name: _protocol(values) for name, values in entry["protocols"].items()}
    return NamedSet(entry["name"], entry["from"], protocols, entry.get("reference", True))


def _protocol(entry: dict[str, Any]) -> Protocol:
    layouts = [
        Layout(tuple(row["small"]), tuple(row["large"]), row["small_suffix"], row["large_suffix"])
        for row in entry.get("layouts", [])
    ]
    return Protocol(entry.get("images"), entry.get("small"), entry.get("large"), tuple(layouts))


def find(name: str) -> NamedSet:
    """The data set called `name`, by key or published name, in any case.

    Raises:
        UserError: No data set has this name; the message has the nearest spelling.
    """
    for key, entry in known().items():
        if name.lower() in (key, entry.name.lower()):
            return entry
    raise UserError(
        f"data set '{name}' is unknown{nearest(name.lower(), known())}; "
        f"choose from {', '.join(known())}"
    )


def full_count(name: str, protocol: str) -> int | None:
    """How many images the data set has under a protocol; None where that is not known.

    Args:
        name: The published name, such as "RealSR".
        protocol: A key of its protocols, such as "crop".
    """
    for entry in known().values():
        if entry.name == name and protocol in entry.protocols:
            return entry.protocols[protocol].images
    return None


def listing() -> str:
    """Every data set with its protocols, layouts and source, as text of several lines."""
    lines = []
    for key, entry in known().items():
        kind = "" if entry.reference else ", small images only"
        lines.append(f"{key}: {entry.name}{kind}; {entry.origin}")
        for name, protocol in entry.protocols.items():
            count = protocol.images or "unstated number of"
            lines.append(f"  {name:<7} {count} images, {_sides(protocol, entry.reference)}")
            for layout in protocol.layouts:
                lines += _folders(layout)
    common = "LR/ and HR/, lq/ and gt/, or test_LR/ and test_HR/"
    lines.append(f"every data set: {common} with the same file names")
    return "\n".join(lines)


def _sides(protocol: Protocol, reference: bool) -> str:
    if protocol.small:
        return f"{protocol.small} -> {protocol.large}"
    return "any size, x4" if reference else "any size"


def _folders(layout: Layout) -> list[str]:
    return [
        f"          {small}/*{layout.small_suffix}.png and {large}/*{layout.large_suffix}.png"
        for small, large in zip(layout.small, layout.large, strict=True)
    ]
