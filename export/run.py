"""Export a compressed model: python -m export.run RUN|MODEL --target onnx|qnn|… [--dtype w8a8] [--lr-size 128x128] [-o DIR]"""

import argparse
import re
import sys
from dataclasses import replace
from pathlib import Path

from compress.core.errors import UserError, command
from compress.core.folders import partial_of
from compress.core.identity import file_digest
from compress.cost import phones
from compress.cost.count import measure
from compress.model.sr_model import SRModel
from compress.recipe.run_files import read_manifest
from export.parity.verify import check_probes, failures, table
from export.targets import TARGETS, check_options, check_packages, claimed, export, finish
from export.targets.parts import PARTS, Options


def parse_size(text: str) -> tuple[int, int]:
    """'128x96' (height x width) or '128' -> (height, width)."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise UserError(f"--lr-size '{text}' is not a size; write height x width like 128x128")
    return int(match[1]), int(match[2] or match[1])


def parse_shape(text: str) -> tuple[int, int]:
    """'1x3x128x96' -> (128, 96)."""
    match = re.fullmatch(r"1x3x(\d+)x(\d+)", text)
    if not match:
        raise UserError(
            f"--shape '{text}' is not one image; write 1x3xHEIGHTxWIDTH like 1x3x128x128"
        )
    return int(match[1]), int(match[2])


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m export.run", description=__doc__.split(":")[0])
    p.add_argument("run", metavar="RUN", help="run directory or model.safetensors file")
    p.add_argument("--target", default="onnx", help=f"one of {', '.join(TARGETS)}")
    p.add_argument(
        "--component",
        action="append",
        metavar="NAME",
        help=f"model, {', '.join(PARTS)}; may be repeated "
        "(default: the parts, and for onnx the whole model too)",
    )
    p.add_argument(
        "--dtype",
        help="; ".join(
            f"{name}: {', '.join(t.dtypes)} (default {t.default})" for name, t in TARGETS.items()
        ),
    )
    p.add_argument("--lr-size", help="height x width of the input (default 128x128)")
    p.add_argument("--shape", metavar="1x3xHxW", help="the same as a shape")
    p.add_argument(
        "--dynamic", action="store_true", help="any size in whole multiples, at some cost in speed"
    )
    p.add_argument(
        "--opset", type=int, help="default 20, or 21 with 16-bit activations or int4, 25 with int2"
    )
    p.add_argument(
        "--low-bits",
        default="packed",
        help="weights of one or two bits: packed (default), int2 or int4",
    )
    p.add_argument(
        "--rewrite",
        metavar="TARGET",
        help="rewrites for an NPU: qnn, mediatek, coreml, litert, or their names",
    )
    p.add_argument(
        "--calibration",
        default="embedded",
        metavar="DATA",
        help="embedded, or a folder of low-resolution "
        "photographs, for the ranges of a float model that is quantised here",
    )
    p.add_argument("--images", type=int, default=16, help="how many of them (default 16)")
    p.add_argument(
        "--chip",
        default="snapdragon-8-gen-3",
        help="qnn: the chip to compile for, by name, part or vNN",
    )
    p.add_argument(
        "--python",
        metavar="PATH",
        help="qnn: an interpreter that has onnxruntime-qnn, if this one has not",
    )
    p.add_argument(
        "--eight-bit-doors",
        action="store_true",
        help="qnn, w8a8: inputs and outputs in 8 bits as well; they are in 16 by default",
    )
    p.add_argument(
        "--probe", action="append", metavar="NAME", help="check parity on these only (default: all)"
    )
    p.add_argument(
        "--tolerance", type=float, help="parity in dB; below it the export fails (default by dtype)"
    )
    p.add_argument("--threads", type=int, help="CPU threads for the parity check")
    p.add_argument(
        "--drift",
        action="store_true",
        help="also list where runtime and simulation part, layer by layer",
    )
    p.add_argument(
        "-o",
        "--out",
        type=Path,
        help="default RUN/TARGET, or RUN/TARGET_DTYPE where --dtype is given",
    )
    return p


def options_of(arguments: argparse.Namespace) -> Options:
    if arguments.lr_size and arguments.shape:
        raise UserError("--lr-size and --shape say the same; give one")
    size = (
        parse_shape(arguments.shape)
        if arguments.shape
        else parse_size(arguments.lr_size or "128x128")
    )
    if arguments.probe:
        check_probes(tuple(arguments.probe))
    return Options(
        lr_size=size,
        components=tuple(arguments.component) if arguments.component else None,
        dtype=arguments.dtype,
        dynamic=arguments.dynamic,
        opset=arguments.opset,
        low_bits=arguments.low_bits,
        rewrite=arguments.rewrite,
        calibration=arguments.calibration,
        images=arguments.images,
        chip=arguments.chip,
        python=arguments.python,
        doors=not arguments.eight_bit_doors,
        threads=arguments.threads,
        tolerance=arguments.tolerance,
        probes=tuple(arguments.probe) if arguments.probe else None,
    )


@command
def main(argv: list[str]) -> int:
    arguments = parser().parse_args(argv)
    name, options = arguments.target, options_of(arguments)
    check_options(name, options)
    from compress.recipe.checkpoint import model_path
    from export.rewrite import names_for

    if options.rewrite:
        names_for(options.rewrite)
    folder = name if options.dtype is None else f"{name}_{options.dtype}"
    source = model_path(arguments.run)
    out = arguments.out if arguments.out is not None else source.parent / folder
    inputs = [source, *([] if options.calibration == "embedded" else [Path(options.calibration)])]
    with claimed(out, "--out", inputs):
        return write(arguments, out, options)


def write(arguments: argparse.Namespace, out: Path, options: Options) -> int:
    """Export, verify and list what was written; returns the exit code."""
    from compress.recipe.checkpoint import load_model, model_path

    name = arguments.target
    check_packages(name)
    options = replace(options, model_sha256=file_digest(model_path(arguments.run)))
    model = load_model(arguments.run)
    made = export(model, name, out, options)
    problem = failures(made.rows)
    if arguments.drift:
        from export.targets.drift import measure_drift
        from export.targets.drift import table as drift_table

        print(drift_table(measure_drift(partial_of(out), made, options)))
    final = finish(out, problem)
    for path in sorted(final.iterdir()):
        print(f"{path}  {size(path) / 1024:.0f} KiB")
    for note in made.notes:
        print(note)
    print(
        table(made.rows) if made.rows else f"parity: not measured, because {TARGETS[name].remark}"
    )
    if name == "qnn":
        print("\n".join(predicted(model, read_manifest(final)["dtype"], options.lr_size)))
    if problem:
        print(f"error: {problem}; the files are in {final}", file=sys.stderr)
    return 1 if problem else 0


def predicted(model: SRModel, dtype: str, lr_size: tuple[int, int]) -> list[str]:
    """Latency on phones as full GMACs over the published rate at `dtype`; nothing is run on a phone."""
    cost = measure(model, lr_size)
    gmacs = sum(phones.gmacs_by_precision(cost).values())
    kind = {"fp16": phones.FLOAT, "w8a8": phones.INTEGER, "w8a16": phones.MIXED}[dtype]
    lines = [
        f"predicted phone latency at LR {lr_size[1]}x{lr_size[0]}, all of it at {kind}; nothing was run on a phone"
    ]
    for device, by_kind in phones.rates().items():
        rate = by_kind[kind]
        lines.append(
            f"  {device:<26}predicted {gmacs / rate.gmacs_per_ms:8.2f} ms = {gmacs:,.1f} GMACs / "
            f"{rate.gmacs_per_ms:g} GMACs per ms ({rate.source.partition(' (')[0]})"
        )
    return lines


def size(path: Path) -> int:
    """Bytes of a file, or of all in a folder."""
    return (
        sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
        if path.is_dir()
        else path.stat().st_size
    )


if __name__ == "__main__":
    main()
