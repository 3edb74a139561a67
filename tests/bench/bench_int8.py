"""Size and speed of a compressed run beside its source in float32, as ONNX on this machine.

    python tests/bench/bench_int8.py RUN [--lr-size 128x128] [--threads N] [--repeats N]

Nothing is asserted: a latency is a measurement of one machine on one day.
"""

import argparse
import os
import tempfile
from pathlib import Path

from compress.errors import command
from export.latency import compare, table
from export.onnx import GRAPHS, export_onnx
from export.run import parse_size


@command
def main(argv: list[str]) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", help="run directory or model.safetensors file")
    p.add_argument("--lr-size", default="128x128")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--repeats", type=int, default=20)
    arguments = p.parse_args(argv)
    size = parse_size(arguments.lr_size)
    from compress.checkpoint import load_model, read_header

    config, _ = read_header(arguments.run)
    source = config.build()
    config.load(source)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / name for name in ("fp32", "compressed")}
        export_onnx(source.eval(), paths["fp32"], lr_size=size)
        export_onnx(load_model(arguments.run), paths["compressed"], lr_size=size)
        for stem in GRAPHS:
            pair = {f"{stem} {name}": path / f"{stem}.onnx" for name, path in paths.items()}
            print(table(compare(pair, threads=arguments.threads, repeats=arguments.repeats)), end="\n\n")


if __name__ == "__main__":
    main()
