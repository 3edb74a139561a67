"""Export a compressed model: python -m export.run RUN|MODEL --target onnx [--lr-size 128x128] [--dynamic] [-o DIR]"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from compress.errors import UserError, command, nearest
from export.graph import total_bytes
from export.onnx import export_onnx
from export.verify import failures, table, verify

# Target -> function(model, out_dir, **options) that returns the files it wrote.
TARGETS: dict[str, Callable[..., list[Path]]] = {"onnx": export_onnx}


def parse_size(text: str) -> tuple[int, int]:
    """'128x96' (height x width) or '128' -> (height, width)."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise UserError(f"--lr-size '{text}' is not a size; write height x width like 128x128")
    return int(match[1]), int(match[2] or match[1])


def choose_target(name: str) -> Callable[..., list[Path]]:
    if name not in TARGETS:
        raise UserError(f"export target '{name}' is unknown{nearest(name, TARGETS)}; choose one of {', '.join(TARGETS)}")
    return TARGETS[name]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m export.run", description=__doc__.split(":")[0])
    p.add_argument("run", metavar="RUN", help="run directory or model.safetensors file")
    p.add_argument("--target", default="onnx", help=f"one of {', '.join(TARGETS)}")
    p.add_argument("--lr-size", default="128x128", help="height x width of the input (default 128x128)")
    p.add_argument("--dynamic", action="store_true", help="any size in whole multiples, at some cost in speed")
    p.add_argument("--opset", type=int, help="default 20, or 21 with 16-bit activations or int4, 25 with int2")
    p.add_argument("--low-bits", default="packed", help="weights of one or two bits: packed (default), int2 or int4")
    p.add_argument("--tolerance", type=float, help="parity in dB (default 80 for float models, at most 40 for quantised)")
    p.add_argument("--threads", type=int, help="onnxruntime threads for the parity check")
    p.add_argument("-o", "--out", type=Path, help="default RUN/onnx")
    return p


@command
def main(argv: list[str]) -> int:
    arguments = parser().parse_args(argv)
    target, lr_size = choose_target(arguments.target), parse_size(arguments.lr_size)
    from compress.checkpoint import load_model, model_path

    out = arguments.out or model_path(arguments.run).parent / arguments.target
    model = load_model(arguments.run)
    paths = target(model, out, lr_size=lr_size, dynamic=arguments.dynamic, opset=arguments.opset,
                   low_bits=arguments.low_bits)
    for path in paths:
        print(f"{path}  {total_bytes(path.parent.glob(path.name + '*')) / 1024:.0f} KiB")
    rows = verify(model, out, tolerance=arguments.tolerance, threads=arguments.threads, lr_size=lr_size)
    print(table(rows))
    problem = failures(rows)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    main()
