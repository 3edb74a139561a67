"""A published tiny autoencoder: photographs encoded and decoded, the decoder in float and 8 bits.

    python tests/bench/bench_taesd.py FOLDER --data REALSR [--limit N]

FOLDER has taesd_encoder.safetensors and taesd_decoder.safetensors. PSNR is of RGB in 8 bits, and to
the originals of luma as well (PSNR-Y), the mean over the photographs. Ranges are calibrated on the
photographs that come with scikit-image. Nothing is asserted.
"""

import argparse
import copy
from pathlib import Path

import torch
from rows import add_json, write_rows

from compress.core.errors import command
from compress.core.memory import keep_freed_memory
from compress.data.config import Calibration
from compress.model.calls import CLEAN_LATENT, IMAGE, LATENT, LR, Call, Wiring, map_ratios
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.networks.tiny_autoencoder import TinyDecoder, TinyEncoder, read_tiny
from compress.passes.quantize import Quantize
from compress.process.straight import Straight
from eval.data.dataset import open_data
from eval.metric.scorer import Metrics

FACTOR = 8
CASES = (
    ("minmax", "compat"),
    ("passionsr", "compat"),
    ("minmax", "full"),
    ("passionsr", "full"),
)


def autoencoder(folder: Path) -> SRModel:
    """Encoder and decoder with nothing between; the image that goes in is the one that comes."""
    encoder, decoder = TinyEncoder(FACTOR), TinyDecoder()
    read_tiny(encoder, str(folder / "taesd_encoder.safetensors"), "FOLDER")
    read_tiny(decoder, str(folder / "taesd_decoder.safetensors"), "FOLDER")
    wiring = Wiring(
        (Call("encoder", (LR,), (LATENT,)), Call("decoder", (CLEAN_LATENT,), (IMAGE,))),
        map_ratios(1 / FACTOR, scale=1.0),
    )
    networks = {"encoder": encoder, "decoder": decoder}
    model = SRModel(
        networks, Straight((LATENT,)), wiring=wiring, colour_fix="none", multiple=FACTOR
    )
    return model.eval()


def quantised(model: SRModel, method: str, placement: str) -> SRModel:
    """The same with its decoder in 8 bits."""
    step = Quantize(
        method=method,
        placement=placement,
        components=("decoder",),
        calibration=Calibration(images=16, size=128),
    )
    twin = copy.deepcopy(model)
    step.convert(twin)
    step.fit(twin, FitContext(model))
    return twin.eval().requires_grad_(False)


@torch.no_grad()
def encoded(model: SRModel, images: list[torch.Tensor]) -> list[torch.Tensor]:
    """Their latents, which are the same for every decoder."""
    return [model.encoder(image) for image in images]


@torch.no_grad()
def decoded(model: SRModel, latents: list[torch.Tensor]) -> list[torch.Tensor]:
    """Images in 8 bits."""
    return [(model.decoder(latent).clamp(0, 1) * 255).round() / 255 for latent in latents]


def mean_score(
    images: list[torch.Tensor], others: list[torch.Tensor], metric: str = "psnr-rgb"
) -> float:
    """The mean of a metric over pairs."""
    judges = Metrics([metric])
    values = [judges.score(a, b)[0][metric] for a, b in zip(images, others, strict=True)]
    scores = [value for value in values if value is not None]
    return sum(scores) / len(scores)


@command
def main(argv: list[str]) -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", required=True, help="a folder with LR/ and HR/")
    parser.add_argument("--limit", type=int, help="only that many photographs")
    add_json(parser)
    arguments = parser.parse_args(argv)
    keep_freed_memory()
    pairs = open_data(arguments.data, limit=arguments.limit).pairs
    images = [pair.hr() for pair in pairs if pair.hr is not None]
    model = autoencoder(arguments.folder)
    latents = encoded(model, images)
    expected = decoded(model, latents)

    def report(method: str, placement: str, found: list[torch.Tensor]) -> dict:
        row = {
            "method": method,
            "placement": placement,
            "to_fp32_db": None if found is expected else mean_score(found, expected),
            "to_originals_db": mean_score(found, images),
            "to_originals_luma_db": mean_score(found, images, "psnr"),
            "images": len(images),
        }
        print(row, flush=True)
        return row

    rows = [report("float", "none", expected)]
    for method, placement in CASES:
        found = decoded(quantised(model, method, placement), latents)
        rows.append(report(method, placement, found))
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
