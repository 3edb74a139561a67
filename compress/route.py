"""Send each tile of a large photograph the cheapest way that is good enough: train and judge a router for a model.

python -m compress.route train MODEL --data DIR... --lpips-weights FILE -o router.safetensors
python -m compress.route eval MODEL router.safetensors --data DIR --lpips-weights FILE
python -m compress.upscale MODEL IMAGE --route router.safetensors [--budget 0.4]
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from compress.core import folders
from compress.core.arguments import default_device, usable_device, usable_seed
from compress.core.errors import UserError, command
from compress.core.files import MADE_BY, check_file, check_weights, write_text
from compress.core.image import list_images, read_image
from compress.data.degradation import PRESETS
from compress.model.sr_model import SCALE, SRModel
from compress.recipe.checkpoint import dump, load_model, read_header
from compress.routing.router import PATHS, Routed, Router
from compress.routing.training import RouterConfig, train_router
from compress.training import losses
from compress.training.stages import seeded_pair


def describe(path: str) -> str:
    """Source and passes of a model in one line, as a router keeps them."""
    source, passes = read_header(path)
    family = dump(source)
    return " + ".join(
        [f"{family['family']} {family.get('size', '')}".strip(), *(dump(p)["pass"] for p in passes)]
    )


def check_model(router: Router, path: str) -> None:
    """Say where a router was trained for another model: its predictions are of that one's gains."""
    if (own := describe(path)) != router.notes.get("model"):
        print(f"note: this router was trained for {router.notes.get('model')}, the model is {own}")


def train(options: argparse.Namespace) -> None:
    record = check_weights(options.out, "-o", [Path(options.model)])
    with folders.occupied(
        options.workdir or options.out.with_suffix(".work"), "--workdir"
    ) as workdir:
        train_in(workdir, options, record)


def train_in(workdir: Path, options: argparse.Namespace, record: Path) -> None:
    """Train with checkpoints in `workdir`, write the router and its `record`, and print how well it does."""
    config = RouterConfig(
        tuple(options.data),
        options.metric,
        options.lpips_weights,
        options.lpips_net,
        options.degradation,
        options.tiles,
        options.crop,
        options.cnn_steps,
        options.steps,
        options.batch,
        options.tolerance,
        options.seed,
    )
    model, router = load_model(options.model), Router(options.tile, options.overlap)
    figures = train_router(config, model, router, workdir, torch.device(options.device))
    figures["model"] = describe(options.model)
    router.notes = {"model": figures["model"], "metric": config.metric}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    router.save(options.out)
    write_text(record, json.dumps({"made_by": MADE_BY, **figures}, indent=1))
    print(
        f"{options.out} ({options.out.stat().st_size:,} bytes), on {figures['held_out']} held-out tiles:"
    )
    for path, mean in figures["mean"].items():
        print(
            f"  {path:<10} everywhere: {config.metric} {mean:.4f}; routed there: {figures['shares'][path]} tiles"
        )
    print(
        f"  routed at threshold {figures['threshold']:.4f}: {figures['macs']:.3f} of the MACs, {config.metric} worse "
        f"by {figures['loss']:.4f} (by {figures['loss_if_perfect']:.4f} if every best path were known)"
    )
    print(
        "  explained variance of the gain: "
        + ", ".join(f"{k} {v:.2f}" for k, v in figures["explained"].items())
    )


