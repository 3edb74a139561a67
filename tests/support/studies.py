"""Studies of a formula, which takes no time to measure, and processes that work on them."""

import multiprocessing
import os
import time
import warnings
from pathlib import Path

from compress.search.attempts import RESULT
from compress.search.results import MEASURED, result
from compress.search.settings import Settings, agree
from compress.search.store import Store
from compress.search.worker import Pace, Worker

GRID = ("a=0,1,2", "b=0,1,2", "c=0,1,2")
QUICK = Pace(beat=0.05, grace=30, poll=0.02)


def settings_of(sampler="grid", varies=GRID, batch=6, **changes):
    """Settings whose recipe nobody reads."""
    fields = {
        "recipe": {},
        "where": "a recipe",
        "varies": varies,
        "objective": "bytes,psnr",
        "constraints": (),
        "sampler": sampler,
        "seed": 0,
        "batch": batch,
        "lr": 64,
        "phone": "Galaxy S24",
        "proxy": 0,
    }
    return Settings(**{**fields, **changes})


def formula(number, point, earlier):
    """More of `a`, `b` and `c` costs more and is better, each to its own degree."""
    a, b, c = (int(point[name]) for name in "abc")
    psnr = 30 + 2 * a - (b - 1) ** 2 + 0.5 * c * (a + 1)
    return result(MEASURED, costs={"bytes": 10.0 + 4 * a + 3 * b + 5 * c}, metrics={"psnr": psnr})


def work(folder, settings, trials, measure=formula, pace=QUICK):
    """Be a worker of the study until it is done; returns where its points stand."""
    agree(folder, settings)
    return Worker(Store(folder, settings), settings, trials, measure, pace).run()


def start(target, *arguments):
    """A process of its own that runs `target`; forked, so that it need import nothing."""
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        process.start()
    return process


def wait_for(condition, seconds=30):
    """Wait until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.01)


def outcome(standings):
    """What a study says, without times, processes and numbers of attempts."""
    return {
        number: (one.ended.params, one.ended.values, {**one.ended.user_attrs[RESULT], "seconds": 0})
        for number, one in standings.items()
    }


def marked(folder: Path, name: str) -> None:
    """Say that this process has come so far."""
    (folder.parent / f"{name}-{os.getpid()}").touch()
