"""What computes a photograph: torch, or the ONNX files of a run in onnxruntime.

A quantised model in torch is a simulation: floats that are rounded like integers. The files of
RUN/onnx compute the same several times faster. They run in tiles of the size that they were
exported for, by the program of an exported folder. `onnx_files` says when they are taken.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from compress.core.errors import UserError
from compress.model.sr_model import MARGIN, SRModel
from compress.photographs.further import Images, Size
from compress.pipeline.backend_names import BACKENDS
from compress.pipeline.onnx_files import UnusableError, VerifiedFiles, find_verified_files
from compress.recipe.checkpoint import load_model
from export.targets.host import tiles
from export.targets.host.chain import further_images
from export.targets.host.runtimes import load
from export.targets.host.strips import StripError


@dataclass(frozen=True)
class Backend:
    """A model that is ready to upscale.

    Attributes:
        name: One of BACKENDS, but "auto".
        upscale: Maps float32 [1, 3, h, w] in [0, 1], and the further images by their names, to
            uint8 [4h, 4w, 3].
        sentence: What computes it, and why.
        images: Height and width of the further images that the model takes, by their names.
    """

    name: str
    upscale: Callable[[np.ndarray, Images], np.ndarray]
    sentence: str
    images: Mapping[str, Size]


def choose_backend(
    path: str,
    requested: str = "auto",
    *,
    device: str = "cpu",
    needs_torch: str | None = None,
    prepare: Callable[[SRModel], None] | None = None,
) -> Backend:
    """What upscales photographs with the run or weight file `path`, loaded.

    Args:
        path: A run directory or a model.safetensors.
        requested: One of BACKENDS. `auto` takes onnxruntime where nothing is against it, else
            torch.
        device: torch's.
        needs_torch: An option of the user that only torch has, as in "--tile is".
        prepare: Called with the SRModel where torch is taken.

    Raises:
        UserError: `requested` is unknown, or is onnxruntime and cannot be; what `load_model`
            raises.
    """
    if requested not in BACKENDS:
        raise UserError(f"--backend '{requested}' is unknown; choose one of {', '.join(BACKENDS)}")
    if requested == "torch":
        return _torch(path, device, prepare, "as --backend asks")
    try:
        _check_options(device, needs_torch)
        return _onnxruntime(find_verified_files(Path(path)))
    except UnusableError as reason:
        if requested == "onnxruntime":
            raise UserError(
                f"--backend onnxruntime: {reason}; or leave --backend out, and torch computes it"
            ) from None
        return _torch(path, device, prepare, str(reason))


def _check_options(device: str, needs_torch: str | None) -> None:
    if needs_torch:
        raise UnusableError(f"{needs_torch} for torch only")
    if torch.device(device).type != "cpu":
        raise UnusableError(f"--device {device} is for torch only")


def _onnxruntime(files: VerifiedFiles) -> Backend:
    manifest = files.manifest
    graphs = load(files.folder, files.graphs)
    height, width = manifest["lr_size"]

    def upscale(lr: np.ndarray, images: Images) -> np.ndarray:
        try:
            return tiles.upscale_bytes(manifest, graphs, lr, images)
        except StripError as error:
            raise UserError(str(error)) from None

    return Backend(
        "onnxruntime",
        upscale,
        f"onnxruntime with {files.folder} ({manifest.get('dtype')}, tiles of {width}x{height}, "
        f"verified: {files.least_db:.1f} dB to torch at least); --backend torch for torch",
        further_images(manifest),
    )


def _torch(
    path: str, device: str, prepare: Callable[[SRModel], None] | None, reason: str
) -> Backend:
    model = load_model(path).to(device)
    # Without a margin the borders of a photograph show a frame (see Tiling).
    model.tiling = replace(model.tiling, margin=model.tiling.margin or MARGIN)
    if prepare is not None:
        prepare(model)

    def upscale(lr: np.ndarray, images: Images) -> np.ndarray:
        others = {name: torch.from_numpy(image).to(device) for name, image in images.items()}
        return model.upscale_bytes(torch.from_numpy(lr).to(device), images=others)

    return Backend("torch", upscale, f"torch on {device}: {reason}", model.wiring.images)
