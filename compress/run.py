"""Compress a model by a recipe: `python -m compress.run RECIPE [key=value ...] [--plan] [--resume] [--out DIR]`.

On several devices: `accelerate launch -m compress.run RECIPE …`; what is trained then is trained on all of them.
"""

import argparse
import json
import os
import platform
import sys
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from compress.core import folders, marks
from compress.core.arguments import default_device, usable_device
from compress.core.errors import UserError, command
from compress.core.files import check_name, write_text
from compress.core.processes import is_main, main_first, own_device
from compress.cost.count import Cost
from compress.model.sr_model import SRModel
from compress.recipe.cache import PassCache, code_version, default_root
from compress.recipe.checkpoint import MODEL_FILE, load_model, save_model
from compress.recipe.plan import as_json, as_text, plan, published_accounting
from compress.recipe.recipe import Recipe, load_recipe, resolved, to_yaml
from compress.recipe.run_files import read_ledger
from compress.recipe.run_passes import PassRunner

LEDGER, RECIPE = "ledger.json", "recipe.yaml"
FOLDER_KEYS = ("data", "folders", "path", "base", "iqa_weights")
LIBRARIES = ("torch", "torchao", "diffusers", "onnx", "onnxruntime", "pyiqa")


def compress(
    recipe: Recipe, cache: PassCache, device: torch.device, workdir: Path
) -> tuple[SRModel, SRModel, list[dict], list[tuple[str, Cost]]]:
    """Source and compressed model, the ledger's entry of every pass, and the cost before and after each.

    Passes that `cache` has finished before are read from it; the others are run and stored, one by one.
    """
    costs = plan(recipe)  # on meta: a pattern that matches nothing shows before any weight is read
    source = recipe.source.build()
    recipe.source.load(source)
    source.to(device)
    runner = PassRunner(recipe, cache, device, workdir, source, costs)
    model, entries = runner.after(len(recipe.passes))
    return source.cpu(), model.cpu().eval().requires_grad_(False), entries, costs


