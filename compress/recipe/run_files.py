"""The files of a run directory: their shapes, and reading them. A file that was cut off or edited
is one sentence.

Shapes hold the keys that something reads; a file may hold more.
"""

import csv
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict  # pydantic wants these before Python 3.12

from compress.core.config import read_yaml
from compress.core.errors import UserError
from compress.core.json_files import check_shape, read_json

RUN_AGAIN = "the run directory is damaged: run it again, or copy it again whole"
EVALUATE_AGAIN = "it is damaged: evaluate the run again with python -m eval.run"
EXPORT_AGAIN = "the folder is damaged: export it again with python -m export.run"
NOT_METRICS = ("images", "data", "protocol", "blank", "problems", "notes", "speedup")
Number = int | float
Scores = dict[str, dict[str, float | None]]  # image -> metric -> value


class Totals(TypedDict):
    """compress.cost.count of one model."""

    bytes: Number
    params: Number
    param_equivalents: Number
    macs_paper: Number
    macs_equivalent: Number
    macs_full: NotRequired[Number]
    peak_activation_bytes: NotRequired[Number]
    file_bytes: NotRequired[Number]
    lr_size: NotRequired[list[int]]
    components: NotRequired[list[dict[str, Any]]]


PassConfig = TypedDict("PassConfig", {"pass": str})
PassEntry = TypedDict(
    "PassEntry",
    {
        "pass": PassConfig,
        "seconds": Number,
        "data": str,
        "before": Totals,
        "after": Totals,
        "figures": NotRequired[Any],
        "cached": NotRequired[bool],
    },
)


class Costs(TypedDict):
    before: Totals
    after: Totals


class Ledger(TypedDict):
    """ledger.json."""

    name: str
    passes: list[PassEntry]
    cost: Costs
    recipe: NotRequired[dict[str, Any]]
    versions: NotRequired[dict[str, Any]]


class PartCosts(TypedDict):
    after: NotRequired[dict[str, Any]]


class PartLedger(TypedDict):
    """What a curve reads of ledger.json."""

    cost: NotRequired[PartCosts]


class Averages(TypedDict):
    """averages.json, without the metrics, which are all its other keys."""

    data: str
    protocol: str
    images: int
    blank: dict[str, str]
    problems: NotRequired[dict[str, str]]


class Parity(TypedDict):
    """One exported file on one probe; None is an output that is not finite."""

    file: NotRequired[str]
    probe: NotRequired[str]
    psnr_db: NotRequired[Number | None]


class Latency(TypedDict):
    label: NotRequired[str]
    size_ratio: NotRequired[Number]
    ratio: NotRequired[Number]


class Figures(TypedDict):
    """figures.json of one exported target."""

    parity: list[Parity]
    latency: list[Latency]
    files: list[list[str | int]]


class NamedData(TypedDict):
    name: str
    path: str
    protocol: NotRequired[str | None]


class EvalPart(TypedDict):
    data: list[str | NamedData]


PassPart = TypedDict(
    "PassPart", {"pass": str, "weights": NotRequired[int], "activations": NotRequired[int]}
)
SourcePart = TypedDict("SourcePart", {"family": str, "size": NotRequired[str]})


class RecipeFile(TypedDict):
    """recipe.yaml of a run."""

    source: SourcePart
    passes: list[PassPart]
    eval: EvalPart


class Manifest(TypedDict):
    """manifest.json of an exported folder."""

    target: str
    files: dict[str, dict[str, Any]]
    graphs: dict[str, dict[str, Any]]


def read_ledger(run: Path) -> dict[str, Any]:
    """ledger.json of a run directory. Raises UserError where it is missing or damaged."""
    return read_json(run / "ledger.json", "the ledger of a run", Ledger, RUN_AGAIN)


def read_cost(run: Path) -> dict[str, Number]:
    """The cost of the compressed model in ledger.json, as far as it is there and a number."""
    found = read_json(run / "ledger.json", "the ledger of a run", PartLedger, RUN_AGAIN)
    after = found.get("cost", {}).get("after", {})
    return {name: value for name, value in after.items() if type(value) in (int, float)}


def read_figures(file: Path) -> dict[str, list]:
    """figures.json: rows of parity and latency, and the files of a target."""
    return read_json(file, "the figures of an exported target", Figures, RUN_AGAIN)


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of an exported folder."""
    return read_json(
        folder / "manifest.json", "the manifest of an exported folder", Manifest, EXPORT_AGAIN
    )


def read_averages(folder: Path) -> dict[str, Any]:
    """averages.json of one evaluation: each metric a number or None, and what NOT_METRICS names."""
    file, what = folder / "averages.json", "the averages of an evaluation"
    found = read_json(file, what, Averages, EVALUATE_AGAIN)
    metrics = {name: value for name, value in found.items() if name not in NOT_METRICS}
    check_shape(
        metrics, dict[str, Number | None], str(file), f"these are {what}, and {EVALUATE_AGAIN}"
    )
    return found


def read_fidelity(folder: Path) -> dict[str, float]:
    """fidelity.json of one evaluation, PSNR by image; empty where it was not measured."""
    file = folder / "fidelity.json"
    return (
        read_json(file, "PSNR by image", dict[str, Number], EVALUATE_AGAIN)
        if file.is_file()
        else {}
    )


def read_recipe(run: Path) -> tuple[dict[str, Any], str]:
    """recipe.yaml of a run directory: its content and its text."""
    file = run / "recipe.yaml"
    try:
        found = read_yaml(file)
    except (UnicodeDecodeError, RecursionError):
        raise UserError(
            f"{file}: is no YAML in UTF-8, or nested too deep; this is the recipe of a run, and "
            f"{RUN_AGAIN}"
        ) from None
    check_shape(found, RecipeFile, str(file), f"this is the recipe of a run, and {RUN_AGAIN}")
    return found, file.read_text(encoding="utf-8-sig", errors="replace")


def read_scores(file: Path) -> Scores:
    """metrics.csv of one evaluation. Raises UserError where it is missing or damaged."""
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            return dict(_score_row(row) for row in csv.DictReader(stream))
    except (OSError, ValueError, KeyError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)[:120]
        raise UserError(
            f"{file}: cannot be read as scores by image ({reason}); {EVALUATE_AGAIN}"
        ) from None


def _score_row(row: dict[str | None, Any]) -> tuple[str, dict[str, float | None]]:
    """The image of one row and its scores. Raises ValueError for any other row."""
    if row.get("image") is None or None in row or None in row.values():
        raise ValueError("a row has not as many fields as there are columns, 'image' among them")
    names = [name for name in row if name not in ("image", "data", "protocol")]
    return row["image"], {name: float(row[name]) if row[name] else None for name in names}
