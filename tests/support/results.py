"""A clone in small and measurements of no toolkit, for the tests of eval.results."""

import json
from functools import partial
from pathlib import Path

from eval.results.measurement import Column, Finished, Job, Measurement, Row, Short
from eval.results.places import Places
from eval.results.running import Wish

WEIGHTS = "compress/assets/tiny.safetensors"
WRITE = "import json,sys; json.dump({'psnr': float(sys.argv[1])}, open(sys.argv[2], 'w'))"


def clone(folder: Path) -> Path:
    """A folder with weights, pinned versions and a place for results."""
    for name in ("docs/results", "recipes", "compress/assets"):
        (folder / name).mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(b"first weights")
    (folder / "constraints.txt").write_text("torch==0.0.1\n")
    (folder / "README.md").write_text("# Tiny\n")
    return folder


def figure(number: float) -> tuple[str, ...]:
    """A command that writes a figure."""
    return ("python", "-c", WRITE, str(number), "{out}/figure.json")


def read_figure(key: str, finished: Finished) -> list[Row]:
    """The row of one figure."""
    return [{"model": key, **json.loads((finished.out / "figure.json").read_text())}]


def job(key: str, *commands: tuple[str, ...]) -> Job:
    """A job whose commands leave a figure."""
    return Job(key, commands, partial(read_figure, key), inputs=(WEIGHTS,))


def tiny(*jobs: Job, **changed) -> Measurement:
    """A measurement of these jobs."""

    def all_jobs(short: Short) -> list[Job]:
        return list(jobs)

    columns = (Column("model", "model"), Column("psnr", "PSNR", 2, "dB"))
    facts = {"name": "tiny", "title": "A tiny one", "page": "tiny", "columns": columns}
    return Measurement(jobs=all_jobs, **facts | changed)


def wish(root: Path, **how) -> Wish:
    """To run measurements in a clone in small."""
    places = Places(root, root / "work", {})
    return Wish(places, root / "docs" / "results", **how)
