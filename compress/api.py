"""The toolkit from Python: six functions that take paths or objects and return objects.

    from compress.api import compress, export, load, upscale

    done = compress("passionsr_w8a8")
    pixels = upscale(done.model, "photo.jpg")
    export(done.model, "phone", target="qnn", dtype="w8a8")

Mistakes raise `compress.core.errors.UserError`, whose text is what the commands print.
"""

import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from compress.core.arguments import usable_device
from compress.core.errors import UserError
from compress.core.hub_config import with_local_files
from compress.core.identity import default_root
from compress.model.sr_model import SCALE, SRModel
from compress.pipeline.photograph import Photograph, as_tensor
from compress.process.knobs import NOISE, OUTPUTS, STEPS
from compress.process.strength import FULL, blended, is_strength
from compress.recipe.cache import PassCache
from compress.recipe.checkpoint import load_model
from compress.recipe.plan import plan
from compress.recipe.recipe import Recipe, load_recipe
from compress.recipe.run_files import read_ledger
from compress.recipe.run_passes import Compressed
from compress.recipe.run_passes import compress as run_passes
from compress.routing.knobs import turned

if TYPE_CHECKING:
    from eval.data.folders import DataSpec

_LOG = logging.getLogger(__name__)

__all__ = ["Compressed", "compress", "evaluate", "export", "load", "push", "upscale"]


def load(model: str | Path) -> SRModel:
    """A saved model, on the CPU, in evaluation mode, without gradients.

    Args:
        model: A run directory, a `model.safetensors` of this toolkit, or the name of a repository
            of the hub that holds one, `org/name[@revision][:subfolder]`.

    Raises:
        UserError: Nothing is there, or the file is damaged or of another program.
    """
    return load_model(model)


def compress(
    recipe: str | Path | Recipe,
    overrides: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    device: str = "cpu",
    cache: str | Path | None = None,
) -> Compressed:
    """Compress a model by a recipe.

    Args:
        recipe: A YAML file, the name of a shipped recipe such as `passionsr_w8a8`, or a Recipe.
        overrides: As on the command line, such as `["source.size=sd21", "passes.1.weights=6"]`.
        out: A run directory to make, with exported files, evaluation and report, as `python -m
            compress.run` does. An unfinished one is completed. An exported target that does not
            agree with torch is a warning in the log. None writes no directory: passes that are
            finished are kept in the cache, and one that is killed begins again.
        device: Where passes learn, such as `cuda:0`.
        cache: The folder of the pass cache; None for the user's own.

    Returns:
        The source, the compressed model, figures of every pass, and the costs.

    Raises:
        UserError: The recipe, its weights, its data or `out` cannot be used.
    """
    if isinstance(recipe, Recipe):
        if overrides:
            raise UserError("overrides are for a recipe file; change the Recipe itself")
        parsed = recipe
    else:
        parsed = load_recipe(recipe, list(overrides))
    root = default_root() if cache is None else Path(cache)
    where = torch.device(usable_device(device))
    torch.manual_seed(parsed.seed)
    if out is None:
        passes = PassCache(root, parsed.source, parsed.seed)
        # Of its own: a checkpoint that a killed call left could be another recipe's.
        with tempfile.TemporaryDirectory() as workdir:
            return run_passes(parsed, passes, where, Path(workdir))

    from compress.pipeline.exports import failed_exports
    from compress.pipeline.runner import Runner

    folder = Path(out)
    Runner(parsed, folder, cache=root, device=where, resume=True, overwrite=False)()
    problem = failed_exports(parsed, folder)
    if problem:
        _LOG.warning(problem)
    source = parsed.source.build()
    with_local_files(parsed.source).load(source)
    return Compressed(source, load(folder), read_ledger(folder)["passes"], plan(parsed))


