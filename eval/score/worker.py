"""Images in, scores out: one worker restores and scores groups of images.

An image that cannot be read, restored or compared has a sentence in place of its scores; the others
go on.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from compress.core.errors import UserError
from compress.core.image import read_image, to_uint8, write_image
from compress.model.sr_model import SCALE
from compress.process.knobs import OUTPUTS
from compress.process.strength import FULL, blended
from compress.routing.knobs import turn
from eval.data.dataset import Pair
from eval.data.pairing import size
from eval.metric.locating import Located
from eval.metric.names import metric_of
from eval.metric.scorer import Metrics
from eval.score.cache import ScoreCache, Value, image_hash, key
from eval.score.restoring import ModelRestorer, Reference, Restore, restorer_of_files


@dataclass(frozen=True)
class Job:
    """All that a process needs to score images; plain data.

    Attributes:
        metrics: The metrics, and where their weight files are.
        device: Where models and metrics run.
        model: The file of the model that restores.
        restored: Or the restored images, by name.
        model_key: Identity of the model, without which its images are not looked up in the cache.
        convert: Convert grayscale, RGBA and 16-bit files while reading.
        save: Folder for the restored images, as PNG.
        cache: The SQLite file of scores.
        threads: Threads of each process; None takes half of the cores.
        strength: How much of the result there is, from 0, the enlarged small image, to 1.
        references: What the model refers to; empty for none.
        knob: What the strength turns, one of `compress.process.knobs.KNOBS`.
        faithful: For the weights, the faithful model.
    """

    metrics: Located
    device: str = "cpu"
    model: Path | None = None
    restored: dict[str, Path] | None = None
    model_key: str | None = None
    convert: bool = False
    save: Path | None = None
    cache: Path | None = None
    threads: int | None = None
    strength: float = FULL
    references: tuple[Path, ...] = ()
    knob: str = OUTPUTS
    faithful: Path | None = None


@dataclass
class Outcome:
    """What was measured on one image.

    Attributes:
        name: The image.
        scores: By metric; None where there is no value.
        reasons: Why a score is None, by metric.
        features: Of the restored image and its original, float32 bytes, by metric.
        problem: What went wrong with the image as a whole.
        fresh: Cache entries that were not there yet.
        references: The patches that it was restored with.
        misses_references: Whether the model takes references and was given none.
        saw_original: Whether one of the references is its own original.
    """

    name: str
    scores: dict[str, float | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    features: dict[str, tuple[bytes, bytes | None]] = field(default_factory=dict)
    problem: str | None = None
    fresh: dict[str, Value] = field(default_factory=dict)
    references: list[Reference] = field(default_factory=list)
    misses_references: bool = False
    saw_original: bool = False


@dataclass(frozen=True)
class _Image:
    """One image at work.

    Attributes:
        outcome: What is found out about it.
        hash: Identity of the restored image.
        pixels: The restored image, uint8 [H, W, 3]; None where every score is in the cache.
        original: The original, uint8 [H, W, 3], and its identity; None where the data has none.
    """

    outcome: Outcome
    hash: str
    pixels: np.ndarray | None
    original: np.ndarray | None
    original_hash: str | None

    def restored(self) -> np.ndarray:
        """The restored image, where it is needed."""
        if self.pixels is None:
            raise RuntimeError(f"{self.outcome.name}: its restored image was not kept")
        return self.pixels


class Worker:
    """Restores and scores; loads the model and each metric once.

    Args:
        job: What to do.
        restore: Restores an image of the data set, in place of the job's model or images.
    """

    def __init__(self, job: Job, restore: Restore | None = None):
        self.job = job
        self.cache = ScoreCache(job.cache)
        self.judges = Metrics(job.metrics.names, device=job.device, located=job.metrics)
        self.restore = restore or _restorer(job)

    def __call__(self, pairs: list[Pair]) -> list[Outcome]:
        """The outcomes of `pairs`, in their order; images of one size are scored together."""
        outcomes = [Outcome(pair.name) for pair in pairs]
        groups: dict[tuple, list[_Image]] = {}
        for pair, outcome in zip(pairs, outcomes, strict=True):
            try:
                image = self._open(pair, outcome)
            except UserError as error:
                outcome.problem = str(error)
                continue
            outcome.saw_original = _saw_original(image)
            shape = None if image.pixels is None else image.pixels.shape
            groups.setdefault((shape, image.original is None), []).append(image)
        for images in groups.values():
            self._judge(images)
        return outcomes

    def _judge(self, images: list[_Image]) -> None:
        for metric in self.judges.per_image:
            self._score(metric, images)
        for metric in self.judges.of_sets:
            for image in images:
                self._add_features(metric, image)

    def _open(self, pair: Pair, outcome: Outcome) -> _Image:
        """One image restored, or known from before by its small image and the model."""
        original = to_uint8(pair.hr()) if pair.hr else None
        original_hash = None if original is None else image_hash(original)
        small = pair.lr() if pair.lr else None
        file = None if self.job.save is None else self.job.save / f"{pair.name}.png"
        known = self._key_of_restored(small)
        content = self._content_of(known)
        if isinstance(self.restore, ModelRestorer):
            outcome.misses_references = self.restore.misses_references
        if content is not None and self._find_references(outcome, known):
            pixels = _read_same(file, content)
            image = _Image(outcome, content, pixels, original, original_hash)
            if pixels is not None or (file is None and self._all_cached(image)):
                return image
        pixels = to_uint8(self._restored(pair))
        _check_size(pair.name, pixels, _expected_size(original, small))
        pixels = self._dialled(pair, pixels, small)
        if file is not None:
            write_image(pixels, file)
        content = image_hash(pixels)
        if known is not None:
            outcome.fresh[known] = content
        self._note_references(outcome, known)
        return _Image(outcome, content, pixels, original, original_hash)

    def _find_references(self, outcome: Outcome, known: str | None) -> bool:
        """Whether the cache knows what an image was restored with; the outcome gets it."""
        if not self.job.references:
            return True
        if known is None:
            return False
        place = key("references", known)
        found = self.cache.get([place]).get(place)
        if not isinstance(found, str):
            return False
        outcome.references = [Reference(*one) for one in json.loads(found)]
        return True

    def _note_references(self, outcome: Outcome, known: str | None) -> None:
        """Tell what an image was restored with, and keep it for the cache."""
        if not self.job.references or not isinstance(self.restore, ModelRestorer):
            return
        outcome.references = self.restore.references_of(outcome.name)
        if known is not None:
            outcome.fresh[key("references", known)] = json.dumps(outcome.references)

    def _dialled(self, pair: Pair, pixels: np.ndarray, small: torch.Tensor | None) -> np.ndarray:
        """The restored image, uint8 [H, W, 3], at the job's strength."""
        if self.job.strength == FULL or self.job.knob != OUTPUTS:
            return pixels
        if small is None:
            raise UserError(f"{pair.name}: has no small image, which a strength below 1 blends in")
        return blended(pixels, small[0].numpy(), self.job.strength, SCALE)

    def _restored(self, pair: Pair) -> torch.Tensor:
        restored = self.restore(pair)
        if not torch.isfinite(restored).all():
            raise UserError(
                f"{pair.name}: the model's image has NaN or infinite values; "
                "nothing can be measured on it"
            )
        return restored

    def _key_of_restored(self, small: torch.Tensor | None) -> str | None:
        """The cache's key of what the model makes of a small image; None where it has none."""
        if self.job.model_key is None or small is None:
            return None
        kind = self.job.device.partition(":")[0]
        return key("restored", self.job.model_key, kind, image_hash(to_uint8(small)))

    def _content_of(self, known: str | None) -> str | None:
        """The hash of a restored image that the cache has under a key."""
        if known is None:
            return None
        found = self.cache.get([known]).get(known)
        return found if isinstance(found, str) else None

    def _key(self, metric: str, image: _Image) -> str:
        compares = metric_of(metric).reference and not metric_of(metric).features
        reference = image.original_hash if compares else None
        return key(self.judges.identity(metric), image.hash, reference)

    def _all_cached(self, image: _Image) -> bool:
        metrics = [*self.judges.per_image, *self.judges.of_sets]
        keys = [self._key(metric, image) for metric in metrics]
        return len(self.cache.get(keys)) == len(keys)

    def _score(self, metric: str, images: list[_Image]) -> None:
        """Scores of images of one size, from the cache or measured together."""
        keys = [self._key(metric, image) for image in images]
        scores = self.cache.numbers(keys)
        todo = [(k, image) for k, image in zip(keys, images, strict=True) if k not in scores]
        if todo:
            values, reasons = self._measure(metric, [image for _, image in todo])
            for (k, image), value, why in zip(todo, values, reasons, strict=True):
                if value is not None:
                    scores[k] = value
                    image.outcome.fresh[k] = value
                if why is not None:
                    image.outcome.reasons[metric] = why
        for k, image in zip(keys, images, strict=True):
            image.outcome.scores[metric] = scores.get(k)

    def _measure(
        self, metric: str, images: list[_Image]
    ) -> tuple[list[float | None], list[str | None]]:
        originals = [image.original for image in images if image.original is not None]
        compares = metric_of(metric).reference and originals
        return self.judges.score_batch(
            metric,
            _stack([image.restored() for image in images]),
            _stack(originals) if compares else None,
        )

    def _add_features(self, metric: str, image: _Image) -> None:
        ours = self._features(metric, image, image.hash, image.pixels)
        theirs = None
        if image.original_hash is not None:
            theirs = self._features(metric, image, image.original_hash, image.original)
        image.outcome.features[metric] = (ours, theirs)

    def _features(
        self, metric: str, image: _Image, content: str, pixels: np.ndarray | None
    ) -> bytes:
        """Features of one side of `image`, from the cache or computed."""
        k = key(self.judges.identity(metric), content, None)
        found = self.cache.get([k]).get(k)
        if isinstance(found, bytes):
            return found
        if pixels is None:
            raise RuntimeError(f"{image.outcome.name}: its restored image was not kept")
        value = self.judges.features(metric, _stack([pixels]))[0]
        image.outcome.fresh[k] = value
        return value


