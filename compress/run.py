"""Compress a model by a recipe: `python -m compress.run RECIPE [key=value ...] [--plan] [--resume] [--out DIR]`.

On several devices: `accelerate launch -m compress.run RECIPE …`; what is trained then is trained on all of them.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch

from compress.cache import PassCache, code_version, default_root
from compress.checkpoint import MODEL_FILE, load_model, save_model
from compress.cost import Cost
from compress.errors import UserError, command
from compress.model import SRModel
from compress.pass_runner import PassRunner
from compress.plan import as_json, as_text, plan, published_accounting
from compress.processes import is_main, main_first, own_device
from compress.recipe import Recipe, load_recipe, resolved, to_yaml
from compress.run_files import read_ledger

LEDGER = "ledger.json"
LIBRARIES = ("torch", "torchao", "diffusers", "onnx", "onnxruntime", "pyiqa")


def compress(recipe: Recipe, cache: PassCache, device: torch.device, workdir: Path
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
    return {"name": recipe.name, "recipe": resolved(recipe), "passes": entries,
            "cost": {"before": costs[0][1].as_dict(), "after": costs[-1][1].as_dict()},
            "versions": {"code": code_version(), "python": platform.python_version(),
                         **{name: version(name) for name in LIBRARIES}}}


def write_text(path: Path, text: str) -> None:
    """Write through a temporary name: a file under its final name is complete."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


class Runner:
    """One run directory. All is written under a temporary name, which --resume completes; then it is renamed."""

    def __init__(self, recipe: Recipe, out: Path, *, cache: Path | None, device: torch.device, resume: bool,
                 overwrite: bool):
        self.recipe, self.out, self.device = recipe, out, own_device(device)
        self.partial = out.with_name(f".{out.name}.partial")
        # Passes read what earlier ones left, so without a common cache the run keeps one of its own.
        own = self.partial / "passes"
        self.cache = PassCache(cache or own, recipe.source, recipe.seed, spare=own)
        if out.exists() and not overwrite and not _same_recipe(out, recipe):
            raise UserError(f"{out}: exists and is not a run of this recipe; choose another --out, or --overwrite it")
        main_first(lambda: self._open(resume), self.device)

    def _open(self, resume: bool) -> None:
        if resume and not self.partial.exists() and self.out.exists():
            print(f"{self.out} is complete already")
        if self.partial.exists() and not (resume and _same_recipe(self.partial, self.recipe)):
            shutil.rmtree(self.partial)
        self.partial.mkdir(parents=True, exist_ok=True)
        write_text(self.partial / "recipe.yaml", to_yaml(self.recipe))

    def __call__(self) -> Path:
        began = time.time()
        if not is_main():
            if not (self.partial / LEDGER).is_file():
                compress(self.recipe, self.cache, self.device, self.partial)
            return self.out
        from compress.outputs import check_exports, open_all

        check_exports(self.recipe)  # a mistake in what follows the passes shows before hours of work
        open_all(self.recipe)
        source, model, record = self._models()
        report = self._figures(source, model, record)
        for leftover in (self.partial / "passes", *self.partial.glob("pass_*/*.checkpoint")):
            shutil.rmtree(leftover, ignore_errors=True)  # what only a resumption needs
        if self.out.exists():
            shutil.rmtree(self.out)
        self.partial.rename(self.out)
        print(report + f"\n{self.out} after {time.time() - began:.0f} s; look at {self.out / 'report.html'}")
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
        from compress.outputs import evaluate_both, export_all, write_reports

        exported = export_all(self.recipe, source, model, self.partial)
        results = evaluate_both(self.recipe, source, model, self.partial)
        return write_reports(self.recipe, record, exported, results, self.partial)


def _same_recipe(folder: Path, recipe: Recipe) -> bool:
    file = folder / "recipe.yaml"
    return file.is_file() and file.read_text() == to_yaml(recipe)


@command
def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m compress.run", description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="a YAML file, such as recipes/passionsr_w8a8.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as source.size=sd21 passes.1.weights=6")
    parser.add_argument("--plan", action="store_true", help="print recipe and costs; read no weight, run nothing")
    parser.add_argument("--json", action="store_true", help="with --plan: for machines")
    parser.add_argument("--lr", type=int, default=128, metavar="N", help="with --plan: side of the input (default 128)")
    parser.add_argument("--out", type=Path, help="run directory (default runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="complete a run that was killed")
    parser.add_argument("--overwrite", action="store_true", help="replace a run directory of another recipe")
    parser.add_argument("--cache", type=Path, help="pass cache (default ~/.cache/diffusion-sr-compress)")
    parser.add_argument("--no-cache", action="store_true", help="run every pass; only a killed run's own are reused")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu",
                        help="where passes learn (default: %(default)s)")
    options = parser.parse_intermixed_args(argv)
    recipe = load_recipe(options.recipe, options.overrides)
    if options.plan:
        size = (options.lr, options.lr)
        print((as_json if options.json else as_text)(recipe, plan(recipe, size), published_accounting(recipe, size)))
        return 0
    torch.manual_seed(recipe.seed)
    if not is_main():
        sys.stdout = open(os.devnull, "w")  # one voice
    Runner(recipe, options.out or Path("runs") / recipe.name,
           cache=None if options.no_cache else options.cache or default_root(), device=torch.device(options.device),
           resume=options.resume, overwrite=options.overwrite)()
    return 0


if __name__ == "__main__":
    main()
