"""Where the weight files of metrics are, found once for all processes that build the metrics."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from compress.core.errors import UserError, shown
from compress.core.hub import FORM, local_folder
from eval.metric.metrics import Metric
from eval.metric.names import check_names, metric_of
from eval.metric.weight_files import WeightsMissingError, find

# How files of weights end that metrics read.
OF_WEIGHTS = (".safetensors", ".pth", ".pt", ".mat")


@dataclass(frozen=True)
class Located:
    """Where weight files are: enough for another process to build metrics without the network.

    Attributes:
        names: The metrics asked for, and those that they are made of.
        way: Which of a metric's ways is taken, by metric.
        files: The files that this way takes, by metric.
        blank: Why a metric cannot be had, with the remedy, by metric.
    """

    names: list[str]
    way: dict[str, int] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)
    blank: dict[str, str] = field(default_factory=dict)


def locate(names: Iterable[str], weights: str | Path | None = None) -> Located:
    """Find, or download, the weight files of metrics and of what those are made of.

    Args:
        names: Names of metrics.
        weights: A folder, or the name of one on the hub, that is looked into before the cache.

    Raises:
        UserError: A name is unknown, or the folder is not there.
    """
    asked = check_names(names)
    folder = weights_folder(weights)
    found = Located(_with_parts(asked))
    for name in found.names:
        metric = metric_of(name)
        if metric.of:
            continue
        try:
            found.way[name], found.files[name] = _way_of(name, metric, folder)
        except WeightsMissingError as missing:
            found.blank[name] = str(missing)
    for name in found.names:
        parts = metric_of(name).of
        missing_parts = [part for part in parts if part in found.blank]
        if missing_parts:
            found.blank[name] = (
                f"it is made of {', '.join(parts)}, and {', '.join(missing_parts)} "
                "cannot be had here"
            )
    return found


def weights_folder(place: str | Path | None, option: str = "--iqa-weights") -> Path | None:
    """The folder of weight files that a user names, on this machine; None where none is named.

    Args:
        place: A folder, or the name of one on the hub, whose weight files are fetched.
        option: What names it, for the message.

    Raises:
        UserError: There is no such folder.
    """
    if place is None:
        return None
    folder = local_folder(place, OF_WEIGHTS)
    if not folder.is_dir():
        raise UserError(
            f"{option} {shown(str(place))}: no such folder; give the folder that holds the "
            f"metrics' weights, or its name on the hub as {FORM}"
        )
    return folder


def _with_parts(names: list[str]) -> list[str]:
    """`names`, each after the metrics that it is made of."""
    found: list[str] = []
    for name in names:
        found += [*metric_of(name).of, name]
    return list(dict.fromkeys(found))


def _way_of(name: str, metric: Metric, folder: Path | None) -> tuple[int, list[Path]]:
    """The way that is taken to have a metric: its number, and its files.

    Raises:
        WeightsMissingError: Files cannot be had.
    """
    if not metric.by_name:
        return _first_way(metric, folder)
    from eval.metric.registry import fetch

    return 0, fetch(name, folder)


def _first_way(metric: Metric, folder: Path | None) -> tuple[int, list[Path]]:
    """The first way whose files can be had: its number, and the files.

    Raises:
        WeightsMissingError: No way has all its files; says what the first one lacks.
    """
    lacking: list[str] = []
    for number, way in enumerate(metric.ways):
        try:
            return number, [find(weight, folder) for weight in way.weights]
        except WeightsMissingError as missing:
            files = " and ".join(weight.file for weight in way.weights)
            lacking.append(
                f"{missing}; put {files} into a folder and pass it as --iqa-weights "
                "(python -m eval.weights says where they come from)"
            )
    raise WeightsMissingError(lacking[0])