def upscale(
    model: SRModel | str | Path,
    photograph: Photograph,
    images: Mapping[str, Photograph] | None = None,
    strength: float = FULL,
    references: Sequence[str | Path] = (),
    knob: str = OUTPUTS,
) -> np.ndarray:
    """A photograph four times as large.

    Args:
        model: From `load` or `compress`, or what `load` takes.
        photograph: A file, an RGB image of Pillow, uint8 [h, w, 3], or float [1, 3, h, w] or
            [3, h, w] in [0, 1]. Both sides at least 16 pixels.
        images: The further images of a model that takes some, by their names, in its sizes.
        strength: From 0, the plain enlargement, to 1, the model's whole result.
        references: For a model that takes them: photographs of like content and folders of some,
            whose patches most like the photograph are taken; one folder of folders, of which the
            one of the photograph's name is taken; or one file of `python -m compress.references`.
        knob: What the strength turns: `outputs`, a blend, or of the model's own `noise` or `steps`.

    Returns:
        uint8 [4h, 4w, 3].

    Raises:
        UserError: The model, the photograph, a further image, the strength or a reference cannot
            be used.
    """
    if not is_strength(strength):
        raise UserError(f"strength {strength:g}: choose a number from 0 to 1")
    network = model if isinstance(model, SRModel) else load(model)
    device = next(network.parameters()).device
    others = {name: as_tensor(image).to(device) for name, image in (images or {}).items()}
    lr = as_tensor(photograph)
    if references:
        others |= _keep(network, [Path(path) for path in references], photograph, lr)
    if knob == OUTPUTS:
        result = network.upscale_bytes(lr.to(device), images=others)
        return blended(result, lr[0].float().cpu().numpy(), strength, SCALE)
    if knob not in (NOISE, STEPS):
        raise UserError(f"knob '{knob}': choose {OUTPUTS}, {NOISE} or {STEPS}")
    with turned(network, knob, strength):
        return network.upscale_bytes(lr.to(device), images=others)


def _keep(
    model: SRModel, references: list[Path], photograph: Photograph, lr: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What a model is given of references: of those like `lr`, of its name's, or of one file."""
    from compress.data.referring import Referrer

    name = Path(photograph).stem if isinstance(photograph, str | Path) else ""
    return Referrer(model, references).of(name, lr).kept


def export(
    model: SRModel | str | Path, out: str | Path, target: str = "onnx", **options: Any
) -> Path:
    """Write a model for a runtime, with a manifest and a program that runs it, and verify it.

    Args:
        model: From `load` or `compress`, or what `load` takes.
        out: The folder to write. A finished export of ours there is replaced.
        target: onnx, web, qnn, tensorrt, openvino, executorch, litert, coreml or ncnn.
        **options: Fields of the export options, such as `dtype="w8a8"` or `lr_size=(128, 128)`.

    Returns:
        The folder.

    Raises:
        UserError: The target or an option cannot be used, or the files differ from torch by more
            than the target's threshold. The files are then in `OUT.failed`.
    """
    from compress.core.config import validate
    from compress.recipe.export_options import ExportOptions
    from export.parity.rows import failures
    from export.targets import export_folder

    chosen = validate(ExportOptions, {"target": target, **options}, "export")
    network = model if isinstance(model, SRModel) else load(model)
    folder = Path(out)
    with export_folder.claimed(folder, "out"):
        made = export_folder.export(network, folder, chosen)
        problem = failures(made.rows)
        final = export_folder.finish(folder, problem)
    if problem:
        raise UserError(f"{problem}; the files are in {final}")
    return final


def evaluate(
    model: SRModel | str | Path,
    data: "DataSpec | str | Path" = "embedded",
    metrics: Iterable[str] = ("psnr", "ssim"),
    **options: Any,
) -> dict[str, Any]:
    """Measure a model on a data set.

    Args:
        model: From `load` or `compress`, a run directory or model file, or a folder of pictures
            that were restored before.
        data: `embedded`, a folder with LR/ and HR/, or a published set as NAME=DIR; a DataSpec of
            eval.data.folders for two folders, a protocol or a name.
        metrics: Names that `python -m eval.run --help` lists.
        **options: Of `eval.score.options.EvaluateOptions`, such as `limit=10` or `iqa_weights=DIR`.

    Returns:
        The mean of each metric, or None with the reason under "blank"; "images", "problems".

    Raises:
        UserError: The data, a metric or its weights cannot be used.
    """
    from eval.score.benchmark import evaluate as measure
    from eval.score.options import EvaluateOptions

    chosen = EvaluateOptions(tuple(metrics), progress=False, **options)
    return measure(model, data, chosen)


def push(
    run: str | Path,
    name: str,
    *,
    private: bool | None = None,
    license: str | None = None,
    base_model: str | None = None,
    datasets: Sequence[str] = (),
    exports: bool = False,
) -> str:
    """Publish a finished run on the hub, with a card whose front matter is complete.

    Args:
        run: A run directory.
        name: The repository, `org/name`; it is made where there is none.
        private: Whether a new repository is shown to its owner alone; None as the owner's settings
            say.
        license: Its terms by the hub's name, such as `apache-2.0`; None as recorded of the source.
        base_model: The model of the hub that it was made from; None as recorded of the source.
        datasets: Data sets of the hub that it was made with, beside those that its recipe names.
        exports: Whether the folders of exported files go along.

    Returns:
        The address of the commit.

    Raises:
        UserError: It is no finished run, its terms are not known, or the hub takes nothing.
    """
    from eval.reporting.hub_card import Said
    from eval.reporting.pushing import push as publish

    said = Said(license, base_model, tuple(datasets))
    return publish(Path(run), name, said, private=private, exports=exports)
