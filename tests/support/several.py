"""Several processes of one run, forked from the test: each starts with all that is imported."""

import multiprocessing
import os
import socket
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState

LIMIT = 300  # seconds, for each of them


def run(work: Callable[..., Any], *arguments: Any, count: int = 2) -> list[Any]:
    """What `work(*arguments)` returns in each of `count` processes that train together.

    Raises:
        AssertionError: One of them failed; its traceback is the message.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(rank) for rank in range(count)]
        workers = []
        for rank, file in enumerate(files):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
            worker = context.Process(target=_work, args=(place, file, work, arguments), daemon=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
                worker.start()
            workers.append(worker)
        for worker in workers:
            worker.join(LIMIT)
            if worker.is_alive():
                worker.kill()
        found = [torch.load(file, weights_only=False) for file in files if file.is_file()]
    errors = [error for _, error in found if error is not None]
    assert not errors, "\n".join(errors)
    assert len(found) == count, f"{count - len(found)} processes ended without an answer"
    return [result for result, _ in found]


def _work(place: dict[str, int], file: Path, work: Callable[..., Any], arguments: tuple) -> None:
    """The whole of one process; it leaves its answer in `file`."""
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "LOCAL_WORLD_SIZE": str(place["WORLD_SIZE"])}
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # which accelerate asks for, with a warning
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        answer = work(*arguments), None
    except BaseException:
        answer = None, traceback.format_exc()
    partial = file.with_suffix(".partial")
    torch.save(answer, partial)
    partial.rename(file)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