def pairs(options: argparse.Namespace) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """(name, lr, hr): photographs degraded by the toolkit, or with the partners of the same name in --lr."""
    found = []
    for number, path in enumerate(list_images(options.data)[: options.limit]):
        hr = read_image(path, convert=True)
        side = 4 * SCALE
        height, width = (min(n, options.side or n) // side * side for n in hr.shape[-2:])
        top, left = (hr.shape[-2] - height) // 2, (hr.shape[-1] - width) // 2
        if options.lr:
            lr = read_image(Path(options.lr) / path.name, convert=True)
            if any(SCALE * a != b for a, b in zip(lr.shape[-2:], hr.shape[-2:])):
                raise UserError(
                    f"{Path(options.lr) / path.name}: {lr.shape[-1]}x{lr.shape[-2]} pixels is no quarter "
                    f"of {path.name}'s {hr.shape[-1]}x{hr.shape[-2]}"
                )
            found.append((path.stem, lr, hr))
            continue
        hr = hr[..., top : top + height, left : left + width]
        found.append(
            (path.stem, seeded_pair(hr, PRESETS[options.degradation], options.seed, number), hr)
        )
    return found


@torch.no_grad()
def compare(
    model: SRModel,
    router: Router,
    data: list[tuple[str, torch.Tensor, torch.Tensor]],
    lpips: torch.nn.Module | None,
    **how,
) -> dict[str, dict]:
    """Way -> means over the images: every path everywhere, and `routed`, for which `how` goes to `Router.upscale`."""
    rows: dict[str, list[dict]] = {}
    for _, lr, hr in tqdm(data, desc="route eval"):
        kept: dict = {}
        for way in (*PATHS, "routed"):
            found = router.upscale(
                model, lr, kept=kept, **(how if way == "routed" else {"path": way})
            )
            row = {
                "gmacs": found.macs / 1e9,
                "macs": found.macs / found.macs_diffusion,
                "tiles": len(found.paths),
                "psnr": -10
                * float(torch.log10((found.image - hr).square().mean().clamp_min(1e-10))),
                **found.shares(),
            }
            if lpips is not None:
                row["lpips"] = lpips(found.image, hr).item()
            rows.setdefault(way, []).append(row)
    return {
        way: {key: float(np.mean([row[key] for row in found])) for key in found[0]}
        for way, found in rows.items()
    }


def table(figures: dict[str, dict]) -> str:
    """The means as text. MACs are paper MACs and their ratio is to the model on every tile."""
    lines = [
        f"{'':<12}{'GMACs':>9}{'of all':>8}{'PSNR':>8}{'LPIPS':>9}   tiles to bicubic, cnn, diffusion"
    ]
    for way, row in figures.items():
        lpips = f"{row['lpips']:9.4f}" if "lpips" in row else f"{'-':>9}"
        lines.append(
            f"{way:<12}{row['gmacs']:9.2f}{row['macs']:8.3f}{row['psnr']:8.2f}{lpips}   "
            + ", ".join(f"{row[p]:.1f}" for p in PATHS)
        )
    routed, whole = figures["routed"], figures["diffusion"]
    saving = f"routed: {1 / max(routed['macs'], 1e-9):.2f} x fewer MACs"
    if "lpips" in routed:
        saving += f" at {routed['lpips'] - whole['lpips']:+.4f} LPIPS"
    saving += f" against the model on every tile, PSNR {routed['psnr'] - whole['psnr']:+.2f} dB"
    return "\n".join([*lines, saving])


def evaluate(options: argparse.Namespace) -> None:
    if options.out:
        check_file(options.out, "-o", [Path(options.model), Path(options.router)])
    model, router = load_model(options.model), Router.load(options.router)
    check_model(router, options.model)
    lpips = (
        losses.lpips(options.lpips_weights, options.lpips_net) if options.lpips_weights else None
    )
    data = pairs(options)
    figures = compare(
        model, router, data, lpips, threshold=options.threshold, budget=options.budget
    )
    print(
        f"{len(data)} images, {'as they are' if options.lr else f'degraded ({options.degradation})'}, tiles of "
        f"{router.tile} at a stride of {router.tile - router.overlap}"
    )
    print(table(figures))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.out, json.dumps({"made_by": MADE_BY, **figures}, indent=1))


