"""One point: planned, and refused beyond a bound; then compressed, looked at cheaply, measured."""

import logging
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from compress.core import folders
from compress.core.errors import UserError
from compress.core.locks import BusyError
from compress.core.quick_start import without_compiler
from compress.model.passes import Watch
from compress.model.sr_model import SRModel
from compress.pipeline.evaluations import open_all
from compress.recipe.cache import PassCache
from compress.recipe.inputs import check_inputs
from compress.recipe.plan import plan_model
from compress.recipe.recipe import Recipe
from compress.recipe.run_passes import Compressed, compress
from compress.search.artefacts import Artefacts
from compress.search.goals import broken, costs_of
from compress.search.legal import Legality, check_lint
from compress.search.proxy import SHARES, WHOLE, is_hopeless
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
    if settings.lints:
        check_lint()
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
        artefacts: Where measured points are kept; None for nowhere.
    """

    settings: Settings
    folder: Path
    cache: Path
    device: torch.device
    artefacts: Artefacts | None = None
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
            model, rows = plan_model(recipe, (self.settings.lr, self.settings.lr))
        costs = costs_of(rows[-1][1], self.settings.phone)
        excess, told = broken(self.settings.bounds, costs)
        if not excess and self.settings.lints:
            legality = Legality(self.settings.lints, self.folder, self.settings.lr)
            excess, told = legality.judge(recipe, model)
        del model
        if excess:
            return result(INFEASIBLE, told, costs=costs, excess=excess)
        data = open_all(recipe)[0]
        looks = Looks(self, recipe, data, costs, earlier)
        try:
            done = self._compress(recipe, number, looks)
            looks.at_the_end(done)
        except HopelessError as hopeless:
            return result(PRUNED, str(hopeless), costs=costs, proxy=looks.proxy)
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
        measured = result(MEASURED, costs=costs, metrics=metrics, proxy=looks.proxy, data=where)
        if self.artefacts is not None:
            self.artefacts.keep(number, recipe, done.model.cpu(), measured)
        return measured

    def _compress(self, recipe: Recipe, number: int, looks: "Looks") -> Compressed:
        """Run the passes, as far as no point before had the same ones."""
        torch.manual_seed(recipe.seed)
        cache = PassCache(self.cache, recipe.source, recipe.seed)
        watch = looks.watch if self.settings.proxy else None
        with self._workdir(number) as workdir:
            return compress(recipe, cache, self.device, workdir, watch)

    @contextmanager
    def _workdir(self, number: int) -> Iterator[Path]:
        """A folder for checkpoints, found again by whoever takes the point after this worker.

        A worker that was given up for lost may still be in it. Then this one gets its own.
        """
        base = self.folder / "work"
        base.mkdir(exist_ok=True)
        with ExitStack() as held:
            try:
                place = held.enter_context(folders.occupied(base / f"point_{number}", "--study"))
            except BusyError:
                own = base / f"point_{number}_of_{platform.node()}_{os.getpid()}"
                place = held.enter_context(folders.occupied(own, "--study"))
            yield place
            shutil.rmtree(place)

    def restored(self, model: SRModel, image: torch.Tensor) -> np.ndarray:
        """uint8 [4h, 4w, 3] of float [1, 3, h, w]."""
        with torch.inference_mode():
            return model.to(self.device).upscale_bytes(image.to(self.device))

    def of_source(self, recipe: Recipe, images: list[torch.Tensor]) -> list[np.ndarray]:
        """What the source makes of images, kept for the next point."""
        key = recipe.source.model_dump_json()
        if key not in self.seen:
            source = recipe.source.build()
            recipe.source.load(source)
            self.seen[key] = [self.restored(source, image) for image in images]
        return self.seen[key]


class HopelessError(Exception):
    """A point is given up; says why."""


class Looks:
    """The cheap figure of one point: while its passes train, and at the end.

    What a pass from the cache was seen to be while it trained counts as if it were seen here. So a
    point is given up or not whatever the cache holds.

    Args:
        measuring: Has the study's settings and what its sources make of the images.
        recipe: Of the point.
        data: Its first images are looked at.
        costs: Of the point.
        earlier: Results of points of earlier batches.
    """

    def __init__(
        self,
        measuring: Measuring,
        recipe: Recipe,
        data: DataSet,
        costs: dict[str, float],
        earlier: list[Result],
    ):
        self.measuring = measuring
        self.recipe = recipe
        self.costs = costs
        self.earlier = earlier
        self.proxy: dict[str, float] = {}
        count = measuring.settings.proxy
        pairs = [pair for pair in data.pairs if pair.lr is not None][:count]
        self.images = [pair.lr() for pair in pairs if pair.lr is not None]
        self.name = f"PSNR to the source, {data.name}, {count}"

    def watch(self, index: int) -> Watch:
        """The look at a model that pass number `index` trains, from 0 on.

        It raises HopelessError where the training is to end.
        """

        def look(model: SRModel, share: float) -> float:
            value = self._figure(model)
            self._keep(f"pass {index} at {share:.3f}", value)
            return value

        return Watch(self.name, SHARES, look)

    def at_the_end(self, done: Compressed) -> None:
        """The figure of the whole. Raises HopelessError where it is not worth measuring."""
        if not self.measuring.settings.proxy:
            return
        for index, entry in enumerate(done.entries):
            watched = (entry.get("figures") or {}).get("watched")
            if watched is None or watched["name"] != self.name:
                continue
            for share, value in watched["values"].items():
                self._keep(f"pass {index} at {share}", value)
        self._keep(WHOLE, self._figure(done.model))

    def _keep(self, key: str, value: float) -> None:
        self.proxy[key] = value
        wanted = self.measuring.settings.objectives
        why = is_hopeless(wanted, self.costs, {key: value}, self.earlier)
        if why:
            raise HopelessError(why)

    def _figure(self, model: SRModel) -> float:
        """PSNR in dB of the model's images to the source's, their mean."""
        references = self.measuring.of_source(self.recipe, self.images)
        values = [
            _psnr(self.measuring.restored(model, image), reference)
            for image, reference in zip(self.images, references, strict=True)
        ]
        return float(np.mean(values))


def _psnr(first: np.ndarray, second: np.ndarray) -> float:
    """PSNR in dB of two images of 8 bits."""
    difference = first.astype(np.float64) / 255 - second.astype(np.float64) / 255
    return float(-10 * np.log10(max(np.square(difference).mean(), LEAST_ERROR)))
