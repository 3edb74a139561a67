"""python -m eval.run RUN|MODEL|DIR --data PATH|NAME=PATH|embedded [-o OUT]: measure a model or restored images."""

import argparse
import sys
from pathlib import Path

from compress.core import folders, marks
from compress.core.arguments import usable_device
from compress.core.errors import UserError, command
from compress.core.files import check_name
from eval.data.dataset import DataSet, open_data
from eval.data.folders import DataSpec
from eval.data.protocols import PROTOCOLS
from eval.metric.metrics import BENCHMARK, METRICS, check_names
from eval.score.benchmark import evaluate
from eval.score.cache import default_file
from eval.score.scoring import keep_freed_memory


@command
def main(argv: list[str]) -> int:
    """Measure, write metrics.csv and averages.json, print the averages and every blank with its remedy.

    Ends with 2 if images were left out: what is wrong with each stands on stderr, the others' results are written.
    """
    args = _arguments(argv)
    if not args.source.exists():
        raise UserError(
            f"{args.source}: no such run directory, model file or folder of restored images"
        )
    metrics = check_names(args.metrics.split(","))
    spec = DataSpec(args.data, args.lr, args.hr, args.protocol, args.name)
    data = open_data(spec, limit=args.limit, convert=args.convert)
    out = Path(args.out) if args.out is not None else default_out(args.source, data.name)
    check_results(out)
    keep_freed_memory()
    if args.save is None:
        return measure(args, data, metrics, out)
    with folders.gathering(Path(args.save), marks.IMAGES, "--save", read_by(args)):
        return measure(args, data, metrics, out)


def measure(args: argparse.Namespace, data: DataSet, metrics: list[str], out: Path) -> int:
    """Evaluate, write and print; returns the exit code."""
    result = evaluate(
        args.source,
        data,
        metrics,
        args.iqa_weights,
        out,
        save=args.save,
        convert=args.convert,
        device=args.device,
        processes=args.processes,
        batch=args.batch,
        speedup=args.speedup,
        cache=None if args.no_cache else args.cache or default_file(),
    )
    print(table(result))
    print(f"written: {out / 'metrics.csv'}, {out / 'averages.json'}")
    for name, why in result["problems"].items():
        print(f"left out: {name}: {why}", file=sys.stderr)
    return 2 if result["problems"] else 0


def read_by(args: argparse.Namespace) -> list[Path]:
    """The files and folders that the command line names."""
    named = (
        args.source,
        args.lr,
        args.hr,
        args.data and args.data.rpartition("=")[2],
        args.iqa_weights,
    )
    return [Path(name) for name in named if name and Path(name).exists()]


def check_results(out: Path) -> None:
    """Raise UserError where metrics.csv and averages.json cannot be written, or those of somebody else stand."""
    if out.exists() and not out.is_dir():
        raise UserError(f"-o {out}: is a file; give a folder")
    for name, is_ours in (("metrics.csv", has_scores), ("averages.json", has_averages)):
        file = (out if out.name else out.resolve()) / name
        check_name(file, "-o")
        if file.is_symlink() or file.exists() and not file.is_file():
            raise UserError(f"{file}: is a link or a folder, and not replaced; give another -o")
        if file.is_file() and not is_ours(file):
            raise UserError(
                f"{file}: exists and was not written by eval.run; give another -o, or move it away"
            )


def has_scores(file: Path) -> bool:
    """Whether a file begins as metrics.csv does."""
    start = b"image,data,protocol"
    with file.open("rb") as stream:
        return stream.read(len(start)) == start


def has_averages(file: Path) -> bool:
    """Whether a file names the keys that every averages.json has; one that was cut off, too."""
    with file.open("rb") as stream:
        head = stream.read(2**16)
    return head.startswith(b"{") and all(
        b'"%s"' % key in head for key in (b"data", b"protocol", b"images", b"blank")
    )


def default_out(source: Path, data: str) -> Path:
    """RUN/eval/<data> for a run directory, else ./eval-<source>-<data>."""
    if (source / "model.safetensors").is_file():
        return source / "eval" / data
    return Path(f"eval-{source.resolve().stem}-{data}")


def table(result: dict) -> str:
    """The averages of `evaluate` as text; better direction beside each, a line for every blank."""
    lines = [f"{result['data']}, protocol {result['protocol']}, {result['images']} images"]
    lines += [f"  note: {note}" for note in result.get("notes", ())]
    if result.get("problems"):
        lines.append(
            f"  note: {len(result['problems'])} images were left out; averages are over the others"
        )
    for name in METRICS:
        if name in result:
            value = "—" if result[name] is None else f"{result[name]:.4f}"
            lines.append(f"  {name:<14}{'↑' if METRICS[name].higher else '↓'} {value:>10}")
    lines += [
        f"  {name}: blank, {why}" if result[name] is None else f"  {name}: {why}"
        for name, why in result["blank"].items()
    ]
    return "\n".join(lines)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.run", description=__doc__)
    parser.add_argument(
        "source",
        type=Path,
        metavar="RUN|MODEL|DIR",
        help="run directory, model .safetensors, or folder of restored images",
    )
    parser.add_argument(
        "--data",
        help="a published data set as NAME=DIR (python -m eval.named_sets lists them), a folder "
        "with LR/ and HR/ (or lq/gt, test_LR/test_HR), a folder of small images, or "
        "'embedded'",
    )
    parser.add_argument(
        "--lr",
        help="folder of small images; with --data NAME or NAME=DIR (then "
        "also under DIR) they "
        "are that data set's",
    )
    parser.add_argument("--hr", help="folder of their originals, same names")
    parser.add_argument(
        "--metrics", default=",".join(BENCHMARK), help="comma-separated; default %(default)s"
    )
    parser.add_argument(
        "--iqa-weights",
        metavar="DIR",
        help="folder with the metrics' weight files (python -m eval.weights)",
    )
    parser.add_argument(
        "-o", "--out", help="default: RUN/eval/<data name>, or ./eval-<source>-<data name>"
    )
    parser.add_argument("--protocol", help=f"{', '.join(PROTOCOLS)}; default: by the sizes")
    parser.add_argument("--name", help="data set name in the results; default: by the folder")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--save", metavar="DIR", help="keep the restored images as PNG")
    parser.add_argument(
        "--convert",
        action="store_true",
        help="convert grayscale, RGBA and 16-bit files while reading",
    )
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="share the images between N processes"
    )
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="images of one size scored at once (default: 1 on the CPU, 4 elsewhere)",
    )
    parser.add_argument(
        "--speedup",
        type=float,
        metavar="X",
        help="times faster than OSEDiff at 128 -> 512, for ntire-final",
    )
    parser.add_argument(
        "--cache", type=Path, metavar="FILE", help="scores measured before (default: in ~/.cache)"
    )
    parser.add_argument("--no-cache", action="store_true", help="measure everything again")
    parser.add_argument("--device", default="cpu", type=usable_device)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
