"""Counts the networks whose latency on phones is published: compress/assets/phone_networks.csv.

    python tests/bench/phone_networks.py > compress/assets/phone_networks.csv

Real-ESRGAN's two networks are written here after arXiv 2107.10833 and their published sizes: 16.7M
and 1.21M parameters. All is counted on meta tensors at 128x128 -> 512x512; SD 2.1 is at 64x64
latents and 77 tokens.
"""

import csv
import sys

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.errors import command
from compress.cost.count import measure, measure_module
from compress.cost.operators import COUNTS, counts
from compress.families.osediff import OSEDiffSource


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees all maps before it."""

    def __init__(self, width: int = 64, growth: int = 32):
        super().__init__()
        outputs = [growth] * 4 + [width]
        self.convs = nn.ModuleList(
            nn.Conv2d(width + i * growth, out, 3, padding=1) for i, out in enumerate(outputs)
        )
        self.act = nn.LeakyReLU(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = [x]
        for conv in self.convs[:-1]:
            maps.append(self.act(conv(torch.cat(maps, 1))))
        return x + 0.2 * self.convs[-1](torch.cat(maps, 1))


class RRDBNet(nn.Module):
    """Real-ESRGAN x4plus: 23 blocks of three dense blocks, two doublings."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(DenseBlock(), DenseBlock(), DenseBlock()) for _ in range(23)
        )
        self.after = nn.Conv2d(64, 64, 3, padding=1)
        self.ups = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1) for _ in range(3))
        self.act = nn.LeakyReLU(0.2)
        self.last = nn.Conv2d(64, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x = self.first(x)
        for block in self.body:
            x = x + 0.2 * block(x)
        x = first + self.after(x)
        for conv in self.ups[:2]:
            x = self.act(conv(F.interpolate(x, scale_factor=2.0)))
        return self.last(self.act(self.ups[2](x)))


def compact() -> nn.Module:
    """realesr-general-x4v3: 34 convolutions of 64 channels at the small size, a pixel shuffle."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.PReLU(64)]
    for _ in range(32):
        layers += [nn.Conv2d(64, 64, 3, padding=1), nn.PReLU(64)]
    return nn.Sequential(*layers, nn.Conv2d(64, 48, 3, padding=1), nn.PixelShuffle(4))


@command
def main(argv: list[str]) -> int:
    """Print the table."""
    with torch.device("meta"):
        networks = {"Real-ESRGAN x4plus": RRDBNet(), "realesr-general-x4v3": compact()}
    image = torch.empty(1, 3, 128, 128, device="meta")
    table = {
        name: counts(measure_module(network, image, name="network"))
        for name, network in networks.items()
    }
    whole = measure(OSEDiffSource(size="sd21").build(), (128, 128))
    table["SD 2.1 UNet"] = counts(whole.component("denoiser"))
    table["SD 2.1 VAE decoder"] = counts(whole.component("decoder"))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["network", *COUNTS])
    params = {
        name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()
    }
    for name, row in table.items():
        part = {"SD 2.1 UNet": "denoiser", "SD 2.1 VAE decoder": "decoder"}.get(name)
        count = params[name] if part is None else whole.component(part).params
        writer.writerow([name, count, *(row[key] for key in COUNTS)])
    return 0


if __name__ == "__main__":
    main()
