"""How much of the restored image every layer's quantisation costs, one layer at a time.

One layer's weights and input are on the grid, all others in float, and the decoded image is
compared with the float model's. Ranges are those that the quantize pass begins with. Transforms,
learning and error feedback are left out, so the ranking is for a layer as it comes.
"""

import math

import torch
from tqdm import tqdm

from compress.bits.probing import Stages, prepared, probed_layers, probing, swapped
from compress.bits.progress import Progress
from compress.bits.subject import Subject
from compress.bits.widths import everywhere, name_of
from compress.passes.quantize import Quantize, Width
from compress.training.losses import lpips

LEAST_ERROR = 1e-12  # mean square error below which images count as equal: 120 dB


class Metrics:
    """Distance of restored images to the float model's.

    It is the mean square error, and LPIPS where its weights are given.
    """

    def __init__(self, reference: list[torch.Tensor], weights: str | None):
        """Compare with `reference`, images [1, 3, H, W] in [0, 1].

        Args:
            reference: What the float model restores.
            weights: A file with the weights of LPIPS (SqueezeNet).

        Raises:
            UserError: The file cannot be read.
        """
        self.reference = reference
        self.perceptual = lpips(weights) if weights else None

    @torch.no_grad()
    def __call__(self, images: list[torch.Tensor]) -> dict[str, float]:
        """ "mse", "psnr" in dB and, where it is measured, "lpips"; means over the images."""
        pairs = list(zip(images, self.reference, strict=True))
        mse = sum((a - b).square().mean().item() for a, b in pairs) / len(pairs)
        scores = {"mse": mse, "psnr": decibels(mse)}
        if self.perceptual is not None:
            distance = sum(self.perceptual(a, b).mean().item() for a, b in pairs)
            scores["lpips"] = distance / len(pairs)
        return scores


def decibels(mse: float) -> float:
    """PSNR in dB of images in [0, 1] with this mean square error."""
    return -10 * math.log10(max(mse, LEAST_ERROR))


def measure_layers(
    subject: Subject,
    images: list[torch.Tensor],
    widths: list[Width],
    progress: Progress,
    others: str = "float",
    weights: str | None = None,
) -> list[dict]:
    """A row {layer, width, mse, psnr, lpips?} for every layer at every width.

    Args:
        subject: What is measured.
        images: Low-resolution images [1, 3, h, w] in [0, 1].
        widths: Bits of the one layer.
        progress: Finished rows come from it, new ones go to it.
        others: What all other layers are: "float", or as the "recipe" has them.
        weights: A file with the weights of LPIPS, to measure that as well.
    """
    base = Stages(subject.model, images)
    step = probing(subject.step)
    layers = probed_layers(step, subject.model)
    metrics = Metrics(base.restored, weights)
    rows = progress.read()
    done = {(row["layer"], row["width"]) for row in rows}
    stages = base
    if others == "recipe":
        # Everything in front of a component is that of the recipe as well.
        stages = Stages(prepared(step, subject.model, base), images)
    with tqdm(total=len(layers) * len(widths), desc="sensitivity") as bar:
        for width in widths:
            missing = [layer for layer in layers if (layer, name_of(width)) not in done]
            bar.update(len(layers) - len(missing))
            if not missing:
                continue
            probe = prepared(everywhere(step, width), subject.model, base)
            for layer in missing:
                with swapped(stages.model, layer, probe.get_submodule(layer)):
                    scores = metrics(stages.restore(layer.partition(".")[0]))
                row = {"layer": layer, "width": name_of(width), **scores}
                progress.add(row)
                rows.append(row)
                bar.update()
                bar.set_postfix(psnr=f"{scores['psnr']:.1f}", refresh=False)
    order = {layer: number for number, layer in enumerate(layers)}
    return sorted(rows, key=lambda row: (order[row["layer"]], -row["mse"]))


def measure_together(
    subject: Subject, images: list[torch.Tensor], step: Quantize, weights: str | None
) -> dict[str, float]:
    """The metrics with all layers of `step` quantised at once; ranges as begun, nothing learned.

    Args:
        subject: What is measured.
        images: Low-resolution images [1, 3, h, w] in [0, 1].
        step: The quantize pass with its widths.
        weights: A file with the weights of LPIPS, to measure that as well.
    """
    base = Stages(subject.model, images)
    twin = prepared(probing(step), subject.model, base)
    return Metrics(base.restored, weights)(Stages(twin, images).restored)
