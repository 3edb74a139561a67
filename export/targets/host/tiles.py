"""A photograph of any size through the graphs: tiles, what happens between the networks, one colour correction."""

import numpy as np

from .arithmetic import FIXES, reflect
from .runtimes import Graph


def clean_latent(factors: dict, latent: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """latent * a + prediction * b; where a is 0, the two may differ in their channels."""
    clean = factors["prediction"] * prediction
    return (clean + factors["latent"] * latent if factors["latent"] else clean).astype(np.float32)


def chain(manifest: dict, graphs: dict[str, Graph], lr: np.ndarray) -> np.ndarray:
    """One tile [1, 3, h, w] in [0, 1] -> [1, 3, 4h, 4w]: all in one graph, or encoder, denoiser and decoder."""
    if "model" in graphs:
        return graphs["model"](lr)
    latent = graphs["encoder"](lr)
    return graphs["decoder"](clean_latent(manifest["host"]["clean_latent"], latent, graphs["denoiser"](latent)))


def weights(side: int) -> np.ndarray:
    x = (np.arange(side) - (side - 1) / 2) / side
    return np.exp(-(x**2) / 0.02)


def upscale(manifest: dict, graphs: dict[str, Graph], lr: np.ndarray) -> np.ndarray:
    """[1, 3, h, w] in [0, 1] of any size -> [1, 3, 4h, 4w]: Gaussian-weighted tiles, then one colour correction."""
    host, scale = manifest["host"], manifest["scale"]
    (height, width), align, tile = lr.shape[2:], host["align"], list(manifest["lr_size"])
    if manifest["dynamic"]:  # a small image need not fill a tile
        tile = [min(t, max(host["smallest"], -(-side // align) * align))
                for t, side in zip(tile, (height, width), strict=True)]
    step = [max(align, (t - min(host["overlap"], t // 2)) // align * align) for t in tile]
    count = [max(0, -(-(side - t) // s)) + 1 for side, t, s in zip((height, width), tile, step, strict=True)]
    wanted = [t + (n - 1) * s for t, n, s in zip(tile, count, step, strict=True)]
    padded = reflect(lr, wanted[0] - height, wanted[1] - width)
    total = np.zeros((1, 3, wanted[0] * scale, wanted[1] * scale))
    shares = np.zeros((1, 1, *total.shape[2:]))
    weight = np.outer(weights(tile[0] * scale), weights(tile[1] * scale))
    for row in range(count[0]):
        for column in range(count[1]):
            top, left = row * step[0], column * step[1]
            piece = chain(manifest, graphs, np.ascontiguousarray(padded[:, :, top:top + tile[0], left:left + tile[1]]))
            area = (..., slice(top * scale, (top + tile[0]) * scale), slice(left * scale, (left + tile[1]) * scale))
            total[area] += piece * weight
            shares[area] += weight
    image = (total / shares)[:, :, :height * scale, :width * scale].astype(np.float32)
    alone = count == [1, 1] and wanted == [height, width]
    if "model" not in graphs or not alone:  # model.* corrects its own tile already, which is not the image
        image = FIXES[host["colour_fix"] if count == [1, 1] else host["colour_fix_of_tiles"]](image, lr, scale)
    return image.clip(0, 1).astype(np.float32)


def chosen(manifest: dict, wanted: str | None) -> list[str]:
    """The graphs to run: the parts where they are all there, because one colour correction then serves all tiles."""
    parts = [name for name in ("encoder", "denoiser", "decoder") if name in manifest["graphs"]]
    if wanted == "model" or (wanted is None and len(parts) < 3):
        if "model" not in manifest["graphs"]:
            raise SystemExit(f"error: this folder holds {', '.join(manifest['graphs'])}, which is no whole model; export "
                             "it again without --component")
        return ["model"]
    return parts
