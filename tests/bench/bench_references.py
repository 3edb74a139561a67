"""A model that refers to photographs: with true references, foreign ones, and none.

    python tests/bench/bench_references.py RUN|MODEL --data HR --lr LR --lpips-weights FILE

The target is the upper left quarter of each pair. True references are patches of the rest of the
same photograph: other crops of the scene, which share no pixel with the target. Foreign ones are
patches of the next photograph. Of either those most like the enlarged small image are taken, as
`compress.upscale --references` does; the original is never asked. `leak` has the target itself as
reference: an upper bound, and no result.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from rows import add_json, write_rows
from torch import nn

from compress.core.errors import UserError
from compress.core.image import list_images, read_image
from compress.data.references import embedded, places
from compress.data.retrieval import best_patches
from compress.data.scenes import is_apart
from compress.model.references import references_of, remember
from compress.model.sr_model import SCALE, SRModel
from compress.process.resample import upsample
from compress.recipe.checkpoint import load_model
from compress.routing.comparing import psnr
from compress.training.losses import lpips

STRIDE_PATCHES = 256  # of a photograph that are looked at, at most
Patches = list[torch.Tensor]


class Pair:
    """A small image and its original, cut, and patches of the rest of the original.

    Args:
        lr: File of the small image.
        hr: File of its original.
        size: Height and width of a reference.
        multiple: Sides of the target are multiples of it, in small pixels.
    """

    def __init__(self, lr: Path, hr: Path, size: tuple[int, int], multiple: int):
        small, large = read_image(lr), read_image(hr)
        side = min(small.shape[-2:]) // 2 // multiple * multiple
        self.lr, self.hr = small[..., :side, :side], large[..., : SCALE * side, : SCALE * side]
        at = places(large.shape[-2], large.shape[-1], size, STRIDE_PATCHES)
        self.inside, self.outside = [], []
        for top, left in at:
            patch = large[..., top : top + size[0], left : left + size[1]]
            if is_apart((0, 0), SCALE * side, (top, left), size[0]):
                self.outside.append(patch)
            elif top + size[0] <= SCALE * side and left + size[1] <= SCALE * side:
                self.inside.append(patch)


def most_alike(model: SRModel, lr: torch.Tensor, patches: Patches, count: int) -> Patches:
    """Those of the patches that are most like a small image."""
    height, width = references_of(model, "bench").size
    large = upsample(lr).clamp(0, 1)
    queries = [
        large[..., top : top + height, left : left + width]
        for top, left in places(large.shape[-2], large.shape[-1], (height, width), 16)
    ]
    bank = embedded(model, torch.cat(patches))
    best: dict[int, float] = {}
    for query in embedded(model, torch.cat(queries)):
        for _, patch, similarity in best_patches(query, [bank], [0], count):
            best[patch] = max(similarity, best.get(patch, -1.0))
    order = sorted(best, key=lambda patch: (-best[patch], patch))
    return [patches[patch] for patch in order[:count]]


def ways(counts: list[int]) -> dict[str, tuple[str, int]]:
    """The name of a row -> which patches, and how many."""
    found = {"none": ("none", 0)}
    for kind in ("true", "foreign"):
        found |= {f"{kind}, {count}": (kind, count) for count in counts}
    return {**found, f"leak, {counts[-1]}": ("leak", counts[-1])}


@torch.no_grad()
def measured(
    model: SRModel, pairs: list[Pair], counts: list[int], distance: Callable | nn.Module
) -> list[dict]:
    """A row for each way: means over the pairs."""
    sums = {way: [0.0, 0.0] for way in ways(counts)}
    for index, pair in enumerate(pairs):
        of = {
            "none": [],
            "true": pair.outside,
            "foreign": pairs[(index + 1) % len(pairs)].outside,
            "leak": pair.inside,
        }
        for way, (kind, count) in ways(counts).items():
            taken = most_alike(model, pair.lr, of[kind], count) if count else []
            image = model(pair.lr, images=remember(model, taken))
            sums[way][0] += psnr(image, pair.hr)
            sums[way][1] += distance(image, pair.hr).item()
    none = sums["none"]
    rows = []
    for way, (db, far) in sums.items():
        rows.append(
            {
                "references": way,
                "psnr": db / len(pairs),
                "lpips": far / len(pairs),
                "psnr_more": (db - none[0]) / len(pairs),
                "lpips_more": (far - none[1]) / len(pairs),
            }
        )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True, help="originals")
    parser.add_argument("--lr", type=Path, required=True, help="small images of the same names")
    parser.add_argument("--lpips-weights", required=True)
    parser.add_argument("--limit", type=int, help="of pairs")
    parser.add_argument("--counts", default="1,2,4", help="numbers of references")
    add_json(parser)
    options = parser.parse_args()
    model = load_model(options.model)
    references = references_of(model, "bench")
    counts = [int(word) for word in options.counts.split(",")]
    if max(counts) > references.count:
        raise UserError(f"--counts: this model has places for {references.count}")
    small, large = list_images(options.lr), list_images(options.data)
    files = list(zip(small, large, strict=True))[: options.limit]
    pairs = [Pair(lr, hr, references.size, model.multiple) for lr, hr in files]
    rows = measured(model, pairs, counts, lpips(options.lpips_weights, "squeeze"))
    print(f"{'references':<14}{'PSNR':>8}{'LPIPS':>9}{'PSNR +':>9}{'LPIPS +':>10}")
    for row in rows:
        print(
            f"{row['references']:<14}{row['psnr']:8.3f}{row['lpips']:9.4f}{row['psnr_more']:+9.3f}"
            f"{row['lpips_more']:+10.4f}"
        )
    write_rows(options.json, rows)


if __name__ == "__main__":
    main()
