"""Several workers of one study: processes of this machine, or jobs of a cluster by submitit."""

import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.core.errors import UserError, shown

_LOG = logging.getLogger(__name__)


def start_here(words: Sequence[str], workers: int) -> int:
    """Run the same command as so many processes; returns how many of them failed.

    Whatever becomes of one of them, the others have its points. They share the processor's cores.

    Args:
        words: Of the command, with `--workers 1`.
        workers: How many.
    """
    command = [sys.executable, "-m", "compress.sweep", *words]
    threads = max(1, (os.cpu_count() or 1) // workers)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    running = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        for _ in range(workers)
    ]
    try:
        codes = [process.wait() for process in running]
    except BaseException:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        raise
    failed = [code for code in codes if code]
    if failed:
        _LOG.warning("%d of %d workers ended with an error", len(failed), workers)
    return len(failed)


def parse_slurm(text: str) -> dict[str, Any]:
    """Options of a Slurm job, such as `partition=gpu,timeout_min=600,gpus_per_node=1`.

    Raises:
        UserError: One is no key=value.
    """
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"--slurm {shown(part)}: give key=value, such as partition=gpu")
        options[key] = int(value) if value.isdigit() else value
    return options


def work_on(words: list[str]) -> int:
    """What a job of a cluster runs: one worker. Returns its exit code."""
    done = subprocess.run([sys.executable, "-m", "compress.sweep", *words], check=False)
    return done.returncode


def submit(
    words: list[str], workers: int, folder: Path, options: Mapping[str, Any], cluster: str = "slurm"
) -> list[Any]:
    """Submit so many jobs of one worker each.

    Args:
        words: Of the command, with `--workers 1` and absolute paths.
        workers: How many jobs.
        folder: For the jobs' logs; all machines share it.
        options: Of submitit: `partition` and the like become `slurm_partition`.
        cluster: slurm, or local for processes of this machine.

    Raises:
        UserError: There is no Slurm here, or it does not know an option.
    """
    import submitit

    try:
        executor = submitit.AutoExecutor(folder=folder / "jobs", cluster=cluster)
        common = ("timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "name")
        executor.update_parameters(
            **{key if key in common else f"slurm_{key}": value for key, value in options.items()}
        )
    except (RuntimeError, NameError, TypeError, ValueError) as error:
        raise UserError(f"--slurm: {error}") from None
    with executor.batch():
        jobs = [executor.submit(work_on, words) for _ in range(workers)]
    _LOG.info("submitted: %s", ", ".join(job.job_id for job in jobs))
    return jobs
