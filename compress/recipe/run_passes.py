"""Running the passes of a recipe, each from where the cache leaves off."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from compress.core import tracks
from compress.core.errors import UserError
from compress.core.hub_config import with_local_files
from compress.core.processes import check_same, connect, main_first, share_values
from compress.cost.cost import Cost
from compress.model.passes import FitContext, Watch
from compress.model.sr_model import SRModel
from compress.recipe.cache import PassCache
from compress.recipe.checkpoint import dump
from compress.recipe.plan import label, plan
from compress.recipe.recipe import Recipe

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compressed:
    """What the passes of a recipe made.

    Attributes:
        source: The uncompressed model with its values, on the CPU.
        model: The compressed one, on the CPU.
        entries: The ledger's entry of every pass.
        costs: (label, cost) of the source and after each pass.
    """

    source: SRModel
    model: SRModel
    entries: list[dict]
    costs: list[tuple[str, Cost]]


def compress(
    recipe: Recipe,
    cache: PassCache,
    device: torch.device,
    workdir: Path,
    watch: Callable[[int], Watch] | None = None,
) -> Compressed:
    """Run the passes of `recipe`.

    Passes that `cache` has finished before are read from it; the others are run and stored, one by
    one.

    Args:
        recipe: Of any source and passes.
        cache: Of the recipe's source and seed.
        device: Where passes learn.
        workdir: The folder for checkpoints of long passes.
        watch: Makes a look at the model while a pass trains it, of the pass's index.

    Raises:
        UserError: A pass does not act on what is before it, or its data or weights cannot be read.
    """
    # On meta: a pattern that matches nothing shows before any weight is read.
    costs = plan(recipe)
    source = recipe.source.build()
    with_local_files(recipe.source).load(source)
    source.to(device)
    connect(device)
    runner = PassRunner(recipe, cache, device, workdir, source, costs, watch)
    model, entries = runner.after(len(recipe.passes))
    return Compressed(source.cpu(), model.cpu().eval().requires_grad_(False), entries, costs)


@dataclass
class PassRunner:
    """Runs passes of one recipe.

    Attributes:
        recipe: Source, passes and seed.
        cache: Of the recipe's source and seed.
        device: Where passes learn.
        workdir: The folder for checkpoints of long passes.
        source: The uncompressed model with its values, on the device.
        costs: (label, cost) of the source and after every pass.
        watch: Makes a look at the model while a pass trains it, of the pass's index.
    """

    recipe: Recipe
    cache: PassCache
    device: torch.device
    workdir: Path
    source: SRModel
    costs: list[tuple[str, Cost]]
    watch: Callable[[int], Watch] | None = None

    def after(self, count: int) -> tuple[SRModel, list[dict]]:
        """The model after the first `count` passes, on the device, and their ledger entries.

        Passes that the cache has finished before are read from it; the others are run and stored,
        one by one.
        """
        passes = self.recipe.passes
        model, entries, done = self.cache.resume(passes[:count])
        check_same(done, "the number of passes in the cache", "--cache")
        model = model.to(self.device).eval().requires_grad_(False)
        for index in range(done, count):
            _LOG.info("pass %d of %d: %s", index + 1, len(passes), label(passes[index]))
            entries.append(self._run(model, index))
            self._store(model, index + 1, entries)
        return model, entries

    def _store(self, model: SRModel, count: int, entries: list[dict]) -> None:
        """Keep the model after `count` passes; of several processes the first does it."""

        def store() -> None:
            self.cache.store(model, self.recipe.passes[:count], entries)

        main_first(store, self.device)

    def _run(self, model: SRModel, index: int) -> dict:
        """Change `model` by pass number `index`; returns the ledger's entry."""
        step = self.recipe.passes[index]
        began = time.time()
        step.convert(model)
        context = FitContext(
            source=self.source,
            seed=self.recipe.seed,
            device=self.device,
            workdir=self.workdir / f"pass_{index + 1}",
            before=lambda name: self.before(name, index),
            watch=None if self.watch is None else self.watch(index),
        )
        with tracks.opened(f"{index + 1} {label(step)}"):
            figures = with_local_files(step).fit(model, context)
        share_values(model)
        return {
            "pass": dump(step),
            "seconds": round(time.time() - began, 1),
            "cached": False,
            "data": self.cache.identity(step),
            "figures": figures,
            "before": self.costs[index][1].totals(),
            "after": self.costs[index + 1][1].totals(),
        }

    def before(self, name: str, index: int) -> SRModel:
        """The model as it was before the last pass called `name` up to number `index`.

        It has its values. What the cache no longer holds of it is computed again.

        Raises:
            UserError: The recipe has no such pass there.
        """
        names = [dump(step)["pass"] for step in self.recipe.passes[: index + 1]]
        places = [place for place, other in enumerate(names) if other == name]
        if not places:
            raise UserError(
                f"pass {index + 1}, '{names[index]}', needs the model as it was before a pass "
                f"'{name}', which the recipe does not have further up; add it"
            )
        # What is computed again leaves the pass's random numbers as they are.
        with torch.random.fork_rng():
            model, _ = self.after(places[-1])
            return model.eval().requires_grad_(False)
