"""Measure an exported folder on a phone.

    python -m export.profile FOLDER --device "Samsung Galaxy S25"
    python -m export.profile FOLDER --adb --tool benchmark_model

The first uploads the graphs to Qualcomm AI Hub, which runs them on a phone of theirs: the package
qai-hub and a token are needed. The second runs them on a phone on a cable. FOLDER/profile.json
keeps what was measured; graphs that it has are not measured again, and jobs that it waits for go
on. `--dry-run` says what would be sent, and asks nobody.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from compress.core import markdown
from compress.core.arguments import whole_number
from compress.core.errors import UserError, command
from compress.core.program import command_parser

if TYPE_CHECKING:
    from compress.recipe.profiles import Profile, Row
    from export.devices.graphs import Graph

MEGABYTE = 10**6
NONE = "–"


class Way(Protocol):
    """How graphs get onto a device."""

    device: str
    way: str

    def submit(self, graph: "Graph") -> "Row":
        """Hand a graph over; the row waits, or has its figures."""

    def collect(self, row: "Row") -> None:
        """Wait for a row that waits, and fill it."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = command_parser("export.profile", description="Measure an exported folder on a phone")
    p.add_argument("folder", type=Path, metavar="FOLDER", help="of python -m export.run")
    p.add_argument(
        "--device", metavar="NAME", help="through Qualcomm AI Hub, such as 'Samsung Galaxy S25'"
    )
    p.add_argument(
        "--adb",
        nargs="?",
        const="",
        metavar="SERIAL",
        help="on a phone on a cable; SERIAL where there are several",
    )
    p.add_argument(
        "--tool",
        type=Path,
        metavar="FILE",
        help="for --adb: LiteRT's benchmark_model, or onnxruntime_perf_test, of the phone's "
        "processor",
    )
    p.add_argument("--on", choices=("gpu", "cpu"), help="for --adb: default gpu, if there is one")
    p.add_argument(
        "--runs",
        type=whole_number("--runs"),
        default=50,
        metavar="N",
        help="for --adb: that are averaged (default: %(default)s)",
    )
    p.add_argument("--dry-run", action="store_true", help="say what would be sent; ask nobody")
    return p


def choose_way(options: argparse.Namespace, target: str) -> Way:
    """AI Hub, or the phone on a cable.

    Raises:
        UserError: Neither or both were asked for, the target is none of theirs, or they cannot be
            had.
    """
    from export.devices import adb, ai_hub

    check_way(options, target)
    if options.adb is None:
        import qai_hub

        return ai_hub.AIHub(qai_hub, options.device)
    processor = options.on or adb.PROCESSORS[target][0]
    return adb.Phone(target, options.tool, processor, options.runs, options.adb or None)


def check_way(options: argparse.Namespace, target: str) -> None:
    """Raise UserError where options do not go together, or with the target."""
    from export.devices import adb, ai_hub

    if (options.device is None) == (options.adb is None):
        raise UserError("name a phone of AI Hub by --device NAME, or one on a cable by --adb")
    targets = ai_hub.TARGETS if options.adb is None else adb.TARGETS
    option = "--device" if options.adb is None else "--adb"
    if target not in targets:
        raise UserError(
            f"{options.folder}: {option} takes folders of target {', '.join(targets)}, and this "
            f"one is of {target}; export again"
        )
    if options.adb is None:
        return
    if options.tool is None or not options.tool.is_file():
        raise UserError(
            "--adb needs --tool FILE: benchmark_model of LiteRT for target litert, "
            "onnxruntime_perf_test for target onnx, built for the phone's processor"
        )
    if options.on and options.on not in adb.PROCESSORS[target]:
        raise UserError(f"--on {options.on}: target {target} runs on {adb.PROCESSORS[target][0]}")


def measure(folder: Path, graphs: "list[Graph]", way: Way) -> "tuple[Profile, list[Row]]":
    """Measure graphs on a device; each row is kept as soon as it is known.

    Returns:
        What the folder's profile.json holds, and the rows of the graphs in their order.
    """
    from compress.recipe import profiles
    from compress.recipe.run_files import read_manifest

    before = profiles.read(folder)
    parts = {graph.part: graph.sha256 for graph in graphs}
    height, width = read_manifest(folder)["lr_size"]
    rows = [] if before is None else before.rows
    profile = profiles.Profile((height, width), parts, rows)
    wanted = []
    for graph in graphs:
        row = profile.row(graph.part, way.device, way.way)
        if row is None:
            print(f"{graph.part}: {graph.bytes / MEGABYTE:.1f} MB to {way.device}", flush=True)
            row = way.submit(graph)
            profile.rows.append(row)
            profiles.write(folder, profile)
        if row.state == profiles.WAITING:
            print(f"{graph.part}: job {row.job}, {row.url}", flush=True)
        wanted.append(row)
    for row in wanted:
        if row.state == profiles.WAITING:
            way.collect(row)
            profiles.write(folder, profile)
    return profile, wanted


def table(rows: "list[Row]") -> str:
    """What was measured, a line a graph."""
    cells = [
        [
            row.part,
            str(row.calls),
            NONE if row.ms is None else f"{row.ms:.2f}",
            NONE if row.peak_mb is None else f"{row.peak_mb:.0f}",
            ", ".join(f"{unit} {count}" for unit, count in sorted(row.units.items())) or NONE,
        ]
        for row in rows
    ]
    return markdown.table(["graph", "calls a tile", "ms a call", "peak MB", "nodes on"], cells)


def describe(graphs: "list[Graph]", options: argparse.Namespace) -> None:
    """Print what would be measured."""
    place = f"AI Hub's {options.device}" if options.adb is None else "the phone on a cable"
    for graph in graphs:
        names = ", ".join(path.name for path in (graph.file, *graph.beside))
        print(f"{graph.part}: {names}, {graph.bytes / MEGABYTE:.1f} MB, to {place}")
    print("nothing was sent, and nothing was measured")


@command
def main(argv: list[str]) -> int:
    """Measure and print; returns 1 where a graph could not be measured."""
    options = parser().parse_args(argv)
    from compress.recipe import profiles
    from export.devices.graphs import graphs_of

    target, graphs = graphs_of(options.folder)
    if options.dry_run:
        check_way(options, target)
        describe(graphs, options)
        return 0
    way = choose_way(options, target)
    profile, rows = measure(options.folder, graphs, way)
    print(f"measured on {way.device} ({way.way})")
    print(table(rows))
    failed = [row for row in rows if row.state == profiles.FAILED]
    for row in failed:
        print(f"{row.part}: failed: {row.note}")
    total = profile.tile_ms(way.device)
    if total is not None:
        print(f"a tile: {total:.2f} ms, without the arithmetic between the graphs")
    print(f"written: {options.folder / profiles.FILE}")
    return 1 if failed else 0


if __name__ == "__main__":
    main()
