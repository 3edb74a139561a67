"""python -m eval.run RUN|MODEL|DIR --data PATH|NAME=PATH|embedded [-o OUT]: measure a model or
restored images."""

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core import folders, marks
from compress.core.arguments import MOST_THREADS, number, usable_device, whole_number
from compress.core.errors import UserError, command
from compress.core.files import check_name
from compress.core.hub import FORM, hub_name
from compress.core.memory import keep_freed_memory
from compress.core.program import command_parser
from compress.process.knobs import OUTPUTS
from compress.recipe.run_files import strengths_file
from eval.data.protocols import PROTOCOLS
from eval.score.options import EvaluateOptions, add_option

if TYPE_CHECKING:
    from eval.data.dataset import DataSet

_LOG = logging.getLogger("eval.run")  # not __main__, which is nobody's

HEAD = 2**16  # bytes of averages.json in which its keys are looked for


@command
def main(argv: list[str]) -> int:
    """Measure, write metrics.csv and averages.json, print averages and every blank's remedy.

    Ends with 2 if images were left out: what is wrong with each stands on stderr, and the others'
    results are written.
    """
    args = _arguments(argv)
    # These bring torch with them. It takes seconds, which --help need not wait for.
    from eval.data.dataset import open_data
    from eval.data.folders import DataSpec

    if hub_name(args.source) is None and not args.source.exists():
        raise UserError(
            f"{args.source}: no such run directory, model file or folder of restored images, and "
            f"no name of the hub ({FORM})"
        )
    options = _options(args)
    if options.knob != OUTPUTS and args.strengths is None:
        raise UserError(
            f"--knob {options.knob} is what --strengths measures; give them, as 0,0.5,1"
        )
    spec = DataSpec(args.data, args.lr, args.hr, args.protocol, args.name)
    data = open_data(spec, limit=args.limit, convert=args.convert)
    out = Path(args.out) if args.out is not None else default_out(args.source, data.name)
    check_results(out)
    keep_freed_memory()
    if args.save is None:
        return measure(args.source, data, replace(options, out=out), args.strengths)
    with folders.gathering(Path(args.save), marks.IMAGES, "--save", read_by(args)):
        return measure(args.source, data, replace(options, out=out), args.strengths)


def measure(
    source: Path, data: "DataSet", options: EvaluateOptions, strengths: str | None = None
) -> int:
    """Evaluate, write results into `options.out` and print them; returns the exit code."""
    from eval.score.benchmark import evaluate
    from eval.score.knob import evaluate_strengths, read_strengths, text_of

    out = Path(str(options.out))
    if strengths is None:
        result = evaluate(source, data, options)
        print(table(result))
    else:
        chosen = read_strengths(strengths)
        result, rows = evaluate_strengths(source, data, options, chosen)
        print(table(result))
        print(text_of(rows))
        print(f"written: {out / strengths_file(options.knob)}")
    print(f"written: {out / 'metrics.csv'}, {out / 'averages.json'}")
    for name, why in result["problems"].items():
        _LOG.warning("left out: %s: %s", name, why)
    return 2 if result["problems"] else 0


def read_by(args: argparse.Namespace) -> list[Path]:
    """The files and folders that the command line names, as far as they are there."""
    named = [args.source, args.lr, args.hr, args.iqa_weights, *args.references]
    if args.data:
        named.append(args.data.rpartition("=")[2])
    return [Path(name) for name in named if name and Path(name).exists()]


def check_results(out: Path) -> None:
    """Raise UserError where results cannot be written, or a file of somebody else's stands."""
    if out.exists() and not out.is_dir():
        raise UserError(f"-o {out}: is a file; give a folder")
    for name, is_ours in (("metrics.csv", has_scores), ("averages.json", has_averages)):
        file = (out if out.name else out.resolve()) / name
        check_name(file, "-o")
        if file.is_symlink() or (file.exists() and not file.is_file()):
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
        head = stream.read(HEAD)
    keys = (b'"data"', b'"protocol"', b'"images"', b'"blank"')
    return head.startswith(b"{") and all(key in head for key in keys)


