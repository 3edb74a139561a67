"""Files for ncnn: <stem>.ncnn.param and .bin by pnnx, in float32, float16 or with int8 codes."""

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.errors import UserError
from compress.networks.vq_autoencoder import Codebook
from export.graphs.components import Tensors
from export.targets.contract import Exported, Parts
from export.targets.host.tiles import WHOLE
from export.targets.hush import hushed
from export.targets.ncnn_files import HEADER_LINES
from export.targets.ncnn_int8 import quantise
from export.targets.parts import check_no_packed_weights, check_no_rewrite

# As upscaler apps on ncnn call the ends of a network: Upscayl, RealSR-NCNN-Android and others.
APP_INPUT, APP_OUTPUT = "data", "output"


class SharpSearch(nn.Module):
    """A codebook's search without an index, which ncnn has not.

    It is a softmax over the distances, so steep that all weight lies on the nearest code. Codes
    nearer to each other than float32 can tell are averaged. [1, C, h, w] -> the same.
    """

    # Twice: one factor of 1e6 would itself be infinite in float16, and 0 times that no number.
    STEEP = 1e3
    codes: torch.Tensor

    def __init__(self, codebook: Codebook):
        super().__init__()
        self.register_buffer("codes", codebook.embedding.weight.detach())

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """The nearest code at every pixel."""
        _, channels, height, width = latent.shape
        x = latent.reshape(channels, height * width).transpose(0, 1)
        distance = F.linear(x, -2 * self.codes, self.codes.square().sum(dim=1))
        # From the least on: in float16 the rest may become infinite, and the softmax of that is 0.
        difference = distance.amin(dim=1, keepdim=True) - distance
        weight = (difference * self.STEEP * self.STEEP).softmax(dim=1)
        return F.linear(weight, self.codes.t()).transpose(0, 1).reshape(1, channels, height, width)


def searchable(module: nn.Module) -> nn.Module:
    """A copy of `module` with a SharpSearch for every codebook."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Codebook):
                setattr(parent, name, SharpSearch(child))
    return module


def convert(module: nn.Module, example: Tensors, scratch: Path, stem: str, dtype: str) -> None:
    """Run pnnx in the folder `scratch`.

    Args:
        module: What to convert.
        example: The inputs to trace it with.
        scratch: Gets <stem>.ncnn.param and <stem>.ncnn.bin, and a dozen other files.
        stem: Name of the graph.
        dtype: fp32 or fp16, of the weights.

    Raises:
        UserError: pnnx does not write the two files that ncnn loads, or writes operators that ncnn
            has not.
    """
    import pnnx

    with hushed() as report:
        pnnx.export(module, str(scratch / f"{stem}.pt"), example, fp16=dtype == "fp16")
        report.seek(0)
        lines = report.read().decode(errors="replace").strip().splitlines()
    for name in _file_names(stem):
        if not (scratch / name).is_file():
            raise UserError(
                f"{stem}: pnnx wrote no {name} and said: {lines[-1] if lines else 'nothing'}; "
                "choose another target, or export other components"
            )
    left = unknown(scratch / f"{stem}.ncnn.param")
    if left:
        raise UserError(f"{stem}: ncnn has no layer for {', '.join(left)}; choose another target")


def _file_names(stem: str) -> tuple[str, str]:
    return f"{stem}.ncnn.param", f"{stem}.ncnn.bin"


def unknown(param: Path) -> list[str]:
    """The operators that pnnx left under torch's names, such as torch.argmin.

    ncnn has none for them.
    """
    lines = param.read_text(encoding="utf-8").splitlines()[HEADER_LINES:]
    kinds = {line.split()[0] for line in lines if line.strip()}
    return sorted(kind for kind in kinds if "." in kind)


def rename_blobs(param: Path, names: dict[str, str]) -> None:
    """Give blobs of a .param file other names.

    A layer's line is: kind, name, number of inputs, number of outputs, their blobs, its parameters.

    Args:
        param: Is written anew.
        names: Old name -> new name.
    """
    lines = param.read_text(encoding="utf-8").splitlines()
    for index in range(HEADER_LINES, len(lines)):
        kind, name, inputs, outputs, *rest = lines[index].split()
        count = int(inputs) + int(outputs)
        blobs = [names.get(blob, blob) for blob in rest[:count]]
        lines[index] = " ".join((kind, name, inputs, outputs, *blobs, *rest[count:]))
    param.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _numbered(prefix: str, names: tuple[str, ...]) -> list[str]:
    return [f"{prefix}{number}" for number in range(len(names))]


@torch.no_grad()
def write(parts: Parts, folder: Path) -> Exported:
    """Convert every graph from torch by pnnx, and quantise the files where that is asked for."""
    check_no_packed_weights(parts)
    check_no_rewrite(parts, "ncnn")
    graphs: dict[str, dict[str, Any]] = {}
    for stem in parts.stems:
        scratch = folder / f"{stem}_pnnx"
        scratch.mkdir()
        module = searchable(parts.module(stem))
        convert(module, parts.example(stem), scratch, stem, parts.dtype)
        names = _file_names(stem)
        for name in names:
            (scratch / name).replace(folder / name)
        shutil.rmtree(scratch)
        # pnnx names a graph's ends itself.
        inputs = _numbered("in", parts.spec(stem).inputs)
        outputs = _numbered("out", parts.spec(stem).outputs)
        if stem == WHOLE and len(inputs) == len(outputs) == 1:
            rename_blobs(folder / names[0], {inputs[0]: APP_INPUT, outputs[0]: APP_OUTPUT})
            inputs, outputs = [APP_INPUT], [APP_OUTPUT]
        graphs[stem] = {
            "file": names[0],
            "weights": names[1],
            "format": "ncnn",
            "blobs": {"inputs": inputs, "outputs": outputs},
        }
        if parts.dtype == "w8a8":
            samples = [tuple(x.numpy() for x in given) for given in parts.tuples(stem)]
            graphs[stem]["quantised_layers"] = quantise(graphs[stem], folder, samples)
    return Exported(graphs, ("ncnn", "pnnx"), _what_codes_are(parts.dtype))


def _what_codes_are(dtype: str) -> dict[str, str]:
    """What the manifest says of the codes; nothing for floats."""
    if dtype != "w8a8":
        return {}
    return {
        "by": "this toolkit, least squared error",
        "weights": "int8, symmetric, per output channel",
        "activations": "int8, symmetric, per tensor",
        "placement": "convolutions but the first and the last; the rest, and what goes in and out, "
        "in float32",
    }
