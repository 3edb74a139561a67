"""Groups of images shared between processes, each with a worker of its own."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from compress.core.memory import keep_freed_memory
from eval.data.dataset import Pair
from eval.score.worker import Job, Outcome, Restore, Worker


def score(
    job: Job, groups: list[list[Pair]], processes: int = 1, restore: Restore | None = None
) -> Iterator[list[Outcome]]:
    """The outcomes of each group in turn.

    Args:
        job: What to do.
        groups: Images that are scored together where they have one size.
        processes: With more than one, the job has to say all; there is no `restore`.
        restore: Restores an image, in place of the job's model or images.
    """
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
    if _job is None:
        raise RuntimeError("this process was not prepared")
    if _worker is None:  # here and not in the initializer, whose errors would not reach the user
        _worker = Worker(_job)
    return _worker(pairs)
