"""Rooms import only rooms on lower floors, and no module imports itself by way of others."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The lowest first. Rooms of one line are side by side and do not import one another. A module that
# no room holds is a command; commands are above all rooms, side by side.
FLOORS = """
compress.photographs
compress.core
compress
export eval
compress.process
compress.model
compress.cost
compress.data
compress.networks
compress.folding
compress.quant
compress.binary
compress.pruning
compress.training
compress.routing
compress.passes
compress.families
compress.recipe
compress.stages compress.bits
export.graphs
export.rewrites
export.linting
export.targets.host
export.kit
export.targets.target
export.targets.contract
export.parity
export.timing
export.targets
export.baselines export.devices export.probing
eval.data eval.published
eval.metric
eval.score
eval.reporting
compress.pipeline
compress.search
eval.results
"""
FLOOR_OF = {room: i for i, line in enumerate(FLOORS.split("\n")) for room in line.split()}
COMMANDS = len(FLOOR_OF)
PACKAGES = ("compress", "export", "eval")  # alone, each stands for its __init__.py

# Arrows that are still there: up, or closing a circle. Whoever cuts one deletes its line.
STILL_THERE: dict[str, set[str]] = {}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# Passes, quantisers, counters, exporters and the commands that run them.
FOR_ALL = (
    "passes",
    "folding",
    "quant",
    "binary",
    "pruning",
    "cost",
    "bits",
    "routing",
    "pipeline",
    "search",
)


def acts_on_all(name: str) -> bool:
    """Whether a module has to serve every family."""
    return name.startswith((*(f"compress.{room}" for room in FOR_ALL), "export", "compress.run"))


MODULES = {module_name(path): path for top in PACKAGES for path in (ROOT / top).rglob("*.py")}


def imported_names(statement: ast.AST, package: str) -> list[str]:
    """What an import statement of a module in `package` names, written out in full."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    if not isinstance(statement, ast.ImportFrom):
        return []
    parents = package.split(".")
    above = parents[: len(parents) - statement.level + 1] if statement.level else []
    origin = ".".join([*above, *filter(None, [statement.module])])
    return [f"{origin}.{alias.name}" for alias in statement.names]


@cache
def imports_of(name: str) -> set[str]:
    """The modules of the project that `name` imports, anywhere in its file."""
    if name not in MODULES:
        return set()
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for statement in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        for target in imported_names(statement, package):
            while target and target not in MODULES:
                target = target.rpartition(".")[0]
            found.add(target)
    return found - {"", name}


def room_of(name: str) -> str:
    room = name
    while room not in FLOOR_OF and "." in room:
        room = room.rpartition(".")[0]
    return name if room in PACKAGES else room


def is_up(name: str, target: str) -> bool:
    here, there = room_of(name), room_of(target)
    return here != there and FLOOR_OF.get(there, COMMANDS) >= FLOOR_OF.get(here, COMMANDS)


def circle(arrows: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_room_imports_one_on_its_floor_or_above():
    up = {(name, target) for name in MODULES for target in imports_of(name) if is_up(name, target)}
    listed = {(name, target) for name in STILL_THERE for target in STILL_THERE[name]}
    assert not up - listed


def test_no_module_imports_itself_by_way_of_others():
    assert circle({name: imports_of(name) - STILL_THERE.get(name, set()) for name in MODULES}) == []


@pytest.mark.parametrize("name", STILL_THERE)
def test_listed_arrows_are_still_there(name):
    """Delete the line of an arrow that is cut: the list only gets shorter."""
    gone = STILL_THERE[name] - imports_of(name)
    assert not gone


def test_what_counts_as_up():
    assert is_up("compress.core.errors", "compress.model.sr_model")
    assert is_up("compress.stages.edge", "compress.bits.allocate")
    assert is_up("compress.run", "compress.train")
    assert is_up("export.targets.contract", "export.targets.parts")
    assert not is_up("export.targets.parts", "export.targets.contract")
    assert not is_up("compress.run", "compress.core.errors")
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def family_names() -> set[str]:
    """Keys of FAMILIES, read off the file: this test imports nothing."""
    tree = ast.parse((ROOT / "compress/families/__init__.py").read_text(encoding="utf-8"))
    [table] = [node.value for node in tree.body if isinstance(node, ast.AnnAssign)]
    return {key.value for key in table.keys}


def families_named_by(name: str, families: set[str]) -> set[str]:
    """Keys and modules of families in a module, but for what messages and comments say."""
    modules = {target for target in imports_of(name) if target.startswith("compress.families.")}
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return modules | {word for word in words if isinstance(word, str)} & families


def test_what_acts_on_all_families_names_none():
    families = family_names()
    assert {"osediff", "invsr"} <= families
    checked = [name for name in MODULES if acts_on_all(name)]
    assert {"compress.passes.strip", "export.run", "compress.run"} <= set(checked)
    found = {name: families_named_by(name, families) for name in checked}
    assert {name: named for name, named in found.items() if named} == {}
