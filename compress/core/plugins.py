"""What other packages add: sources, passes, targets and metrics, declared as entry points.

A package is only imported when something of it is named. Our own tables win: no package changes
what a name of ours means.
"""

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint
from typing import Any, TypeVar

from compress.core.errors import UserError, first_line

PREFIX = "diffusion_sr_compress."  # of the groups: diffusion_sr_compress.passes and the like
KINDS = ("sources", "passes", "targets", "metrics")
T = TypeVar("T")


@cache
def declared(kind: str) -> dict[str, EntryPoint]:
    """The entry points of a kind by name; nothing is imported.

    Raises:
        UserError: Two packages declare one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in importlib.metadata.entry_points(group=PREFIX + kind):
        other = found.setdefault(point.name, point)
        if package_of(other) != package_of(point):
            raise UserError(
                f"{kind} '{point.name}' is declared by {package_of(other)} and "
                f"{package_of(point)}; uninstall one of them"
            )
    return found


def package_of(point: EntryPoint) -> str:
    """The package that declares it, with its version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


class Extended(Mapping[str, T]):
    """One of our tables, and behind it what other packages declare for it.

    Args:
        kind: One of KINDS.
        own: Our table, whose names win.
        problem: What is wrong with a thing that was declared under a name, as the end of a
            sentence; None where it can be used.
    """

    def __init__(self, kind: str, own: Mapping[str, T], problem: Callable[[str, Any], str | None]):
        self.kind = kind
        self.own = own
        self.problem = problem

    def __getitem__(self, name: str) -> T:
        if name in self.own:
            return self.own[name]
        return self._load(declared(self.kind)[name])

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in declared(self.kind)

    def version(self, name: str) -> str:
        """The package and version that a name is of, for cache keys; empty for ours."""
        return "" if name in self.own else package_of(declared(self.kind)[name])

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from (name for name in declared(self.kind) if name not in self.own)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _load(self, point: EntryPoint) -> T:
        """What an entry point names.

        Raises:
            UserError: It cannot be imported, or is nothing of the kind.
        """
        where = f"{self.kind} '{point.name}' of {package_of(point)}"
        try:
            thing = point.load()
        # A package may raise anything while it is imported, and end the program as well.
        except (Exception, SystemExit) as error:
            raise UserError(
                f"{where}: cannot be loaded ({type(error).__name__}: {first_line(error)}); update "
                "or uninstall it"
            ) from error
        problem = self.problem(point.name, thing)
        if problem is not None:
            raise UserError(f"{where}: {problem}; update or uninstall it")
        loaded: T = thing
        return loaded


def subclass_problem(base: type, key: str) -> Callable[[str, Any], str | None]:
    """The check of configs: a subclass of `base` whose field `key` is the name that it goes by."""

    def problem(name: str, thing: Any) -> str | None:
        if not (isinstance(thing, type) and issubclass(thing, base)):
            return f"is no {base.__name__} of this toolkit"
        field = thing.model_fields.get(key)  # type: ignore[attr-defined]
        if field is None or field.default != name:
            return f"is declared as '{name}', and calls itself '{field and field.default}'"
        return None

    return problem


def instance_problem(kind: type) -> Callable[[str, Any], str | None]:
    """The check of rows: an instance of `kind`."""

    def problem(_name: str, thing: Any) -> str | None:
        return None if isinstance(thing, kind) else f"is no {kind.__name__} of this toolkit"

    return problem
