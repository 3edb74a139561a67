"""A published tiny autoencoder: photographs encoded and decoded, the decoder in float and 8 bits.

    python tests/bench/bench_taesd.py FOLDER --data REALSR [--limit N]

FOLDER has taesd_encoder.safetensors and taesd_decoder.safetensors. PSNR is of RGB in 8 bits, the
mean over the photographs. Ranges are calibrated on the photographs that come with scikit-image.
Nothing is asserted.
"""

import argparse
import copy
import math
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
def restored(model: SRModel, images: list[torch.Tensor]) -> list[torch.Tensor]:
    """Images in 8 bits."""
    return [(model.network(image).clamp(0, 1) * 255).round() / 255 for image in images]


def mean_psnr(images: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    values = [
        -10 * math.log10(max((a - b).square().mean().item(), 1e-10))
        for a, b in zip(images, others, strict=True)
    ]
    return sum(values) / len(values)


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
    expected = restored(model, images)
    rows: list[dict] = [
        {
            "method": "float",
            "placement": "none",
            "to_fp32_db": None,
            "to_originals_db": mean_psnr(expected, images),
        }
    ]
    print(rows[-1], flush=True)
    for method, placement in CASES:
        found = restored(quantised(model, method, placement), images)
        rows.append(
            {
                "method": method,
                "placement": placement,
                "to_fp32_db": mean_psnr(found, expected),
                "to_originals_db": mean_psnr(found, images),
            }
        )
        print(rows[-1], flush=True)
    write_rows(arguments.json, [row | {"images": len(images)} for row in rows])


if __name__ == "__main__":
    main()
