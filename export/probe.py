"""Measure which operators a chip takes: a Hexagon, or a GPU by LiteRT's delegate.

    python -m export.probe --arch v79 -o qnn_v79.csv [--forms 'Conv*']
    python -m export.probe --target litert-gpu -o gpu.csv

Builds one-operator graphs (export/rules/forms.yaml). For a Hexagon each is compiled and run in the
HTP simulator that onnxruntime-qnn brings for Linux x86-64, and compared with onnxruntime on the
CPU. For a GPU each is made in torch, converted to LiteRT and run on this machine's GPU, such as
Chromium's SwiftShader, and compared with torch. python -m export.lint --table reads the result.
Rows that the file already has are kept, so that a probe that was stopped goes on where it was.
"""

import argparse
import fnmatch
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from compress.core.arguments import number
from compress.core.errors import UserError, command, nearest
from compress.core.program import command_parser
from export.linting.rules import forms
from export.probing.measure import SOCS, Simulator, check_python, measure
from export.probing.precisions import PRECISIONS, widths_of
from export.probing.table import check_table, read_table, write_table

DESCRIPTION = "Measure which operators a Hexagon takes, or a GPU by LiteRT's delegate"
QNN, GPU = "qnn", "litert-gpu"


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    p = command_parser("export.probe", description=DESCRIPTION)
    p.add_argument("--target", choices=(QNN, GPU), default=QNN, help="default qnn")
    p.add_argument(
        "--arch",
        help="of qnn, Hexagon version: v73 (8 Gen 2), v75 (8 Gen 3), v79 (8 Elite), v81",
    )
    p.add_argument(
        "--soc",
        help=f"soc_model of the QNN provider (default {SOCS}); a wrong one has too little memory",
    )
    p.add_argument(
        "--forms", default="*", help="operator forms, as patterns with commas between (default all)"
    )
    p.add_argument(
        "--precisions", default=",".join(PRECISIONS), help=f"default {','.join(PRECISIONS)}"
    )
    p.add_argument(
        "--python",
        default=sys.executable,
        help="a Python that has onnxruntime-qnn (default this one)",
    )
    p.add_argument(
        "--timeout", type=number("--timeout", 1), default=60.0, help="seconds a graph (default 60)"
    )
    p.add_argument("-o", "--out", type=Path, help="default qnn_ARCH.csv or gpu.csv")
    return p


def chip_of(arch: str | None, soc: str | None) -> str:
    """The soc_model of a Hexagon version.

    Raises:
        UserError: It is no version, or no chip of it is known and none given.
    """
    if arch is None:
        raise UserError(f"--arch: say which Hexagon is measured; choose one of {', '.join(SOCS)}")
    if not re.fullmatch(r"v\d\d", arch):
        raise UserError(f"--arch '{arch}' is no Hexagon version; write it like v79")
    chip = soc or SOCS.get(arch)
    if chip is None:
        raise UserError(
            f"--arch {arch}: no chip of it is known here ({', '.join(SOCS)} are); give its "
            "soc_model with --soc"
        )
    return chip


def forms_like(patterns: str) -> list[str]:
    """The operator forms that match patterns with commas between.

    Raises:
        UserError: None does.
    """
    known = list(forms())
    wanted = patterns.split(",")
    chosen = [name for name in known if any(fnmatch.fnmatchcase(name, p) for p in wanted)]
    if not chosen:
        raise UserError(
            f"--forms '{patterns}' matches no form{nearest(patterns, known)}; they are named "
            f"like {', '.join(known[:3])}"
        )
    return chosen


Measure = Callable[[dict[str, Any], tuple[str, ...]], dict[str, str]]


def on_hexagon(arguments: argparse.Namespace) -> tuple[Measure, tuple[str, ...], Path]:
    """What measures a form, the precisions, and the default file."""
    soc = chip_of(arguments.arch, arguments.soc)
    precisions = tuple(arguments.precisions.split(","))
    for precision in precisions:
        widths_of(precision)  # raises for an unknown one
    check_python(arguments.python)
    simulator = Simulator(arguments.python, arguments.arch[1:], soc, arguments.timeout)
    return partial(measure, simulator=simulator), precisions, Path(f"qnn_{arguments.arch}.csv")


def on_gpu(arguments: argparse.Namespace) -> tuple[Measure, tuple[str, ...], Path]:
    """What measures a form, the precisions, and the default file.

    Raises:
        UserError: An option is of qnn alone, or this Python lacks a package.
    """
    for name in ("arch", "soc"):
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name} is of --target qnn; leave it out")
    from export.probing.litert_gpu import PRECISION, check_packages, measure_on_gpu

    check_packages()
    return lambda form, _: measure_on_gpu(form), (PRECISION,), Path("gpu.csv")


@command
def main(argv: list[str]) -> int:
    """Measure what the table does not have yet."""
    arguments = parser().parse_args(argv)
    chosen = forms_like(arguments.forms)
    if arguments.out is not None:
        check_table(arguments.out)
    choose = on_gpu if arguments.target == GPU else on_hexagon
    measure_form, precisions, default = choose(arguments)
    out = arguments.out or default
    check_table(out)
    rows = read_table(out)
    missing = {}
    for name in chosen:
        row = rows.get(name, {})
        missing[name] = tuple(p for p in precisions if not row.get(p))
    bar = tqdm([name for name in chosen if missing[name]])
    for name in bar:
        bar.set_postfix_str(name)
        row = rows.setdefault(name, dict.fromkeys(PRECISIONS, ""))
        row |= measure_form(forms()[name], missing[name])
        write_table(out, rows)
    print(out)
    return 0


if __name__ == "__main__":
    main()
