"""What routing gave, as text for a terminal."""

from compress.routing.networks import PATHS
from compress.routing.router import Routed

LEAST_SHARE = 1e-9


def summary(routed: Routed) -> str:
    """Which way the tiles went, as a map of letters, and what it saved."""
    letters = [path[0] for path in routed.paths]
    counts = ", ".join(f"{count} {path}" for path, count in routed.shares().items())
    share = routed.macs / routed.macs_diffusion
    lines = [
        f"{len(letters)} tiles: {counts}; {routed.macs / 1e9:.2f} GMACs, {share:.3f} of the model "
        "on every tile"
    ]
    for first in range(0, len(letters), routed.columns):
        lines.append("  " + " ".join(letters[first : first + routed.columns]))
    return "\n".join(lines)


def table(figures: dict[str, dict[str, float]]) -> str:
    """The means of `compare`. MACs are paper MACs and their ratio is to the model on every tile."""
    lines = [
        f"{'':<12}{'GMACs':>9}{'of all':>8}{'PSNR':>8}{'LPIPS':>9}   "
        "tiles to bicubic, cnn, diffusion"
    ]
    for way, row in figures.items():
        lpips = f"{row['lpips']:9.4f}" if "lpips" in row else f"{'-':>9}"
        tiles = ", ".join(f"{row[path]:.1f}" for path in PATHS)
        lines.append(
            f"{way:<12}{row['gmacs']:9.2f}{row['macs']:8.3f}{row['psnr']:8.2f}{lpips}   {tiles}"
        )
    return "\n".join([*lines, _saving(figures["routed"], figures["diffusion"])])


def _saving(routed: dict[str, float], whole: dict[str, float]) -> str:
    """What routing saves, and what it costs."""
    fewer = 1 / max(routed["macs"], LEAST_SHARE)
    quality = ""
    if "lpips" in routed:
        quality = f" at {routed['lpips'] - whole['lpips']:+.4f} LPIPS"
    psnr = routed["psnr"] - whole["psnr"]
    return (
        f"routed: {fewer:.2f} x fewer MACs{quality} against the model on every tile, "
        f"PSNR {psnr:+.2f} dB"
    )


def training_report(figures: dict) -> str:
    """How a new router does on held-out tiles."""
    metric = figures["metric"]
    lines = []
    for path, mean in figures["mean"].items():
        tiles = figures["shares"][path]
        lines.append(f"  {path:<10} everywhere: {metric} {mean:.4f}; routed there: {tiles} tiles")
    explained = ", ".join(f"{path} {share:.2f}" for path, share in figures["explained"].items())
    lines += [
        f"  routed at threshold {figures['threshold']:.4f}: {figures['macs']:.3f} of the MACs, "
        f"{metric} worse by {figures['loss']:.4f} (by {figures['loss_if_perfect']:.4f} if every "
        "best path were known)",
        f"  explained variance of the gain: {explained}",
    ]
    return "\n".join(lines)
