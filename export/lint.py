"""Whether a target's hardware takes a graph.

    python -m export.lint FILE.onnx --target qnn [--json] [--picture PNG]

Counts the nodes that would fall back to the CPU and the partitions that they cut the graph into.
With values to run on, finds tensors that would overflow float16. What no rule names is unknown,
never fine. Ends with 1 where a node, a tensor or the file is refused or unknown.
"""

import argparse
import json
from pathlib import Path

from compress.core.errors import command
from compress.core.files import check_file
from compress.core.program import command_parser
from export.linting.rules import load, targets

DESCRIPTION = "Whether a target's hardware takes a graph"


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    p = command_parser("export.lint", description=DESCRIPTION)
    p.add_argument("file", metavar="FILE.onnx", type=Path)
    p.add_argument("--target", required=True, help=f"one of {', '.join(targets())}")
    p.add_argument("--arch", help="qnn: Hexagon version that figures exist for (default v75)")
    p.add_argument("--table", type=Path, help="qnn: figures that python -m export.probe wrote")
    p.add_argument(
        "--run", type=Path, help="the run of a component's file, to check its float16 ranges"
    )
    p.add_argument("--json", action="store_true", help="every node that is not fine, for machines")
    p.add_argument("--picture", type=Path, metavar="PNG", help="the graph, coloured by verdict")
    return p


@command
def main(argv: list[str]) -> int:
    """Check one file and print the report."""
    arguments = parser().parse_args(argv)
    # These bring onnxruntime with them, which --help need not wait for.
    from export.graphs.storage import files_of
    from export.linting.check import lint
    from export.linting.feeds import feeds_for
    from export.linting.file import read_graph
    from export.linting.report import text

    if arguments.picture:
        check_file(arguments.picture, "--picture", [arguments.file])
    target = load(arguments.target, arguments.arch, arguments.table)
    model = read_graph(arguments.file)
    size = sum(file.stat().st_size for file in files_of(arguments.file))
    feeds = feeds_for(model, arguments.run) if target.float_type == "fp16" else []
    report = lint(
        model, target, file=str(arguments.file), file_bytes=size, feeds=feeds, source=arguments.file
    )
    print(json.dumps(report.as_dict(), indent=1) if arguments.json else text(report))
    if arguments.picture:
        from export.linting.picture import draw

        draw(model, report, arguments.picture)
        print(arguments.picture)
    return 0 if report.passed else 1


if __name__ == "__main__":
    main()