def ledger(recipe: Recipe, entries: list[dict], costs: list[tuple[str, Cost]]) -> dict:
    return {
        "name": recipe.name,
        "recipe": resolved(recipe),
        "passes": entries,
        "cost": {"before": costs[0][1].as_dict(), "after": costs[-1][1].as_dict()},
        "versions": {
            "code": code_version(),
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
    }


class Runner:
    """One run directory. All is written under a temporary name, which --resume completes; then it is renamed."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        *,
        cache: Path | None,
        device: torch.device,
        resume: bool,
        overwrite: bool,
    ):
        """Raises UserError for an `out` that holds anything but a run of this toolkit, or a place for none."""
        self.inputs = paths_in(resolved(recipe))
        folders.check_place(out, "--out", self.inputs)
        self.recipe, self.out, self.device = recipe, out, own_device(device)
        self.partial = folders.partial_of(out)
        self.resume, self.overwrite = resume, overwrite
        # Passes read what earlier ones left, so without a common cache the run keeps one of its own.
        own = self.partial / "passes"
        self.cache = PassCache(cache or own, recipe.source, recipe.seed, spare=own)
        if cache is not None:
            check_name(cache / "entry", "--cache")
        if marks.kind_of(out) == marks.RUN and not overwrite and not _same_recipe(out, recipe):
            raise UserError(
                f"{out}: is a run of another recipe; choose another --out, or --overwrite it"
            )

    def __call__(self) -> Path:
        if self._is_complete():
            print(f"{self.out} is complete already")
            return self.out
        with ExitStack() as held:
            main_first(lambda: self._open(held), self.device)
            return self._run()

    def _is_complete(self) -> bool:
        if not self.resume or self.partial.exists() or marks.kind_of(self.out) != marks.RUN:
            return False
        return _same_recipe(self.out, self.recipe)

    def _open(self, held: ExitStack) -> None:
        """Take the run directory for this process until `held` ends, and make or find its unfinished form."""
        held.enter_context(
            folders.claimed(self.out, marks.RUN, "--out", self.inputs, self.overwrite)
        )
        resumable = self.resume and self.partial.exists()
        if resumable and not _same_recipe(self.partial, self.recipe):
            raise UserError(
                f"{self.partial}: is unfinished and of another recipe, so it cannot be resumed; give that "
                "recipe with the same overrides, or leave out --resume to begin anew"
            )
        folders.begin(self.out, marks.RUN, keep=resumable)
        write_text(self.partial / RECIPE, to_yaml(self.recipe))

    def _run(self) -> Path:
        began = time.time()
        if not is_main():
            if not (self.partial / LEDGER).is_file():
                compress(self.recipe, self.cache, self.device, self.partial)
            return self.out
        from compress.pipeline.outputs import check_exports, open_all
        from compress.recipe.inputs import check_inputs

        check_exports(
            self.recipe
        )  # a mistake in what follows the passes shows before hours of work
        open_all(self.recipe)
        check_inputs(self.recipe.passes)
        source, model, record = self._models()
        report = self._figures(source, model, record)
        folders.drop(
            self.partial, "passes", "pass_*/*.checkpoint", "pass_*/.*.old"
        )  # what only a resumption needs
        made = [name for name in marks.files_in(self.partial) if name != marks.MARK_FILE]
        marks.mark(self.partial, marks.RUN, made)
        folders.swap_in(self.partial, self.out, marks.RUN, self.overwrite)
        print(
            report
            + f"\n{self.out} after {time.time() - began:.0f} s; look at {self.out / 'report.html'}"
        )
        return self.out

    def _models(self) -> tuple[SRModel, SRModel, dict]:
        file = self.partial / LEDGER
        if file.is_file():
            source = self.recipe.source.build()
            self.recipe.source.load(source)
            return source, load_model(self.partial), read_ledger(self.partial)
        source, model, entries, costs = compress(self.recipe, self.cache, self.device, self.partial)
        save_model(model, self.partial / MODEL_FILE, self.recipe.source, self.recipe.passes)
        record = ledger(self.recipe, entries, costs)
        record["cost"]["after"]["file_bytes"] = (self.partial / MODEL_FILE).stat().st_size
        write_text(file, json.dumps(record, indent=1))
        return source, model, record

    def _figures(self, source: SRModel, model: SRModel, record: dict) -> str:
        """Export, evaluate, report: everything that looks at the finished model. Returns the terminal summary."""
        from compress.pipeline.outputs import evaluate_both, export_all, write_reports

        exported = export_all(self.recipe, source, model, self.partial)
        results = evaluate_both(self.recipe, source, model, self.partial)
        return write_reports(self.recipe, record, exported, results, self.partial)


def _same_recipe(folder: Path, recipe: Recipe) -> bool:
    file = folder / RECIPE
    return file.is_file() and file.read_text(encoding="utf-8", errors="replace") == to_yaml(recipe)


def paths_in(value: Any, key: str = "") -> list[Path]:
    """Every file or folder that a resolved recipe names and that exists: what a run reads."""
    if isinstance(value, dict):
        return [path for name, entry in value.items() for path in paths_in(entry, name)]
    if isinstance(value, list):
        return [path for entry in value for path in paths_in(entry, key)]
    # A word alone may be a family or a metric; under some keys it is a folder.
    if (
        not isinstance(value, str)
        or key == "name"
        or not (os.sep in value or "." in value or key in FOLDER_KEYS)
    ):
        return []
    return [Path(value)] if value.strip() and os.path.exists(value) else []


@command
def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m compress.run", description=__doc__.splitlines()[0]
    )
    parser.add_argument("recipe", help="a YAML file, such as recipes/passionsr_w8a8.yaml")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="such as source.size=sd21 passes.1.weights=6",
    )
    parser.add_argument(
        "--plan", action="store_true", help="print recipe and costs; read no weight, run nothing"
    )
    parser.add_argument("--json", action="store_true", help="with --plan: for machines")
    parser.add_argument(
        "--lr",
        type=int,
        default=128,
        metavar="N",
        help="with --plan: side of the input (default 128)",
    )
    parser.add_argument("--out", type=Path, help="run directory (default runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="complete a run that was killed")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a run directory of another recipe"
    )
    parser.add_argument(
        "--cache", type=Path, help="pass cache (default ~/.cache/diffusion-sr-compress)"
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="run every pass; only a killed run's own are reused"
    )
    parser.add_argument(
        "--device",
        default=default_device(),
        type=usable_device,
        help="where passes learn (default: %(default)s)",
    )
    options = parser.parse_intermixed_args(argv)
    recipe = load_recipe(options.recipe, options.overrides)
    if options.plan:
        from compress.pipeline.outputs import check_exports, check_names

        check_exports(recipe, packages=False)
        check_names(recipe.eval.metrics)
        size = (options.lr, options.lr)
        print(
            (as_json if options.json else as_text)(
                recipe, plan(recipe, size), published_accounting(recipe, size)
            )
        )
        return 0
    out = options.out if options.out is not None else Path("runs") / recipe.name
    if not is_main():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # one voice
    runner = Runner(
        recipe,
        out,
        cache=None if options.no_cache else options.cache or default_root(),
        device=torch.device(options.device),
        resume=options.resume,
        overwrite=options.overwrite,
    )
    if not _same_recipe(out, recipe):  # then the run's recipe file is replaced by another
        folders.check_place(out, "--out", [options.recipe])
    torch.manual_seed(recipe.seed)
    runner()
    return 0


if __name__ == "__main__":
    main()