def _restorer(job: Job) -> Restore:
    """What the job's model makes of an image, or its file of the restored images."""
    if job.restored is not None:
        return restorer_of_files(job.restored, job.convert)
    if job.model is None:
        raise ValueError("a job has a model file or restored images")
    from compress.recipe.checkpoint import load_model

    model = load_model(job.model)
    turn(model, job.knob, job.strength, load_model(job.faithful) if job.faithful else None)
    return ModelRestorer(model, job.device, job.references)


def _saw_original(image: _Image) -> bool:
    """Whether a reference is the image's own original; one of another size is not read."""
    if image.original is None:
        return False
    height, width = image.original.shape[:2]
    for name in {one.file for one in image.outcome.references}:
        file = Path(name)
        if size(file) != (width, height):
            continue
        if image_hash(to_uint8(read_image(file, convert=True))) == image.original_hash:
            return True
    return False


def _read_same(file: Path | None, content: str) -> np.ndarray | None:
    """The pixels of `file`, uint8 [H, W, 3], if it is there and has this identity."""
    if file is None or not file.is_file():
        return None
    pixels = to_uint8(read_image(file))
    return pixels if image_hash(pixels) == content else None


def _expected_size(original: np.ndarray | None, small: torch.Tensor | None) -> tuple[int, int]:
    """Height and width in pixels that the restored image must have."""
    if original is not None:
        return original.shape[0], original.shape[1]
    if small is None:
        raise ValueError("a pair has a small image or an original")
    return SCALE * small.shape[-2], SCALE * small.shape[-1]


def _check_size(name: str, pixels: np.ndarray, expected: tuple[int, int]) -> None:
    height, width = pixels.shape[:2]
    if (height, width) != expected:
        raise UserError(
            f"{name}: the restored image is {width}x{height}, expected "
            f"{expected[1]}x{expected[0]}; "
            f"restore it from this data set's small image at x{SCALE}"
        )


def _stack(images: list[np.ndarray]) -> torch.Tensor:
    """uint8 [H, W, 3] images -> float [B, 3, H, W] in [0, 1], as benchmarks read them from PNG."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
