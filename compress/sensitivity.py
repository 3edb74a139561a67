"""How much every layer's quantisation costs, one layer at a time; and bits per layer from that.

    python -m compress.sensitivity RECIPE|RUN|MODEL [--bits 4 6 8] [--data DIR] -o sensitivity.json
    python -m compress.sensitivity RECIPE … --budget 2.1MB --recipe mixed.yaml

What stands before a layer's component is computed once and kept: a layer of the decoder costs a run
of the decoder. Finished measurements are in FILE.jsonl; a run that was killed goes on there.
"""

import argparse
from pathlib import Path

from compress.core.arguments import LARGEST_SIDE, MOST_IMAGES, usable_seed, whole_number
from compress.core.errors import command
from compress.core.locks import locked
from compress.core.memory import keep_freed_memory
from compress.core.program import command_parser
from compress.cost.phones import rates

DESCRIPTION = (
    "How much of the restored image every layer's quantisation costs, one layer at a time; and "
    "bits per layer from that."
)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("compress.sensitivity", description=DESCRIPTION)
    parser.add_argument(
        "subject",
        metavar="RECIPE|RUN|MODEL",
        help="a recipe with a quantize pass, or a float model",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the recipe")
    parser.add_argument(
        "--bits",
        nargs="+",
        default=["4", "6", "8"],
        metavar="N",
        help="widths: 6, or w4a8 (default 4 6 8)",
    )
    parser.add_argument(
        "--data", default="embedded", help="folder of LR photographs (default: %(default)s)"
    )
    parser.add_argument(
        "--images",
        type=whole_number("--images", most=MOST_IMAGES),
        default=4,
        metavar="N",
        help="how many of them (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        type=whole_number("--size", most=LARGEST_SIDE),
        default=64,
        metavar="N",
        help="side of their crops (default: %(default)s)",
    )
    parser.add_argument("--seed", type=usable_seed, default=0)
    parser.add_argument(
        "--others", choices=("float", "recipe"), default="float", help="what all other layers are"
    )
    parser.add_argument(
        "--lpips", metavar="FILE", help="weights of LPIPS (SqueezeNet), to measure that as well"
    )
    _add_choice(parser)
    parser.add_argument(
        "--cache",
        type=Path,
        default=None,
        help="pass cache (default ~/.cache/diffusion-sr-compress)",
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("sensitivity.json"))
    return parser


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--budget", help="2.1MB, 850KB or 12ms: choose bits per layer within it")
    parser.add_argument(
        "--metric", choices=("psnr", "lpips"), default="psnr", help="what is best within the budget"
    )
    parser.add_argument(
        "--device",
        default=next(iter(rates())),
        help="phone of a budget in ms (default: %(default)s)",
    )
    parser.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE",
        help="with --budget: write the recipe with its pins there",
    )


@command
def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_intermixed_args(argv)
    # What measures brings torch and diffusers with it. They take seconds, which --help need not
    # wait for.
    from compress.bits.work import check, work

    widths, budget = check(options)
    keep_freed_memory()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with locked(options.out, "-o"):
        work(options, widths, budget, " ".join(argv))
    return 0


if __name__ == "__main__":
    main()
