"""Restore, round to 8 bit, score: one row an image, averages, and a reason for every figure that is missing."""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from compress.core.errors import UserError
from compress.core.files import replacing
from compress.core.image import SUFFIXES
from compress.model.sr_model import SRModel
from compress.recipe.cache import code_version
from eval.data.dataset import DataSet, Pair, open_data
from eval.data.folders import DataSpec
from eval.data.pairing import restored_images
from eval.metric import ntire
from eval.metric.fid import frechet
from eval.metric.metrics import BENCHMARK, METRICS, Located, locate
from eval.metric.weight_files import digest
from eval.score.cache import ScoreCache
from eval.score.scoring import Job, Outcome, Restore, model_restorer, score

Rows = list[dict[str, str | float | None]]
Averages = dict[str, float | None]
# Images scored at once. On a CPU one: several make no metric faster there, and their buffers are too large to be kept.
BATCH = {"cpu": 1}


def evaluate(
    model_or_dir: SRModel | str | Path,
    data: DataSet | str | Path | None = None,
    metrics: Iterable[str] = BENCHMARK,
    iqa_weights: str | Path | None = None,
    out_dir: str | Path | None = None,
    *,
    save: str | Path | None = None,
    convert: bool = False,
    device: str = "cpu",
    progress: bool = True,
    processes: int = 1,
    batch: int | None = None,
    cache: str | Path | None = None,
    model_key: str | None = None,
    speedup: float | None = None,
    **selection,
) -> dict:
    """Score a model (or a run directory, a .safetensors file, a folder of restored images) on a data set.

    `data` is a DataSet, or what `open_data` takes along with `selection` (lr, hr, protocol, name, limit). `batch`
    images of one size are scored at once, one on the CPU and 4 elsewhere if it is None. `cache`: the SQLite file of scores that were measured before. `model_key`:
    identity of a model given as an object, so that its restored images count as known, too. `speedup` over OSEDiff,
    for ntire-final.

    Returns {metric: mean or None, "images": n, "data": name, "protocol": name, "blank": {metric: reason}, "problems":
    {image: what is wrong with it}, "notes": [...]} and writes it as averages.json beside metrics.csv into `out_dir` if
    that is given. Restored images go to `save` as PNG. Raises UserError for everything a user can put right that
    concerns all images.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device '{device}': this machine has no usable GPU; choose cpu")
    if batch is None:
        batch = BATCH.get(device.partition(":")[0], 4)
    if processes < 1 or batch < 1:
        raise UserError(f"{processes} processes and a batch of {batch}: both must be at least 1")
    if speedup is not None and speedup <= 0:
        raise UserError(
            f"speedup {speedup}: must be above 0; it is OSEDiff's time over the model's at 128 -> 512"
        )
    located = locate(metrics, iqa_weights)  # first: a misspelt metric shows before any work
    limit = selection.pop("limit", None)
    if not isinstance(data, DataSet):
        data = open_data(DataSpec(data, **selection), limit=limit, convert=convert)
    pairs = data
    where, restore, extra = _source(model_or_dir, pairs, device, processes)
    job = Job(
        located,
        device,
        convert=convert,
        save=None if save is None else Path(save),
        cache=None if cache is None else Path(cache),
        threads=max(1, torch.get_num_threads() // processes),
        **({"model_key": model_key} | where),
    )
    if out_dir is not None:
        Path(out_dir).mkdir(
            parents=True, exist_ok=True
        )  # a place that cannot be written shows before the work, too
    outcomes = _run(job, pairs, restore, processes, batch, progress, extra)
    problems = pairs.problems | extra | {o.name: o.problem for o in outcomes if o.problem}
    good = [o for o in outcomes if not o.problem]
    if not good:
        name, why = next(iter(problems.items()))
        raise UserError(
            f"none of {len(problems)} images could be measured; the first, {name}: {why}"
        )
    rows = [
        {"image": o.name, "data": pairs.name, "protocol": pairs.protocol} | o.scores for o in good
    ]
    means, blank = averages(good, located, speedup)
    result = means | {
        "images": len(rows),
        "data": pairs.name,
        "protocol": pairs.protocol,
        "blank": blank,
        "problems": problems,
        "notes": list(pairs.notes),
    }
    if speedup is not None:
        result["speedup"] = speedup
    if out_dir is not None:
        write_results(
            Path(out_dir),
            rows,
            result,
            [n for n in located.names if not METRICS[n].of and not METRICS[n].features],
        )
    return result


def _run(
    job: Job,
    data: DataSet,
    restore: Restore | None,
    processes: int,
    batch: int,
    progress: bool,
    left_out: dict[str, str],
) -> list[Outcome]:
    """All outcomes in the data set's order; what was measured goes into the cache group by group."""
    pairs = [pair for pair in data.pairs if pair.name not in left_out]
    groups = [pairs[i : i + batch] for i in range(0, len(pairs), batch)]
    cache, outcomes = ScoreCache(job.cache), []
    with tqdm(
        total=len(pairs), desc=data.name, unit="image", disable=None if progress else True
    ) as bar:
        for group in score(job, groups, min(processes, max(1, len(groups))), restore):
            cache.put({k: v for outcome in group for k, v in outcome.fresh.items()})
            outcomes += group
            bar.update(len(group))
    return outcomes


