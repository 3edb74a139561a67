"""Reading a run directory: recipe, ledger, evaluations per image, exported files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.core.errors import UserError
from compress.core.hub import FORM, OF_RUNS, local_folder
from compress.cost import phones
from compress.cost.count import measure
from compress.recipe.run_files import (
    Scores,
    read_averages,
    read_fidelity,
    read_figures,
    read_ledger,
    read_recipe,
    read_scores,
)

Row = dict[str, Any]  # column -> value


@dataclass(frozen=True)
class Evaluation:
    """What was measured on one data set.

    Attributes:
        data: The data set.
        protocol: Its protocol.
        folder: Holds restored/ and source/restored/.
        averages: averages.json of `compressed` and, where it was measured, of `source`.
        scores: Model -> image -> metric -> value.
        fidelity: PSNR in dB between both models' 8-bit images, by image.
    """

    data: str
    protocol: str
    folder: Path
    averages: dict[str, dict[str, Any]]
    scores: dict[str, Scores]
    fidelity: dict[str, float] = field(default_factory=dict)

    def restored(self, model: str) -> Path:
        """The folder of what `source` or `compressed` restored."""
        return (self.folder if model == "compressed" else self.folder / model) / "restored"


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        path: Where it is.
        name: The recipe's name.
        recipe: The recipe.
        recipe_yaml: The same, as text.
        ledger: What the passes did and cost.
        evaluations: A data set each.
        exported: Rows of parity and latency, and the files of all targets.
    """

    path: Path
    name: str
    recipe: dict[str, Any]
    recipe_yaml: str
    ledger: dict[str, Any]
    evaluations: list[Evaluation]
    exported: dict[str, list]

    def costs(self) -> list[Row]:
        """The source's totals, then those after every pass."""
        rows = [{"after": "source", **_totals(self.ledger["cost"]["before"])}]
        for entry in self.ledger["passes"]:
            rows.append({"after": entry["pass"]["pass"], **entry["after"]})
        return rows

    def components(self) -> list[Row]:
        """The cost of each component, of the source first."""
        rows = []
        for model, key in (("source", "before"), ("compressed", "after")):
            for row in self.ledger["cost"][key].get("components", []):
                rows.append({"model": model, **row})
        return rows


def read(path: str | Path) -> Run:
    """The run in a directory, or under a name of the hub.

    Raises:
        UserError: There is none, or a file of it is damaged.
    """
    path = local_folder(path, OF_RUNS)
    if not (path / "ledger.json").is_file() or not (path / "recipe.yaml").is_file():
        raise UserError(
            f"{path}: no finished run here (no ledger.json and recipe.yaml); give a run directory, "
            f"or the name of one on the hub, {FORM}"
        )
    recipe, text = read_recipe(path)
    ledger = read_ledger(path)
    exported: dict[str, list] = {"parity": [], "latency": [], "files": []}
    for file in sorted(path.glob("*/figures.json")):
        for key, rows in read_figures(file).items():
            exported.setdefault(key, []).extend(rows)
    evaluations = [_evaluation(file.parent) for file in sorted(path.glob("eval/*/averages.json"))]
    return Run(path, ledger["name"], recipe, text, ledger, evaluations, exported)


def _evaluation(folder: Path) -> Evaluation:
    places = {"source": folder / "source", "compressed": folder}
    there = {model: place for model, place in places.items() if (place / "averages.json").is_file()}
    averages = {model: read_averages(place) for model, place in there.items()}
    return Evaluation(
        averages["compressed"]["data"],
        averages["compressed"]["protocol"],
        folder,
        averages,
        {model: read_scores(place / "metrics.csv") for model, place in there.items()},
        read_fidelity(folder),
    )


def _totals(cost: Row) -> Row:
    return {key: value for key, value in cost.items() if key not in ("components", "lr_size")}


def predicted(run: Run) -> list[str]:
    """Latency on phones by published rates, as text; empty where the model file is missing."""
    from compress.recipe.checkpoint import read_structure

    if not (run.path / "model.safetensors").is_file():
        return []
    source, _, model = read_structure(run.path)
    return phones.as_lines(measure(model), source)
