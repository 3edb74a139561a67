"""One run directory from a recipe: its passes, then exports, evaluation and reports."""

import contextlib
import json
import platform
import time
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from compress.core import folders, marks, tracks
from compress.core.code_version import code_version
from compress.core.config import read_yaml
from compress.core.errors import UserError
from compress.core.files import check_name, write_text
from compress.core.hub_config import with_local_files
from compress.core.processes import is_main, main_first, own_device
from compress.model.sr_model import SRModel
from compress.pipeline.evaluations import check_references, evaluate_both, open_all
from compress.pipeline.export_checks import check_exports
from compress.pipeline.exports import export_all
from compress.pipeline.reports import write_reports
from compress.recipe.cache import PassCache
from compress.recipe.checkpoint import MODEL_FILE, convert_all, load_model, save_model
from compress.recipe.inputs import check_inputs, paths_in
from compress.recipe.recipe import Recipe, parse_recipe, resolved, to_yaml
from compress.recipe.run_files import LEDGER, RECIPE, read_ledger
from compress.recipe.run_passes import Compressed, compress

LIBRARIES = ("torch", "torchao", "diffusers", "onnx", "onnxruntime", "pyiqa")
# In an unfinished run directory, what only a resumption needs.
FOR_RESUMING = ("passes", "pass_*/*.checkpoint", "pass_*/.*.old")


