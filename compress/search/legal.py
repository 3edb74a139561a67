"""Whether a point's architecture is legal on a target, by the lint, before anything is trained.

Its graphs are exported with random values, rewritten as the target's exports are, and looked at
node by node. What was found of an architecture lies in the study's folder for all workers.
"""

import hashlib
import importlib.util
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from compress.core.code_version import code_version
from compress.core.errors import UserError
from compress.core.files import write_text
from compress.core.json_files import read_json
from compress.model.sr_model import SRModel
from compress.model.untrained import randomise
from compress.recipe.checkpoint import dump
from compress.recipe.recipe import Recipe
from export.linting.rules import load

FOLDER = "lint"  # in a study
KEY_DIGITS = 32
REWRITES = {"gpu": "litert"}  # targets of the lint whose exports are rewritten under another name
TOLD = 2  # kinds of nodes that a sentence names


class Verdict(TypedDict):
    """What the lint says of all graphs of an architecture.

    Attributes:
        operators: How many there are.
        fall_back: How many of them the target does not take, or no rule speaks of.
        kinds: The most frequent of these, in words.
        largest: The largest file in bytes.
        most: The largest that the target loads.
    """

    operators: int
    fall_back: int
    kinds: list[str]
    largest: int
    most: int


def check_lint() -> None:
    """Raise UserError where the package is missing that exports graphs."""
    if importlib.util.find_spec("onnxscript") is None:
        raise UserError(
            "--constraint lint(TARGET) exports graphs and needs the package onnxscript; run: pip "
            "install 'onnxscript>=0.7.2,<0.8'"
        )


@dataclass(frozen=True)
class Legality:
    """The lint of architectures.

    Attributes:
        targets: Of the lint, such as qnn.
        folder: The study's.
        lr: Side of the input that graphs are exported at, in pixels.
    """

    targets: Sequence[str]
    folder: Path
    lr: int

    def judge(self, recipe: Recipe, model: SRModel) -> tuple[float, str]:
        """By which share an architecture is beyond what targets take, and why; 0 where it is not.

        Args:
            recipe: Of the point.
            model: What it makes, on the meta device. Its values are random afterwards.
        """
        found = self._recall(recipe)
        if any(target not in found for target in self.targets):
            found |= self._lint(model)
            file = self._file(recipe)
            file.parent.mkdir(exist_ok=True)
            write_text(file, json.dumps(found, indent=1))
        excess, told = 0.0, []
        for target in self.targets:
            beyond, why = _beyond(found[target])
            excess += beyond
            if why:
                told.append(f"lint({target}): {why}")
        return excess, "; ".join(told)

    def _recall(self, recipe: Recipe) -> dict[str, Verdict]:
        file = self._file(recipe)
        return read_json(file, "the lint of an architecture") if file.is_file() else {}

    def _file(self, recipe: Recipe) -> Path:
        """Where the verdicts of an architecture lie: passes that only train are no part of it."""
        parts = {
            "source": dump(recipe.source),
            "passes": [dump(step) for step in recipe.passes if step.changes_structure],
            "lr": self.lr,
            "code": [code_version("compress"), code_version("export")],
        }
        text = json.dumps(parts, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]
        return self.folder / FOLDER / f"{key}.json"

    def _lint(self, model: SRModel) -> dict[str, Verdict]:
        """The verdict of each target on the graphs of a model, with random values."""
        from export.graphs.components import has_parts
        from export.graphs.export_onnx import export_onnx

        randomise(model)
        parted = has_parts(model)
        with tempfile.TemporaryDirectory() as place:
            files = export_onnx(
                model,
                Path(place),
                lr_size=(self.lr, self.lr),
                per_component=parted,
                end_to_end=not parted,
            )
            return {target: verdict_of(files, target) for target in self.targets}


def verdict_of(files: list[Path], target: str) -> Verdict:
    """What the lint says of exported graphs, rewritten for a target where it has rewrites.

    Args:
        files: Graphs of static shapes.
        target: Of the lint.
    """
    from export.graphs.storage import files_of
    from export.linting.check import lint
    from export.linting.file import read_graph
    from export.rewrites.apply import rewrite_file
    from export.rewrites.orders import FOR

    rules = load(target)
    rewrites = REWRITES.get(target, target)
    kinds: Counter[str] = Counter()
    operators = fall_back = largest = 0
    for file in files:
        graph = file
        if rewrites in FOR:
            graph = file.with_name(f"{file.stem}.{target}.onnx")
            rewrite_file(file, graph, rewrites)
        size = sum(part.stat().st_size for part in files_of(graph))
        report = lint(read_graph(graph), rules, file_bytes=size)
        operators += len(report.findings)
        fall_back += len(report.refused)
        largest = max(largest, size)
        kinds.update(f"{one.op} in {file.stem}, {one.reason}" for one in report.refused)
    return {
        "operators": operators,
        "fall_back": fall_back,
        "kinds": [f"{count} x {kind}" for kind, count in kinds.most_common(TOLD)],
        "largest": largest,
        "most": rules.max_bytes,
    }


def _beyond(found: Verdict) -> tuple[float, str]:
    """By which share a verdict is beyond the target, and why; 0 where it is not."""
    excess, told = 0.0, []
    if found["fall_back"]:
        excess += found["fall_back"] / found["operators"]
        told.append(
            f"{found['fall_back']} of {found['operators']} operators fall back to the CPU "
            f"({'; '.join(found['kinds'])})"
        )
    if found["largest"] > found["most"]:
        excess += found["largest"] / found["most"] - 1
        told.append(f"a file has {found['largest']:,} bytes, and it loads {found['most']:,}")
    return excess, ", ".join(told)
