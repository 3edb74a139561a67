"""Running the passes of a recipe, each from where the cache leaves off."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from compress.core.errors import UserError
from compress.core.processes import main_first
from compress.cost.count import Cost
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.recipe.cache import PassCache
from compress.recipe.checkpoint import dump
from compress.recipe.plan import label
from compress.recipe.recipe import Recipe


@dataclass
class PassRunner:
    """`source` is the uncompressed model with its values; `costs` has its cost and that after every
    pass.
    """

    recipe: Recipe
    cache: PassCache
    device: torch.device
    workdir: Path
    source: SRModel
    costs: list[tuple[str, Cost]]

    def after(self, count: int) -> tuple[SRModel, list[dict]]:
        """The model after the first `count` passes, on the device, and the ledger's entries of
        those passes.

        Passes that the cache has finished before are read from it; the others are run and stored,
        one by one.
        """
        passes = self.recipe.passes
        done, model, entries = self.cache.longest(passes[:count])
        if model is None:
            model = self.recipe.source.build()
            self.recipe.source.load(model)
        else:
            entries = [{**entry, "cached": True} for entry in entries]
            print(f"{done} of {count} passes from the cache ({self.cache.key(passes[:done])})")
        model = model.to(self.device).eval().requires_grad_(False)
        for i in range(done, count):
            print(f"pass {i + 1} of {len(passes)}: {label(passes[i])}")
            entries.append(self._run(model, i))
            main_first(lambda i=i: self.cache.store(model, passes[: i + 1], entries), self.device)
        return model, entries

    def _run(self, model: SRModel, i: int) -> dict:
        """Change `model` by pass `i`; returns the ledger's entry."""
        step, began = self.recipe.passes[i], time.time()
        step.convert(model)
        context = FitContext(
            source=self.source,
            seed=self.recipe.seed,
            device=self.device,
            workdir=self.workdir / f"pass_{i + 1}",
            before=lambda name: self.before(name, i),
        )
        figures = step.fit(model, context)
        return {
            "pass": dump(step),
            "seconds": round(time.time() - began, 1),
            "cached": False,
            "data": self.cache.identity(step),
            "figures": figures,
            "before": self.costs[i][1].totals(),
            "after": self.costs[i + 1][1].totals(),
        }

    def before(self, name: str, index: int) -> SRModel:
        """The model as it was before the last pass called `name` up to number `index`, with its
        values.

        What the cache no longer holds of it is computed again.
        """
        passes = self.recipe.passes
        places = [i for i in range(index + 1) if dump(passes[i])["pass"] == name]
        if not places:
            raise UserError(
                f"pass {index + 1}, '{dump(passes[index])['pass']}', needs the model as it "
                f"was before a "
                f"pass '{name}', which the recipe does not have further up; add it"
            )
        with (
            torch.random.fork_rng()
        ):  # what is computed again leaves the pass's random numbers as they are
            return self.after(places[-1])[0].eval().requires_grad_(False)
