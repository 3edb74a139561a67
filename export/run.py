"""Export a compressed model: python -m export.run RUN --target qnn --dtype w8a8 [-o DIR]"""

import argparse
import sys
from pathlib import Path
from typing import Any

from compress.core.config import validate
from compress.core.config_arguments import add_arguments, given
from compress.core.errors import UserError, command
from compress.core.folders import partial_of
from compress.core.hub import FORM, hub_name
from compress.core.identity import default_root, file_digest
from compress.core.memory import keep_freed_memory
from compress.core.program import command_parser
from compress.recipe.export_options import ExportOptions, parse_shape, parse_size
from compress.recipe.run_files import read_manifest
from export.targets.phones import choice_for, choose_phone, sentences
from export.targets.table import TARGETS, check_dtype, check_options, check_packages, choose_target

KIBIBYTE = 2**10
DEFAULT_TARGET = "onnx"


def parser() -> argparse.ArgumentParser:
    """The command line: an option for each key of ExportOptions, and what is of the command."""
    dtypes = "; ".join(
        f"{name}: {', '.join(target.dtypes)} (default {target.default})"
        for name, target in TARGETS.items()
    )
    p = command_parser(
        "export.run",
        description="Export a compressed model",
        epilog=f"dtypes: {dtypes}",
    )
    p.add_argument(
        "run",
        metavar="RUN",
        help=f"run directory, model.safetensors file, or a model's name on the hub, {FORM}",
    )
    p.add_argument("--target", help=f"one of {', '.join(TARGETS)} (default onnx)")
    p.add_argument(
        "--for",
        dest="phone",
        metavar="PHONE",
        default=argparse.SUPPRESS,
        help="the phone to export for, such as 'Galaxy S25'; it chooses target, dtype, chip and "
        "rewrites",
    )
    p.add_argument("--lr-size", dest="size", help="height x width of the input (default 128x128)")
    p.add_argument("--shape", metavar="1x3xHxW", help="the same as a shape")
    add_arguments(p, ExportOptions, leave_out=("target", "lr_size", "reference", "phone"))
    p.add_argument(
        "--eight-bit-doors",  # as it was called at first
        dest="eight_bit_io",
        action="store_true",
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )
    p.add_argument(
        "--drift",
        action="store_true",
        help="also list where runtime and simulation part, layer by layer",
    )
    p.add_argument(
        "--cache",
        type=Path,
        help="cache of earlier exports (default ~/.cache/diffusion-sr-compress)",
    )
    p.add_argument(
        "--no-cache", action="store_true", help="export anew and keep nothing; so does --drift"
    )
    p.add_argument(
        "-o",
        "--out",
        type=Path,
        help="default RUN/TARGET, of a name of the hub NAME/TARGET here; or RUN/TARGET_DTYPE "
        "where --dtype is given",
    )
    return p


def options_of(arguments: argparse.Namespace) -> ExportOptions:
    """What was asked for.

    Raises:
        UserError: An unknown target, dtype or probe, a size that is none, or an illegal value.
    """
    values = given(arguments, ExportOptions)
    if "phone" in values:
        values = for_phone(values)
    elif arguments.target is None:
        values["target"] = DEFAULT_TARGET
    check_dtype(values["target"], values.get("dtype"))
    if arguments.size and arguments.shape:
        raise UserError("--lr-size and --shape say the same; give one")
    if arguments.shape:
        values["lr_size"] = parse_shape(arguments.shape)
    elif arguments.size:
        values["lr_size"] = parse_size(arguments.size)
    options = validate(ExportOptions, values, "options")
    check_options(options)
    return options


def for_phone(values: dict[str, Any]) -> dict[str, Any]:
    """What was asked for, with what the phone chooses; a dtype that was given stays.

    Raises:
        UserError: The phone is unknown, or something was given that it chooses.
    """
    for key in ("target", "chip", "rewrite"):
        if values.get(key) is not None:
            raise UserError(f"--for chooses the {key}; leave out --{key}, or --for")
    phone = choose_phone(values["phone"])
    choice = choice_for(phone)
    chosen = {
        "target": choice.target,
        "dtype": choice.dtype,
        "chip": choice.chip,
        "rewrite": choice.rewrite,
    }
    return {**chosen, **values, "target": choice.target, "phone": phone.name}


@command
def main(argv: list[str]) -> int:
    """Export a model into a folder that is this process' alone; returns the exit code."""
    arguments = parser().parse_args(argv)
    options = options_of(arguments)
    if options.phone is not None:
        print("\n".join(sentences(choose_phone(options.phone))))
    # These bring torch with them. It takes seconds, which --help need not wait for.
    from compress.recipe import checkpoint
    from export.targets.export_folder import claimed
    from export.targets.palette_bits import with_table_of

    source = checkpoint.model_path(arguments.run)
    name = hub_name(arguments.run)
    options = with_table_of(options, source.parent)
    place = source.parent if name is None else Path(name.label)
    out = place / options.folder if arguments.out is None else arguments.out
    inputs = [source]
    if options.calibration != "embedded":
        inputs.append(Path(options.calibration))
    # A drift is measured by the runner of what was just made.
    anew = arguments.no_cache or arguments.drift
    cache = None if anew else arguments.cache or default_root()
    keep_freed_memory()
    with claimed(out, "--out", inputs):
        return write(source, out, options, cache, arguments.drift)


def write(
    source: Path, out: Path, options: ExportOptions, cache: Path | None, with_drift: bool
) -> int:
    """Export, verify and list what was written; returns the exit code."""
    from compress.recipe import checkpoint
    from export.parity import drift
    from export.parity.rows import failures, table
    from export.targets.export_cache import export_or_recall
    from export.targets.export_folder import finish
    from export.timing.predicted import describe_predicted

    check_packages(options)
    model_sha256 = file_digest(source)
    model = checkpoint.load_model(source)
    made = export_or_recall(model, out, options, model_sha256, cache)
    problem = failures(made.rows)
    if with_drift:
        print(drift.table(drift.measure_drift(partial_of(out), made, options.lr_size)))
    final = finish(out, problem)
    for path in sorted(final.iterdir()):
        print(f"{path}  {size(path) / KIBIBYTE:.0f} KiB")
    for note in made.notes:
        print(note)
    if options.target == "web":
        print(f"to see the page: python -m export.serve {final}")
    if made.rows:
        print(table(made.rows))
    else:
        why = made.remark or choose_target(options.target).remark
        print(f"parity: not measured, because {why}")
    if options.target == "qnn":
        dtype = read_manifest(final)["dtype"]
        print("\n".join(describe_predicted(model, dtype, options.lr_size)))
    if problem:
        print(f"error: {problem}; the files are in {final}", file=sys.stderr)
    return 1 if problem else 0


def size(path: Path) -> int:
    """Bytes of a file, or of all in a folder."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()