def installed_versions() -> dict[str, str]:
    """Versions of the code, Python and the libraries; one that is not installed is left out."""
    versions = {"code": code_version(), "python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def ledger(recipe: Recipe, done: Compressed) -> dict:
    """What stands in ledger.json: the recipe, figures of its passes, costs, versions."""
    return {
        "name": recipe.name,
        "recipe": resolved(recipe),
        "passes": done.entries,
        "cost": {"before": done.costs[0][1].as_dict(), "after": done.costs[-1][1].as_dict()},
        "versions": installed_versions(),
    }


def is_same_recipe(folder: Path, recipe: Recipe) -> bool:
    """Whether a run directory, finished or not, is one of this recipe.

    A key that an older version of this toolkit did not write has its default. Any other line that
    is not of the recipe, such as a remark of the user's, makes it another.
    """
    file = folder / RECIPE
    if not file.is_file():
        return False
    text = file.read_text(encoding="utf-8", errors="replace")
    whole = to_yaml(recipe)
    if text == whole:
        return True
    lines = iter(whole.splitlines())
    if not all(line in lines for line in text.splitlines()):
        return False
    try:
        return to_yaml(parse_recipe(read_yaml(file), str(file))) == whole
    except UserError:
        return False


class Runner:
    """Makes one run directory.

    All is written under a temporary name, which --resume completes; then it is renamed.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        *,
        cache: Path | None,
        device: torch.device,
        resume: bool,
        overwrite: bool,
        trackers: tuple[str, ...] = (),
    ):
        """Check the place; nothing is written yet.

        Args:
            recipe: Of any source and passes.
            out: The run directory.
            cache: The folder of the cache of passes and exports; None for one of passes that ends
                with the run.
            device: Where passes learn.
            resume: Complete a run that was killed.
            overwrite: Replace a run directory of another recipe.
            trackers: Which of `compress.core.trackers.TRACKERS` also get curves and samples.

        Raises:
            UserError: `out` holds anything but a run of this toolkit, or is a place for none.
        """
        self.inputs = paths_in(resolved(recipe))
        folders.check_place(out, "--out", self.inputs)
        self.recipe = recipe
        self.out = out
        self.device = own_device(device)
        self.partial = folders.partial_of(out)
        self.resume = resume
        self.overwrite = overwrite
        self.trackers = trackers
        # Passes read what earlier ones left. Without a common cache the run keeps its own.
        own = self.partial / "passes"
        self.cache = PassCache(cache or own, recipe.source, recipe.seed, spare=own)
        self.export_cache = cache
        if cache is not None:
            check_name(cache / "entry", "--cache")
        if marks.kind_of(out) == marks.RUN and not overwrite and not is_same_recipe(out, recipe):
            raise UserError(
                f"{out}: is a run of another recipe; choose another --out, or --overwrite it"
            )

    def __call__(self) -> Path:
        """Run everything that is not finished yet; returns the run directory.

        Raises:
            UserError: The recipe, its data or the directory cannot be used.
        """
        if self._is_complete():
            print(f"{self.out} is complete already")
            return self.out
        with ExitStack() as held:
            main_first(lambda: self._open(held), self.device)
            if is_main():
                with tracks.kept_in(self.partial, self.recipe.name, self.trackers):
                    self._run()
            else:
                self._help()
        return self.out

    def _is_complete(self) -> bool:
        if not self.resume or self.partial.exists() or marks.kind_of(self.out) != marks.RUN:
            return False
        return is_same_recipe(self.out, self.recipe)

    def _open(self, held: ExitStack) -> None:
        """Take the run directory for this process until `held` ends; make or find its partial."""
        held.enter_context(
            folders.claimed(self.out, marks.RUN, "--out", self.inputs, self.overwrite)
        )
        resumable = self.resume and self.partial.exists()
        if resumable and not is_same_recipe(self.partial, self.recipe):
            raise UserError(
                f"{self.partial}: is unfinished and of another recipe, so it cannot be resumed; "
                "give that recipe with the same overrides, or leave out --resume to begin anew"
            )
        folders.begin(self.out, marks.RUN, keep=resumable)
        write_text(self.partial / RECIPE, to_yaml(self.recipe))

    def _help(self) -> None:
        """What a process that is not the first does: it trains beside it, and writes nothing."""
        if not (self.partial / LEDGER).is_file():
            compress(self.recipe, self.cache, self.device, self.partial)

    def _run(self) -> None:
        began = time.time()
        # A mistake in what follows the passes shows before hours of work.
        structure = convert_all(self.recipe.source, self.recipe.passes)
        check_exports(self.recipe, structure)
        check_references(self.recipe, structure)
        open_all(self.recipe)
        check_inputs(self.recipe.passes)
        source, model, record = self._models()
        summary = self._look_at(source, model, record)
        self._finish()
        print(
            f"{summary}\n{self.out} after {time.time() - began:.0f} s; "
            f"look at {self.out / 'report.html'}"
        )

    def _models(self) -> tuple[SRModel, SRModel, dict]:
        """The source, the compressed model and the ledger, which a killed run may have made."""
        file = self.partial / LEDGER
        if file.is_file():
            source = self.recipe.source.build()
            with_local_files(self.recipe.source).load(source)
            return source, load_model(self.partial), read_ledger(self.partial)
        done = compress(self.recipe, self.cache, self.device, self.partial)
        weights = self.partial / MODEL_FILE
        save_model(done.model, weights, self.recipe.source, self.recipe.passes)
        record = ledger(self.recipe, done)
        record["cost"]["after"]["file_bytes"] = weights.stat().st_size
        write_text(file, json.dumps(record, indent=1))
        return done.source, done.model, record

    def _look_at(self, source: SRModel, model: SRModel, record: dict) -> str:
        """Export, evaluate, report. Returns the summary for the terminal."""
        exported = export_all(self.recipe, source, model, self.partial, self.export_cache)
        results = evaluate_both(self.recipe, source, model, self.partial)
        return write_reports(self.recipe, record, exported, results, self.partial)

    def _finish(self) -> None:
        """Give the run directory its final name."""
        folders.drop(self.partial, *FOR_RESUMING)
        made = [name for name in marks.files_in(self.partial) if name != marks.MARK_FILE]
        marks.mark(self.partial, marks.RUN, made)
        folders.swap_in(self.partial, self.out, marks.RUN, self.overwrite)
