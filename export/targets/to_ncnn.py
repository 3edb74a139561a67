"""ncnn: <stem>.ncnn.param and .bin by pnnx, with float32 or float16 weights."""

import copy
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.errors import UserError
from compress.networks.vq_autoencoder import Codebook
from export.targets.hush import hushed
from export.targets.parts import Exported, Options, Parts, example, float_model


class SharpSearch(nn.Module):
    """A codebook's search without an index, which ncnn has not: softmax over the distances, so steep that all weight lies on
    the nearest code. Codes nearer to each other than float32 can tell are averaged. [B, C, h, w] -> the same."""

    STEEP = 1e3  # twice: one factor of 1e6 would itself be infinite in float16, and 0 times that no number

    def __init__(self, codebook: Codebook):
        super().__init__()
        self.register_buffer("codes", codebook.embedding.weight.detach())

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        _, channels, height, width = latent.shape
        x = latent.reshape(channels, height * width).transpose(0, 1)
        distance = F.linear(x, -2 * self.codes, self.codes.square().sum(dim=1))
        # From the least on: in float16 the rest may become infinite, and the softmax of that is zero.
        weight = (
            (distance.amin(dim=1, keepdim=True) - distance) * self.STEEP * self.STEEP
        ).softmax(dim=1)
        return F.linear(weight, self.codes.t()).transpose(0, 1).reshape(1, channels, height, width)


def searchable(module: nn.Module) -> nn.Module:
    """`module` with a SharpSearch for every codebook."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Codebook):
                setattr(parent, name, SharpSearch(child))
    return module


def convert(module: torch.nn.Module, x: torch.Tensor, scratch: Path, stem: str, dtype: str) -> None:
    """Run pnnx in `scratch`. Raises UserError where it does not write the two files that ncnn loads, or
    writes operators that ncnn has not."""
    import pnnx

    with hushed() as report:
        pnnx.export(module, str(scratch / f"{stem}.pt"), (x,), fp16=dtype == "fp16")
        report.seek(0)
        said = report.read().decode(errors="replace").strip().splitlines()
    for name in (f"{stem}.ncnn.param", f"{stem}.ncnn.bin"):
        if not (scratch / name).is_file():
            raise UserError(
                f"{stem}: pnnx wrote no {name} and said: {said[-1] if said else 'nothing'}; choose another "
                "target, or export other components"
            )
    left = unknown(scratch / f"{stem}.ncnn.param")
    if left:
        raise UserError(f"{stem}: ncnn has no layer for {', '.join(left)}; choose another target")


def unknown(param: Path) -> list[str]:
    """The operators that pnnx left under torch's names, such as torch.argmin, because ncnn has none for them."""
    kinds = [
        line.split()[0]
        for line in param.read_text(encoding="utf-8").splitlines()[2:]
        if line.strip()
    ]
    return sorted({kind for kind in kinds if "." in kind})


@torch.no_grad()
def write(parts: Parts, folder: Path, options: Options) -> Exported:
    float_model(parts)
    if options.rewrite:
        raise UserError(
            "rewrites work on ONNX graphs, and ncnn is made from torch; leave out --rewrite"
        )
    graphs = {}
    for stem in parts.stems:
        scratch = folder / f"{stem}_pnnx"
        scratch.mkdir()
        convert(searchable(parts.module(stem)), example(parts, stem), scratch, stem, parts.dtype)
        # pnnx writes a dozen files beside the two that ncnn loads.
        names = [f"{stem}.ncnn.param", f"{stem}.ncnn.bin"]
        for name in names:
            (scratch / name).replace(folder / name)
        shutil.rmtree(scratch)
        graphs[stem] = {
            "file": names[0],
            "weights": names[1],
            "format": "ncnn",
            # pnnx names a graph's ends itself
            "inputs": [{"name": "in0"}],
            "outputs": [{"name": "out0"}],
        }
    return Exported(graphs, ("ncnn", "pnnx"), {})
