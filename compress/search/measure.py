"""One point: planned, and refused beyond a bound; then compressed, looked at cheaply, measured."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from compress.core import folders
from compress.core.errors import UserError
from compress.core.locks import BusyError
from compress.core.quick_start import without_compiler
from compress.model.sr_model import SRModel
from compress.pipeline.evaluations import open_all
from compress.recipe.cache import PassCache
from compress.recipe.inputs import check_inputs
from compress.recipe.plan import plan
from compress.recipe.recipe import Recipe
from compress.recipe.run_passes import Compressed, compress
from compress.search.goals import broken, costs_of
from compress.search.proxy import WHOLE, is_hopeless
from compress.search.results import INFEASIBLE, MEASURED, PRUNED, Result, result
from compress.search.settings import Settings
from compress.search.space import Point
from eval.data.dataset import DataSet
from eval.metric.locating import locate
from eval.score.benchmark import evaluate
from eval.score.options import EvaluateOptions

_LOG = logging.getLogger(__name__)
LEAST_ERROR = 1e-10  # mean square error below which images count as equal: 100 dB


def metrics_of(recipe: Recipe, settings: Settings) -> list[str]:
    """The metrics that are measured: those of the objectives, and those of the recipe."""
    wanted = [one.name for one in settings.objectives if not one.is_cost]
    return list(dict.fromkeys([*wanted, *recipe.eval.metrics]))


def check(settings: Settings) -> None:
    """Look for what every point needs, at the recipe as it is where nothing varies yet.

    Raises:
        UserError: Data, calibration images or a metric of the objectives cannot be had.
    """
    space = settings.space
    first = next(space.points()) if space.is_finite() else {}
    recipe = settings.recipe_at(first)
    open_all(recipe)
    check_inputs(recipe.passes)
    wanted = [one.name for one in settings.objectives if not one.is_cost]
    blank = locate(wanted, recipe.eval.iqa_weights).blank if wanted else {}
    for name, why in blank.items():
        raise UserError(f"--objective {name} has no value here: {why}")
    if settings.proxy and not any(one.is_cost for one in settings.objectives):
        raise UserError(
            "--proxy compares points with those that cost no more; name a cost among --objective"
        )


@dataclass
class Measuring:
    """Measures the points of a study, one after the other.

    Attributes:
        settings: Of the study.
        folder: The study's, where long passes keep their checkpoints.
        cache: The folder of the pass cache.
        device: Where passes learn and models are measured.
    """

    settings: Settings
    folder: Path
    cache: Path
    device: torch.device
    seen: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def __call__(self, number: int, point: Point, earlier: list[Result]) -> Result:
        """What becomes of a point.

        Args:
            number: The point's.
            point: Its values.
            earlier: Of points of earlier batches, by which a hopeless one is known.

        Raises:
            UserError: The recipe's passes do not go together, or its data cannot be read.
        """
        recipe = self.settings.recipe_at(point)
        with without_compiler():
            costs = costs_of(
                plan(recipe, (self.settings.lr, self.settings.lr))[-1][1], self.settings.phone
            )
        excess, told = broken(self.settings.bounds, costs)
        if excess:
            return result(INFEASIBLE, told, costs=costs, excess=excess)
        torch.manual_seed(recipe.seed)
        with self._workdir(number) as workdir:
            done = compress(
                recipe, PassCache(self.cache, recipe.source, recipe.seed), self.device, workdir
            )
        data = open_all(recipe)[0]
        proxy = self._proxy(recipe, done, data)
        why = is_hopeless(self.settings.objectives, costs, proxy, earlier)
        if why:
            return result(PRUNED, why, costs=costs, proxy=proxy)
        options = EvaluateOptions(
            metrics_of(recipe, self.settings),
            recipe.eval.iqa_weights,
            device=str(self.device),
            progress=False,
        )
        found = evaluate(done.model, data, options)
        for image, trouble in found["problems"].items():
            _LOG.warning("point %d: %s is left out: %s", number, image, trouble)
        metrics = {name: found[name] for name in options.metrics}
        where = [found["data"], found["protocol"], found["images"]]
        return result(MEASURED, costs=costs, metrics=metrics, proxy=proxy, data=where)

    @contextmanager
    def _workdir(self, number: int) -> Iterator[Path]:
        """A folder for checkpoints, found again by whoever takes the point after this worker.

        A worker that was given up for lost may still be in it. Then this one gets its own.
        """
        base = self.folder / "work"
        base.mkdir(exist_ok=True)
        for name in (f"point_{number}", f"point_{number}_again", f"point_{number}_once_more"):
            try:
                with folders.occupied(base / name, "--study") as place:
                    yield place
                    shutil.rmtree(place)
                    return
            except BusyError:
                continue
        raise UserError(f"{base}: three other workers are at point {number}")

    def _proxy(self, recipe: Recipe, done: Compressed, data: DataSet) -> dict[str, float]:
        """PSNR in dB of the model's first images to the source's; empty where it is not wanted."""
        if not self.settings.proxy:
            return {}
        pairs = [pair for pair in data.pairs if pair.lr is not None][: self.settings.proxy]
        images = [pair.lr() for pair in pairs if pair.lr is not None]
        key = recipe.source.model_dump_json()
        if key not in self.seen:
            self.seen[key] = [_restored(done.source, image, self.device) for image in images]
        values = [
            _psnr(_restored(done.model, image, self.device), reference)
            for image, reference in zip(images, self.seen[key], strict=True)
        ]
        return {WHOLE: float(np.mean(values))}


def _restored(model: SRModel, image: torch.Tensor, device: torch.device) -> np.ndarray:
    """uint8 [4h, 4w, 3] of float [1, 3, h, w]."""
    with torch.inference_mode():
        return model.to(device).upscale_bytes(image.to(device))


def _psnr(first: np.ndarray, second: np.ndarray) -> float:
    """PSNR in dB of two images of 8 bits."""
    difference = first.astype(np.float64) / 255 - second.astype(np.float64) / 255
    return float(-10 * np.log10(max(np.square(difference).mean(), LEAST_ERROR)))