def averages(
    outcomes: list[Outcome], metrics: Located, speedup: float | None = None
) -> tuple[Averages, dict[str, str]]:
    """{metric: mean over the images that have a value, or None} and {metric: why values are missing}."""
    means: Averages = {}
    blank = dict(metrics.blank)
    for name in metrics.names:
        if METRICS[name].of:
            continue
        if METRICS[name].features:
            means[name], why = _distance(name, outcomes) if name not in blank else (None, None)
            blank |= {name: why} if why else {}
            continue
        values = [o.scores[name] for o in outcomes if o.scores.get(name) is not None]
        means[name] = float(np.mean(values)) if values else None
        reasons = [o.reasons[name] for o in outcomes if name in o.reasons]
        if reasons:
            why = " and ".join(dict.fromkeys(reasons))
            blank[name] = (
                why
                if len(reasons) == len(outcomes)
                else (
                    f"{len(reasons)} of {len(outcomes)} images have no value, the mean is over the others: {why}"
                )
            )
    for name in metrics.names:
        if METRICS[name].of:
            means[name], why = _composed(name, means, speedup)
            blank |= {name: why} if why and name not in blank else {}
    return {name: means[name] for name in metrics.names}, blank


def _distance(name: str, outcomes: list[Outcome]) -> tuple[float | None, str | None]:
    sides = [o.features[name] for o in outcomes]
    if any(original is None for _, original in sides):
        return (
            None,
            "it compares with the original images and the data has none; add HR images (--hr)",
        )
    if len(sides) < 2:
        return None, "it is a distance of two sets and needs at least 2 images"
    ours, theirs = (
        np.stack([np.frombuffer(x, np.float32) for x in side]) for side in zip(*sides, strict=True)
    )
    return frechet(ours, theirs), None


def _composed(name: str, means: Averages, speedup: float | None) -> tuple[float | None, str | None]:
    parts = [means[part] for part in METRICS[name].of]
    missing = [part for part in METRICS[name].of if means[part] is None]
    if missing:
        return (
            None,
            f"it is made of {', '.join(METRICS[name].of)}, and {', '.join(missing)} has no value",
        )
    if name == "ntire-score":
        return ntire.score(*parts), None
    if speedup is None:
        return (
            None,
            "it needs the speed relative to OSEDiff at 128 -> 512; give --speedup (OSEDiff itself: 1)",
        )
    return ntire.final(ntire.score(*parts), speedup), None


def write_results(folder: Path, rows: Rows, result: dict, names: list[str]) -> None:
    """metrics.csv (one row an image, an empty cell where there is no value) and averages.json, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with _whole(folder / "metrics.csv") as stream:
        table = csv.DictWriter(stream, ["image", "data", "protocol", *names], lineterminator="\n")
        table.writeheader()
        table.writerows(
            {k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )
    with _whole(folder / "averages.json") as stream:
        stream.write(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def _whole(path: Path) -> Iterator:
    """A text file that gets its name only when it is complete."""
    with (
        replacing(path) as partial,
        partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        yield stream


def model_file(source: Path) -> Path:
    return source / "model.safetensors" if source.is_dir() else source


def key_of_file(path: Path) -> str:
    """Identity of what a model file computes: its content and this code."""
    return hashlib.sha256((digest(path) + code_version()).encode()).hexdigest()[:32]


def _source(
    source: SRModel | str | Path, data: DataSet, device: str, processes: int
) -> tuple[dict, Restore | None, dict[str, str]]:
    """What a Job says of the source, or a function that restores; and a sentence for each image that it lacks."""
    if isinstance(source, SRModel):
        _need_small(data.pairs, data.name)
        if processes > 1:
            raise UserError(
                "several processes need a model file or run directory that each can load; give its path"
            )
        return {}, model_restorer(source, device), {}
    source = Path(source)
    if not source.exists():
        raise UserError(f"{source}: no such run directory, model file or folder of restored images")
    if source.is_dir() and not model_file(source).is_file():
        restored, problems = _from_folder(source, data)
        return {"restored": restored}, None, problems
    if source.is_file() and source.suffix.lower() in SUFFIXES:
        raise UserError(
            f"{source}: is an image; give the folder of restored images, a run directory or a model"
        )
    _need_small(data.pairs, data.name)
    file = model_file(source)
    return {"model": file, "model_key": key_of_file(file)}, None, {}


def _need_small(pairs: list[Pair], name: str) -> None:
    if any(pair.lr is None for pair in pairs):
        raise UserError(f"data '{name}' has no small images to restore; give --lr FOLDER")


def _from_folder(folder: Path, data: DataSet) -> tuple[dict[str, Path], dict[str, str]]:
    """Restored images by name, and a sentence for each image of the data that has none or too many, or the reverse."""
    wanted = {pair.name for pair in data.pairs}
    found, problems = restored_images(folder, wanted | data.problems.keys())
    problems = {name: why for name, why in problems.items() if name in wanted}
    doubled = set(problems)
    for name in sorted(wanted - found.keys() - problems.keys()):
        problems[name] = (
            f"{folder}: holds no restored image of this name (data '{data.name}' has one); add it"
        )
    if (
        len(data.pairs) + len(data.problems) == data.total
    ):  # with --limit the rest of a full folder is not asked for
        for name in sorted(found.keys() - wanted - data.problems.keys()):
            problems[name] = (
                f"{found[name]}: data '{data.name}' has no image of this name; rename or remove it"
            )
    if not wanted & (found.keys() | doubled):
        raise UserError(
            f"{folder}: holds no image of data '{data.name}' ({', '.join(sorted(wanted)[:3])} …); give the "
            "folder with images of the same names"
        )
    return {name: found[name] for name in found.keys() & wanted}, problems
