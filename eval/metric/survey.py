"""Which weight files are at hand, and which metrics can be computed with them."""

from pathlib import Path
from typing import Any

from eval.metric import weight_files
from eval.metric.locating import weights_folder
from eval.metric.metrics import METRICS, Metric
from eval.metric.weight_files import Weight

STATES = {"here": "here", "differs": "DIFFERS from its publisher's digest", "missing": "missing"}
DIGITS = 12  # of a digest in a message

Files = dict[str, dict[str, Any]]  # weight file -> what is known of it
Lacks = dict[str, list[str]]  # metric -> the files that it lacks


def survey(folder: str | Path | None = None) -> Files:
    """What is known of each weight file; nothing is downloaded from their publishers.

    Args:
        folder: A folder, or the name of one on the hub, that is looked into before the cache.

    Returns:
        {file: {state, path, url, sha256, published_sha256, licence, what, cache, metrics}}. `state`
        is `here`, `missing`, or `differs` where the SHA-256 is not the published one.

    Raises:
        UserError: The folder is not there.
    """
    place = weights_folder(folder)
    return {weight.file: _row(weight, place) for weight in weight_files.known().values()}


def _row(weight: Weight, folder: Path | None) -> dict[str, Any]:
    path = weight_files.at_hand(weight, folder)
    sha256 = None if path is None else weight_files.digest(path)
    return {
        "state": _state(weight, sha256),
        "path": None if path is None else str(path),
        "url": weight_files.address(weight),
        "sha256": sha256,
        "published_sha256": weight.sha256,
        "licence": weight.licence,
        "what": weight.what,
        "cache": weight.cache,
        "metrics": [name for name, metric in METRICS.items() if _takes(metric, weight)],
    }


def _state(weight: Weight, sha256: str | None) -> str:
    if sha256 is None:
        return "missing"
    return "here" if sha256.startswith(weight.sha256 or "") else "differs"


def _takes(metric: Metric, weight: Weight) -> bool:
    return any(weight in way.weights for way in metric.ways)


def ready(files: Files) -> Lacks:
    """The files that each metric lacks; none where it can be computed.

    Where there are several ways to have a metric, it is the one that lacks fewest.
    """
    lacks: Lacks = {}
    for name, metric in METRICS.items():
        if metric.of:
            missing = [file for part in metric.of for file in lacks[part]]
            lacks[name] = list(dict.fromkeys(missing))
        else:
            lacks[name] = min((_missing(way.weights, files) for way in metric.ways), key=len)
    return lacks


def _missing(weights: tuple[Weight, ...], files: Files) -> list[str]:
    return [weight.file for weight in weights if files[weight.file]["state"] == "missing"]


def text(files: Files, folder: str | Path | None) -> str:
    """What `survey` found, for a reader: metrics, then files, then what to do."""
    lacks = ready(files)
    able = [name for name, missing in lacks.items() if not missing]
    lines = [f"can be computed here: {', '.join(able)}", "", "weights are missing for:"]
    for name, missing in lacks.items():
        if missing:
            lines.append(f"  {name:<14} needs {', '.join(missing)}")
    lines += ["", "files:"]
    for file, row in files.items():
        lines += _lines(file, row)
    place = "one folder" if folder is None else folder
    lines += [
        "",
        "With a network, eval.run downloads what a metric needs. Without one: fetch the files "
        "elsewhere, put them",
        f"under the same names into {place}, and pass that as "
        "--iqa-weights (in a recipe: eval.iqa_weights).",
    ]
    return "\n".join(lines)


def _lines(file: str, row: dict[str, Any]) -> list[str]:
    licence = row["licence"] or "not stated"
    return [
        f"  {file}  [{STATES[row['state']]}]",
        f"      {row['what']}; licence {licence}; used by {', '.join(row['metrics'])}",
        f"      {_whereabouts(row)}",
    ]


def _whereabouts(row: dict[str, Any]) -> str:
    """Where a file is and whether it is the published one, or where it can be had."""
    published = row["published_sha256"]
    if row["path"] is None:
        nowhere = "nobody publishes it; its metric can also be had from two other files"
        return f"from {row['url'] or nowhere}"
    if not published:
        digits = row["sha256"][:DIGITS]
        return f"{row['path']}; SHA-256 {digits}…, no published one to compare with"
    expected = "as expected" if row["state"] == "here" else f"expected {published}"
    return f"{row['path']}; SHA-256 {expected}"
