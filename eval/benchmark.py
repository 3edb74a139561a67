"""Restore, round to 8 bit, score: one row an image, averages, and a reason for every figure that is missing."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from compress.errors import UserError
from compress.image import SUFFIXES, read_image, to_uint8, write_image
from compress.model import SCALE, SRModel
from eval.dataset import DataSet, Pair, by_stem, match, open_data
from eval.metrics import BENCHMARK, Metrics

Rows = list[dict[str, str | float | None]]


def evaluate(model_or_dir: SRModel | str | Path, data: DataSet | str | Path | None = None,
             metrics: Iterable[str] = BENCHMARK, iqa_weights: str | Path | None = None,
             out_dir: str | Path | None = None, *, save: str | Path | None = None, convert: bool = False,
             device: str = "cpu", progress: bool = True, **selection) -> dict:
    """Score a model (or a run directory, a .safetensors file, a folder of restored images) on a data set.

    `data` is a DataSet, or what `open_data` takes along with `selection` (lr, hr, protocol, name, limit).
    Returns {metric: mean or None, "images": n, "data": name, "protocol": name, "blank": {metric: reason}} and writes
    it as averages.json beside metrics.csv into `out_dir` if that is given. Restored images go to `save` as PNG.
    Raises UserError for everything a user can put right.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device '{device}': this machine has no usable GPU; choose cpu")
    judges = Metrics(metrics, iqa_weights, device)  # first: a misspelt metric shows before any work
    pairs = data if isinstance(data, DataSet) else open_data(data, convert=convert, **selection)
    restore = _restorer(model_or_dir, pairs, convert, device)
    if out_dir is not None:
        Path(out_dir).mkdir(parents=True, exist_ok=True)  # a place that cannot be written shows before the work, too
    rows, reasons = score(pairs, restore, judges, save, progress)
    means, blank = averages(rows, judges, reasons)
    result = means | {"images": len(rows), "data": pairs.name, "protocol": pairs.protocol, "blank": blank}
    if out_dir is not None:
        write_results(Path(out_dir), rows, result, judges.names)
    return result


def score(data: DataSet, restore: Callable[[Pair], torch.Tensor], judges: Metrics, save: str | Path | None = None,
          progress: bool = True) -> tuple[Rows, dict[str, dict[str, str]]]:
    """Rows {"image": name, metric: value or None} and, by metric and image, why a value is None."""
    rows: Rows = []
    reasons: dict[str, dict[str, str]] = {}
    for pair in tqdm(data.pairs, desc=data.name, unit="image", disable=None if progress else True):
        image = _eight_bit(restore(pair))
        reference = pair.hr() if pair.hr else None
        expected = reference.shape if reference is not None else _times_four(pair.lr().shape)
        if image.shape != expected:
            raise UserError(f"{pair.name}: the restored image is {image.shape[-1]}x{image.shape[-2]}, expected "
                            f"{expected[-1]}x{expected[-2]}; restore it from this data set's small image at x{SCALE}")
        if save is not None:
            write_image(image, Path(save) / f"{pair.name}.png")
        scores, why = judges.score(image, reference)
        rows.append({"image": pair.name} | scores)
        for metric, reason in why.items():
            reasons.setdefault(metric, {})[pair.name] = reason
    return rows, reasons


def averages(rows: Rows, judges: Metrics, reasons: dict[str, dict[str, str]]) -> tuple[dict[str, float | None],
                                                                                       dict[str, str]]:
    """{metric: mean over the images that have a value, or None} and {metric: why values are missing}."""
    means: dict[str, float | None] = {}
    blank = dict(judges.blank)
    for metric in judges.names:
        values = [row[metric] for row in rows if row.get(metric) is not None]
        means[metric] = float(np.mean(values)) if values else None
        if metric in reasons:
            why = " and ".join(dict.fromkeys(reasons[metric].values()))
            missing = len(reasons[metric])
            blank[metric] = why if missing == len(rows) else (
                f"{missing} of {len(rows)} images have no value, the mean is over the others: {why}")
    return means, blank


def write_results(folder: Path, rows: Rows, result: dict, names: list[str]) -> None:
    """metrics.csv (one row an image, an empty cell where there is no value) and averages.json, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with _whole(folder / "metrics.csv") as stream:
        table = csv.DictWriter(stream, ["image", *names], lineterminator="\n")
        table.writeheader()
        table.writerows({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    with _whole(folder / "averages.json") as stream:
        stream.write(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def _whole(path: Path) -> Iterator:
    """A text file that gets its name only when it is complete."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _restorer(source: SRModel | str | Path, data: DataSet, convert: bool,
              device: str) -> Callable[[Pair], torch.Tensor]:
    """A function from a pair to its restored image, float [1, 3, H, W]."""
    if not isinstance(source, SRModel):
        source = Path(source)
        if not source.exists():
            raise UserError(f"{source}: no such run directory, model file or folder of restored images")
        if source.is_dir() and not (source / "model.safetensors").is_file():
            return _from_folder(source, data, convert)
        if source.is_file() and source.suffix.lower() in SUFFIXES:
            raise UserError(f"{source}: is an image; give the folder of restored images, a run directory or a model")
        from compress.checkpoint import load_model

        source = load_model(source)
    if any(pair.lr is None for pair in data.pairs):
        raise UserError(f"data '{data.name}' has no small images to restore; give --lr FOLDER")
    model = source.to(device).eval()

    @torch.inference_mode()
    def restore(pair: Pair) -> torch.Tensor:
        return model(pair.lr().to(device)).cpu()
    return restore


def _from_folder(folder: Path, data: DataSet, convert: bool) -> Callable[[Pair], torch.Tensor]:
    restored = by_stem(folder)
    wanted = {pair.name: folder for pair in data.pairs}
    if len(data.pairs) < data.total:  # --limit: the rest of a full folder is not asked for
        restored = {name: path for name, path in restored.items() if name in wanted}
    match(restored, wanted, f"{folder} and data '{data.name}'")
    return lambda pair: read_image(restored[pair.name], convert)


def _eight_bit(image: torch.Tensor) -> torch.Tensor:
    """[1, 3, H, W] rounded to multiples of 1/255, as a benchmark reads it from a PNG."""
    return torch.from_numpy(to_uint8(image)).permute(2, 0, 1)[None].float() / 255


def _times_four(shape: torch.Size) -> torch.Size:
    return torch.Size((*shape[:2], shape[2] * SCALE, shape[3] * SCALE))
