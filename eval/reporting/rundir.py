"""Reading a run directory: recipe, ledger, evaluations per image, exported files. Nothing is computed here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.core.errors import UserError
from compress.recipe.run_files import (
    Scores,
    read_averages,
    read_fidelity,
    read_figures,
    read_ledger,
    read_recipe,
    read_scores,
)


@dataclass(frozen=True)
class Evaluation:
    """One data set: averages.json and scores of `compressed` and, where it was measured, of `source`.

    `fidelity`: PSNR in dB between both models' 8-bit images, by image. `folder` holds restored/ and source/restored/.
    """

    data: str
    protocol: str
    folder: Path
    averages: dict[str, dict[str, Any]]
    scores: dict[str, Scores]
    fidelity: dict[str, float] = field(default_factory=dict)

    def restored(self, model: str) -> Path:
        return (self.folder if model == "compressed" else self.folder / model) / "restored"


@dataclass(frozen=True)
class Run:
    """A run directory. `exported`: the rows of parity and latency and the files of all targets."""

    path: Path
    name: str
    recipe: dict[str, Any]
    recipe_yaml: str
    ledger: dict[str, Any]
    evaluations: list[Evaluation]
    exported: dict[str, list]

    def costs(self) -> list[dict]:
        """The source's totals, then those after every pass."""
        rows = [{"after": "source", **_without_parts(self.ledger["cost"]["before"])}]
        return rows + [
            {"after": entry["pass"]["pass"], **entry["after"]} for entry in self.ledger["passes"]
        ]

    def components(self) -> list[dict]:
        return [
            {"model": model, **row}
            for model, key in (("source", "before"), ("compressed", "after"))
            for row in self.ledger["cost"][key].get("components", [])
        ]


def read(path: str | Path) -> Run:
    """The run in `path`. Raises UserError where there is none or a file of it is damaged."""
    path = Path(path)
    if not (path / "ledger.json").is_file() or not (path / "recipe.yaml").is_file():
        raise UserError(
            f"{path}: no finished run here (no ledger.json and recipe.yaml); give a run directory"
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


def _without_parts(cost: dict) -> dict:
    return {k: v for k, v in cost.items() if k not in ("components", "lr_size")}


def predicted(run: Run) -> list[str]:
    """Latency on phones by published rates, as text, of the run's structure; empty where its model file is missing."""
    from compress.cost import phones
    from compress.cost.count import measure
    from compress.recipe.checkpoint import read_structure

    if not (run.path / "model.safetensors").is_file():
        return []
    source, _, model = read_structure(run.path)
    return phones.as_lines(measure(model), source)