def default_out(source: Path, data: str) -> Path:
    """RUN/eval/<data> for a run directory, else ./eval-<source>-<data>."""
    from compress.recipe.checkpoint import MODEL_FILE

    name = hub_name(source)
    if name is not None:
        return Path(f"eval-{name.label}-{data}")
    if (source / MODEL_FILE).is_file():
        return source / "eval" / data
    return Path(f"eval-{source.resolve().stem}-{data}")


def table(result: dict[str, Any]) -> str:
    """The averages of `evaluate` as text: better direction beside each, a line for every blank."""
    from eval.metric.names import in_order, metric_of

    lines = [f"{result['data']}, protocol {result['protocol']}, {result['images']} images"]
    lines += [f"  note: {note}" for note in result.get("notes", ())]
    if result.get("problems"):
        count = len(result["problems"])
        lines.append(f"  note: {count} images were left out; averages are over the others")
    for name in in_order(result):
        value = "—" if result[name] is None else f"{result[name]:.4f}"
        lines.append(f"  {name:<14}{metric_of(name).arrow} {value:>10}")
    for name, why in result["blank"].items():
        blank = "blank, " if result[name] is None else ""
        lines.append(f"  {name}: {blank}{why}")
    return "\n".join(lines)


def _options(args: argparse.Namespace) -> EvaluateOptions:
    """What the command line says of the evaluation, but for `out`."""
    from eval.metric.names import check_names
    from eval.score.cache import default_file

    cache = None if args.no_cache else args.cache or default_file()
    return EvaluateOptions(
        check_names(args.metrics.split(",")),
        args.iqa_weights,
        save=args.save,
        convert=args.convert,
        processes=args.processes,
        batch=args.batch,
        speedup=args.speedup,
        cache=cache,
        device=args.device,
        references=args.references,
        knob=args.knob,
        faithful=args.faithful,
    )


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command_parser("eval.run", description=__doc__)
    parser.add_argument(
        "source",
        type=Path,
        metavar="RUN|MODEL|DIR",
        help="run directory, model .safetensors, folder of restored images, or a model's name on "
        f"the hub, {FORM}",
    )
    parser.add_argument(
        "--data",
        help="a published data set as NAME=DIR (python -m eval.named_sets lists them), a folder "
        "with LR/ and HR/ (or lq/gt, test_LR/test_HR), a folder of small images, or "
        "'embedded'",
    )
    parser.add_argument(
        "--lr",
        help="folder of small images; with --data NAME or NAME=DIR (then also under DIR) they "
        "are that data set's",
    )
    parser.add_argument("--hr", help="folder of their originals, same names")
    add_option(parser, "metrics", default=",".join(EvaluateOptions.metrics))
    add_option(parser, "iqa_weights", metavar="DIR")
    add_option(parser, "out", "-o", "--out")
    parser.add_argument("--protocol", help=f"{', '.join(PROTOCOLS)}; default: by the sizes")
    parser.add_argument("--name", help="data set name in the results; default: by the folder")
    add_option(parser, "limit", type=whole_number("--limit"), metavar="N")
    add_option(parser, "save", metavar="DIR")
    parser.add_argument(
        "--strengths",
        metavar="S,S,...",
        help="also measure strengths of the knob of realism, from 0, the faithful end, to 1; "
        "eval.curve --x METRIC draws them",
    )
    add_option(parser, "knob", metavar="outputs|noise|steps|weights")
    add_option(parser, "faithful", metavar="RUN|MODEL")
    add_option(
        parser,
        "references",
        nargs="+",
        type=Path,
        metavar="IMAGE|FOLDER",
    )
    add_option(parser, "convert", action="store_true")
    add_option(
        parser, "processes", type=whole_number("--processes", most=MOST_THREADS), metavar="N"
    )
    add_option(parser, "batch", type=whole_number("--batch"), metavar="N")
    add_option(parser, "speedup", type=number("--speedup"), metavar="X")
    add_option(parser, "cache", type=Path, metavar="FILE")
    parser.add_argument("--no-cache", action="store_true", help="measure everything again")
    add_option(parser, "device", type=usable_device)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