def add_choice(parser: argparse.ArgumentParser) -> None:
    """How much to save: shared with compress.upscale."""
    parser.add_argument(
        "--threshold",
        type=float,
        help="quality that a run of the model must bring, in LPIPS or in "
        "10 dB (default: the router's own)",
    )
    parser.add_argument(
        "--budget",
        type=float,
        help="instead: for each image a share of the MACs of the model on every tile",
    )


def check_choice(options: argparse.Namespace) -> None:
    if options.budget is not None and options.threshold is not None:
        raise UserError("--threshold and --budget exclude each other; give one")
    if getattr(options, "route", "given") is None and (
        options.budget is not None or options.threshold is not None
    ):
        raise UserError("--threshold and --budget are for routed tiles; add --route ROUTER")
    if getattr(options, "route", None) and getattr(options, "tile", None):
        raise UserError("--tile and --route exclude each other; a router has tiles of its own")


def summary(routed: Routed) -> str:
    """Which way the tiles went, as a map of letters, and what it saved."""
    letters = [path[0] for path in routed.paths]
    rows = [
        " ".join(letters[i : i + routed.columns]) for i in range(0, len(letters), routed.columns)
    ]
    counts = ", ".join(f"{count} {path}" for path, count in routed.shares().items())
    share = routed.macs / routed.macs_diffusion
    return "\n".join(
        [
            f"{len(letters)} tiles: {counts}; {routed.macs / 1e9:.2f} GMACs, {share:.3f} of the model on "
            "every tile",
            *(f"  {row}" for row in rows),
        ]
    )


@command
def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m compress.route", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--lpips-weights", help="a file with pyiqa's names")
    shared.add_argument("--lpips-net", default="squeeze", choices=("squeeze", "alex", "vgg"))
    shared.add_argument("--degradation", default="mild", choices=tuple(PRESETS))
    shared.add_argument("--seed", type=usable_seed, default=0)
    one = commands.add_parser(
        "train", parents=[shared], help="make a router on the model's own runs"
    )
    one.add_argument("model", help="a run directory or a model.safetensors")
    one.add_argument(
        "--data", nargs="+", required=True, help="folders of photographs, or 'embedded'"
    )
    one.add_argument("-o", "--out", type=Path, required=True, help="router.safetensors")
    one.add_argument(
        "--workdir",
        type=Path,
        help="checkpoints, for killed runs to go on (default: OUT with .work)",
    )
    one.add_argument("--metric", default="lpips", choices=("lpips", "psnr"))
    defaults = RouterConfig(())
    for name in ("tiles", "crop", "cnn_steps", "steps", "batch"):
        one.add_argument(
            f"--{name.replace('_', '-')}",
            type=int,
            default=getattr(defaults, name),
            metavar="N",
            help="default: %(default)s",
        )
    one.add_argument(
        "--tolerance",
        type=float,
        default=defaults.tolerance,
        help="loss of the metric that the default "
        "threshold may cost on held-out tiles (default: %(default)s)",
    )
    one.add_argument(
        "--tile", type=int, default=128, help="side of a tile in LR pixels (default: %(default)s)"
    )
    one.add_argument("--overlap", type=int, default=32)
    one.add_argument("--device", default=default_device(), type=usable_device)
    two = commands.add_parser(
        "eval", parents=[shared], help="routed against the model on every tile"
    )
    two.add_argument("model")
    two.add_argument("router")
    two.add_argument("--data", required=True, help="folder of original photographs")
    two.add_argument(
        "--lr", help="folder with their LR partners under the same names (default: degrade them)"
    )
    two.add_argument("--limit", type=int, help="only the first N images")
    two.add_argument("--side", type=int, help="centre crops of at most this side of the originals")
    two.add_argument("-o", "--out", type=Path, help="the figures as JSON")
    add_choice(two)
    options = parser.parse_args(argv)
    if options.command == "eval":
        check_choice(options)
    {"train": train, "eval": evaluate}[options.command](options)
    return 0


if __name__ == "__main__":
    main()
