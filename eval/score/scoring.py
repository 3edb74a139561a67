"""Images in, scores out: one worker scores groups of images; several of them share a data set between processes.

An image that cannot be read, restored or compared gives a sentence in place of its scores; the others go on.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from compress.core.errors import UserError
from compress.core.image import read_image, to_uint8, write_image
from compress.model.sr_model import SCALE, SRModel
from eval.data.dataset import Pair
from eval.metric.metrics import METRICS, Located, Metrics
from eval.score.cache import ScoreCache, Value, image_hash, key

Restore = Callable[[Pair], torch.Tensor]  # -> float [1, 3, 4h, 4w]


@dataclass(frozen=True)
class Job:
    """All that a process needs to score images; plain data.

    `model`: the file of the model that restores; `restored`: or the restored images by name. `model_key`: identity of
    the model, without which its images are not looked up in the cache.
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


@dataclass
class Outcome:
    """One image: its scores with the reason for each None, features of (restored, original), or what went wrong.

    `fresh` are cache entries that were not there yet.
    """

    name: str
    scores: dict[str, float | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    features: dict[str, tuple[bytes, bytes | None]] = field(default_factory=dict)
    problem: str | None = None
    fresh: dict[str, Value] = field(default_factory=dict)


@dataclass
class _Image:
    """One image at work: 8-bit pixels [H, W, 3] and their hashes; `pixels` is None while only the hash is known."""

    outcome: Outcome
    pair: Pair
    pixels: np.ndarray | None
    hash: str
    original: np.ndarray | None
    original_hash: str | None


class Worker:
    """Restores and scores; loads the model and each metric once."""

    def __init__(self, job: Job, restore: Restore | None = None):
        self.job, self.cache = job, ScoreCache(job.cache)
        self.judges = Metrics(job.metrics.names, device=job.device, located=job.metrics)
        self.restore = restore or self._restorer()

    def _restorer(self) -> Restore:
        if self.job.restored is not None:
            return lambda pair: read_image(self.job.restored[pair.name], self.job.convert)
        from compress.recipe.checkpoint import load_model

        return model_restorer(load_model(self.job.model), self.job.device)

    def __call__(self, pairs: list[Pair]) -> list[Outcome]:
        """The outcomes of `pairs`, in their order; images of one size are scored together."""
        outcomes, groups = [], {}
        for pair in pairs:
            outcome = Outcome(pair.name)
            outcomes.append(outcome)
            try:
                image = self._open(pair, outcome)
            except UserError as error:
                outcome.problem = str(error)
            else:
                shape = None if image.pixels is None else image.pixels.shape
                groups.setdefault((shape, image.original is None), []).append(image)
        for images in groups.values():
            for metric in self.judges.per_image:
                self._score(metric, images)
            for metric in self.judges.of_sets:
                self._features(metric, images)
        return outcomes

    def _open(self, pair: Pair, outcome: Outcome) -> _Image:
        original = to_uint8(pair.hr()) if pair.hr else None
        small = pair.lr() if pair.lr else None
        known = file = None
        if self.job.model_key and small is not None:
            known = key(
                "restored",
                self.job.model_key,
                self.job.device.partition(":")[0],
                image_hash(to_uint8(small)),
            )
        if self.job.save is not None:
            file = self.job.save / f"{pair.name}.png"
        image = _Image(
            outcome,
            pair,
            None,
            self.cache.get([known]).get(known) if known else None,
            original,
            None if original is None else image_hash(original),
        )
        if image.hash and file is not None and file.is_file():
            image.pixels = to_uint8(read_image(file))
            if image_hash(image.pixels) != image.hash:
                image.pixels = None
        if (
            image.hash
            and image.pixels is None
            and (file is not None or not self._all_cached(image))
        ):
            image.hash = None
        if image.hash is None:
            restored = self.restore(pair)
            if not torch.isfinite(restored).all():
                raise UserError(
                    f"{pair.name}: the model's image has NaN or infinite values; nothing can be measured "
                    "on it"
                )
            image.pixels = to_uint8(restored)
            image.hash = image_hash(image.pixels)
            expected = (
                original.shape[:2]
                if original is not None
                else tuple(SCALE * side for side in small.shape[-2:])
            )
            height, width = image.pixels.shape[:2]
            if (height, width) != expected:
                raise UserError(
                    f"{pair.name}: the restored image is {width}x{height}, expected "
                    f"{expected[1]}x{expected[0]}; restore it from this data set's small image at x{SCALE}"
                )
            if file is not None:
                write_image(restored, file)
            if known:
                outcome.fresh[known] = image.hash
        return image

    def _key(self, metric: str, image: _Image) -> str:
        reference = (
            image.original_hash
            if METRICS[metric].reference and not METRICS[metric].features
            else None
        )
        return key(self.judges.identity(metric), image.hash, reference)

    def _all_cached(self, image: _Image) -> bool:
        keys = [
            self._key(metric, image) for metric in (*self.judges.per_image, *self.judges.of_sets)
        ]
        return len(self.cache.get(keys)) == len(keys)

    def _score(self, metric: str, images: list[_Image]) -> None:
        keys = [self._key(metric, image) for image in images]
        found = self.cache.get(keys)
        todo = [i for i, k in enumerate(keys) if k not in found]
        if todo:
            originals = [images[i].original for i in todo]
            reference = (
                _stack(originals)
                if METRICS[metric].reference and originals[0] is not None
                else None
            )
            values, reasons = self.judges.score_batch(
                metric, _stack([images[i].pixels for i in todo]), reference
            )
            for i, value, why in zip(todo, values, reasons, strict=True):
                if why is None:
                    found[keys[i]] = images[i].outcome.fresh[keys[i]] = value
                else:
                    images[i].outcome.reasons[metric] = why
        for image, k in zip(images, keys, strict=True):
            image.outcome.scores[metric] = found.get(k)

    def _features(self, metric: str, images: list[_Image]) -> None:
        for image in images:
            sides = []
            for pixels, content in (
                (image.pixels, image.hash),
                (image.original, image.original_hash),
            ):
                if content is None:
                    sides.append(None)
                    continue
                k = key(self.judges.identity(metric), content, None)
                value = self.cache.get([k]).get(k)
                if value is None:
                    value = image.outcome.fresh[k] = self.judges.features(metric, _stack([pixels]))[
                        0
                    ]
                sides.append(value)
            image.outcome.features[metric] = tuple(sides)


def _stack(images: list[np.ndarray]) -> torch.Tensor:
    """uint8 [H, W, 3] images -> float [B, 3, H, W] in [0, 1], multiples of 1/255 as a benchmark reads them from PNG."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def model_restorer(model: SRModel, device: str) -> Restore:
    model = model.to(device).eval()

    @torch.inference_mode()
    def restore(pair: Pair) -> torch.Tensor:
        return model(pair.lr().to(device)).cpu()

    return restore


def score(
    job: Job, groups: list[list[Pair]], processes: int = 1, restore: Restore | None = None
) -> Iterator[list[Outcome]]:
    """The outcomes of each group in turn. Several processes need a job that says all: no `restore`."""
    if processes == 1:
        yield from map(Worker(job, restore), groups)
        return
    pool = ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_prepare, initargs=(job,)
    )
    try:
        yield from pool.map(_work, groups)
    finally:
        pool.shutdown(cancel_futures=True)


_job: Job | None = None  # of this worker process
_worker: Worker | None = None


def _prepare(job: Job) -> None:
    global _job
    _job = job
    keep_freed_memory()
    torch.set_num_threads(job.threads or max(1, (os.cpu_count() or 1) // 2))


def _work(pairs: list[Pair]) -> list[Outcome]:
    global _worker
    if _worker is None:  # here and not in the initializer, whose errors would not reach the user
        _worker = Worker(_job)
    return _worker(pairs)


def keep_freed_memory() -> None:
    """Let glibc keep large freed buffers instead of giving each back to the kernel: page faults took four fifths of
    SSIM's time on a virtual machine. For the whole process, so only command lines and workers ask for it."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # not in musl
            for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h, in bytes
                libc.mallopt(option, 2**31 - 1)
