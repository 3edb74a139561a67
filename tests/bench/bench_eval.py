"""Speed of the evaluation beside pyiqa called directly, and with two processes.

    python tests/bench/bench_eval.py RESTORED --data DIR [--metrics psnr,ssim,niqe]
        [--iqa-weights DIR] [--images 12]

All is of one machine, turns interleaved. Direct: `metric(restored file, original file)` of pyiqa
for every image and metric, each metric created once. Ours: `eval.score.benchmark.evaluate` without
its cache, reading the same files, loading the metrics included in neither; `buffers kept` is how
eval.run calls it. Cached: the same again, all scores known. Times are of this machine and day; what
holds is the ratio.
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import torch
from pyiqa.models.inference_model import (
    InferenceModel,
)  # after compress, which mends torchvision for it
from pyiqa.utils.img_util import imread2tensor
from rows import add_json, write_rows

from compress.core.errors import UserError, command
from compress.core.machine import processor
from compress.core.memory import keep_freed_memory
from eval.data.dataset import open_data
from eval.metric.locating import locate
from eval.metric.metrics import METRICS
from eval.metric.names import check_names
from eval.metric.scorer import Metrics
from eval.score.scoring import score
from eval.score.worker import Job, Worker


def _from_file(net: torch.nn.Module, file: str) -> torch.Tensor:
    return net(imread2tensor(file)[None])


def direct(judges: Metrics, files: list[tuple[str, str]]) -> dict[str, list[float]]:
    """pyiqa's own calls with paths, image by image."""
    found = {}
    with torch.no_grad():
        for name in judges.per_image:
            net, reference = judges._nets[name], METRICS[name].reference
            if not isinstance(
                net, InferenceModel
            ):  # ours where pyiqa's differs from the published figures (NIQE)
                net = partial(_from_file, net)
            found[name] = [float(net(a, b) if reference else net(a)) for a, b in files]
    return found


@command
def main(argv: list[str]) -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("restored", type=Path)
    p.add_argument("--data", required=True)
    p.add_argument(
        "--metrics",
        default="psnr,ssim,niqe",
        help="such as pyiqa takes by path (default: %(default)s)",
    )
    p.add_argument("--iqa-weights")
    p.add_argument("--images", type=int, default=12)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--batch", type=int, default=1, help="as eval.run has it on the CPU")
    p.add_argument("--processes", type=int, default=2, help="0: only one process is measured")
    add_json(p)
    options = p.parse_args(argv)
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    names = check_names(options.metrics.split(","))
    data = open_data(options.data, limit=options.images)
    root = {path.stem: path for path in options.restored.iterdir()}
    if any(pair.name not in root or pair.hr is None for pair in data.pairs):
        raise UserError(f"{options.restored}: holds no restored image for some of {options.data}")
    files = [(str(root[pair.name]), str(pair.hr.args[0])) for pair in data.pairs]
    located = locate(names, options.iqa_weights)
    if located.blank:
        raise UserError("; ".join(f"{name}: {why}" for name, why in located.blank.items()))
    torch.set_num_threads(1)
    judges = Metrics(names, located=located)
    job = Job(located, restored={pair.name: root[pair.name] for pair in data.pairs}, threads=1)
    worker = Worker(job)
    groups = [data.pairs[i : i + options.batch] for i in range(0, len(data.pairs), options.batch)]

    theirs = direct(judges, files)
    ours = [o for group in groups for o in worker(group)]
    for name in names:
        worst = max(
            abs(o.scores[name] - value) for o, value in zip(ours, theirs[name], strict=True)
        )
        print(f"{name:14} largest difference to pyiqa {worst:.1e}")

    times: dict[str, list[float]] = {"pyiqa directly": [], "eval": [], "eval, buffers kept": []}
    for kept in (
        False,
        True,
    ):  # the buffers cannot be given back once they are kept: first all without
        if kept:
            keep_freed_memory()
        for _ in range(options.repeats):
            runs = (
                {"eval, buffers kept": worker} if kept else {"pyiqa directly": None, "eval": worker}
            )
            for label, run in runs.items():
                start = time.perf_counter()
                if run is None:
                    direct(judges, files)
                else:
                    for group in groups:
                        run(group)
                times[label].append(time.perf_counter() - start)
    print(
        f"measured on {processor()}, {os.cpu_count()} cores, 1 thread each; {len(files)} images, "
        f"{options.repeats} repeats"
    )
    base = statistics.median(times["pyiqa directly"])
    table = []
    for label, values in times.items():
        median = statistics.median(values)
        table.append({"way": label, "ms": median / len(files) * 1e3, "faster": base / median})
        print(
            f"{label:22}{median / len(files) * 1e3:9.1f} ms an image"
            f"{base / median:7.2f}x as fast as pyiqa directly"
        )
    with tempfile.TemporaryDirectory() as folder:
        taken = _cached(job, groups, Path(folder) / "c.sqlite", base, len(files))
        cached = {"ms": taken / len(files) * 1e3, "faster": base / taken}
        table.append({"way": "eval, all cached", **cached})
    if options.processes > 1:
        more = _scaling(job, groups, options.processes)
        table.append({"way": f"eval, {options.processes} processes against one", "faster": more})
    write_rows(options.json, table)


def _cached(job: Job, groups: list, file: Path, base: float, count: int) -> float:
    from dataclasses import replace

    from eval.score.cache import ScoreCache

    worker = Worker(replace(job, cache=file))
    for group in groups:
        ScoreCache(file).put({k: v for o in worker(group) for k, v in o.fresh.items()})
    start = time.perf_counter()
    for group in groups:
        worker(group)
    taken = time.perf_counter() - start
    print(f"{'eval, all cached':22}{taken / count * 1e3:9.1f} ms an image{base / taken:7.2f}x")
    return taken


def _scaling(job: Job, groups: list, processes: int) -> float:
    """Steady state of one process against several: from the first group's end to the last's."""
    rates = {}
    for count in (1, processes):
        arrivals = []
        for group in score(job, groups, count):
            arrivals.append((time.perf_counter(), len(group)))
        skip = count  # the first group of each process pays for its start
        if len(arrivals) < 4 * count:  # fewer arrive too close together to say anything
            raise UserError(
                f"{len(groups)} batches are too few to measure {processes} processes; give more "
                "--images"
            )
        rates[count] = sum(n for _, n in arrivals[skip:]) / (
            arrivals[-1][0] - arrivals[skip - 1][0]
        )
    print(
        f"{processes} processes: {rates[processes] / rates[1]:.2f}x the images a second of one "
        f"process (load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
    )
    return rates[processes] / rates[1]


if __name__ == "__main__":
    main()
