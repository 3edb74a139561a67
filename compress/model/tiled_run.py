"""A model on an image of any size, its components tile by tile."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from compress.core.errors import UserError
from compress.model.calls import (
    CLEAN_LATENT,
    LATENT,
    LR,
    PREDICTION,
    STATE,
    Call,
    Values,
    run_calls,
)
from compress.model.components import Components
from compress.model.steps import at_step
from compress.process.padding import surround
from compress.process.shared_norms import SharedNorms, norms_in, running_in_tiles
from compress.process.tiling import Cut, joined, tiled_rows


@dataclass(frozen=True)
class Tiling:
    """How a large image is cut into tiles.

    Attributes:
        tile: Side of a tile in latent pixels, a multiple of what the denoiser takes. Maps no larger
            than this stay whole.
        overlap: How many latent pixels neighbours share.
        colour_fix: The colour correction of images of several tiles; None for the model's own.
        margin: How many input pixels are reflected beyond every border and cropped from the result.
            Networks see zeros there, and what they make of the outermost pixels is a frame. 0 is
            what published pipelines do. Tiles at the borders have it beside `tile`.
        flush: Whether tiles stand every `tile - overlap` pixels and the last one ends at the
            border, as in published pipelines; else they are spaced evenly.
        shared_norms: Components that run in padded tiles whose group norms share the statistics of
            all of them, where a map has several tiles. The others run in blended tiles, and so do
            these once a pass has put a network without group norms in their place.
    """

    tile: int = 96
    overlap: int = 32
    colour_fix: str | None = None
    margin: int = 0
    flush: bool = False
    shared_norms: tuple[SharedNorms, ...] = ()


# tests/bench/bench_frame.py: less leaves a frame on some family, more improves nothing.
MARGIN = 16
WHOLE = Tiling()


class TiledRun:
    """One image through a model.

    What reads no map of the image, or makes something else, runs whole.

    Args:
        model: The model.
        tiling: How the image is cut.
        several: Whether there is more than one tile.
        multiple: Sides of the input that the networks take are multiples of it.
    """

    def __init__(self, model: Components, tiling: Tiling, several: bool, multiple: int):
        self.model = model
        self.multiple = multiple
        self.wiring = model.wiring
        self.tiling = tiling
        self.several = several

    def cut(self, ratio: float) -> Cut:
        """The tiles in pixels of a map of that ratio to the input."""
        scale = ratio / self._ratio(LATENT)
        margin = self.tiling.margin if self.several else 0  # one piece has it within
        return Cut(
            int(self.tiling.tile * scale),
            int(self.tiling.overlap * scale),
            int(self.multiple * ratio),
            int(margin * ratio),
            self.tiling.flush,
        )

    def rows(self, values: Values, report: Callable[[str], None]) -> Iterator[torch.Tensor]:
        """The image with its margin, in strips from top to bottom.

        Args:
            values: The images, without margin. They are used up.
            report: Told the name of each component before it runs.
        """
        values[LR] = surround(values[LR], self.tiling.margin, self.multiple)
        for call in self.wiring.before:
            self._run(call, values, report)
        for call in self.wiring.steps:
            report(call.component)
        clean = self._restore(values)
        *early, last = self.wiring.after
        needed = {name for call in self.wiring.after for name in call.inputs}
        for name in values.keys() - needed:
            del values[name]
        values[CLEAN_LATENT] = clean
        del clean
        for call in early:
            self._run(call, values, report)
        report(last.component)
        maps = self._maps(last.inputs, values)
        cut = replace(self.cut(self._ratio(maps[0])), align=1)
        yield from self._strips(last, values, maps, cut, last.outputs[0])

    def _ratio(self, name: str) -> float:
        return self.wiring.ratios[name]

    def _maps(self, names: tuple[str, ...], values: Values) -> list[str]:
        """Those of the values that are maps of the image."""
        return [n for n in names if n in self.wiring.ratios and values.get(n) is not None]

    def _strips(
        self, call: Call, values: Values, maps: list[str], cut: Cut, output: str
    ) -> Iterator[torch.Tensor]:
        """What a call of one output makes, tile by tile."""
        shared = self.shared_norms(call.component)
        if shared is not None:
            network, how = shared
            local = dict(values)
            with running_in_tiles(network, how):
                run_calls(self.model, [call], local)
            return iter([local[output]])
        first, *others = maps
        run = self._function(call, values, maps)
        scale = self._ratio(output) / self._ratio(first)
        return tiled_rows(run, values[first], cut, scale, self._beside(first, others, values))

    def shared_norms(self, component: str) -> tuple[nn.Module, SharedNorms] | None:
        """What runs in padded tiles in a component, and how; None for blended tiles."""
        how = next((how for how in self.tiling.shared_norms if how.component == component), None)
        if how is None or not self.several:
            return None
        whole = self.model.component(component, "shared_norms")
        inside = dict(whole.named_modules())
        if how.part not in inside or not norms_in(inside[how.part]):
            return None
        if getattr(whole, "points", None) is not None:
            raise UserError(
                f"tiles that share the statistics of their norms: the operators of {component} are "
                "quantised and know one call for an image; take blended tiles"
            )
        return inside[how.part], how

    def _beside(
        self, first: str, others: list[str], values: Values
    ) -> list[tuple[torch.Tensor, float]]:
        """Further maps with their sides by that of the first."""
        return [(values[name], self._ratio(name) / self._ratio(first)) for name in others]

    def _function(self, call: Call, values: Values, maps: list[str]) -> Callable[..., torch.Tensor]:
        """A call as a function of pieces of its maps."""

        def run(*pieces: torch.Tensor) -> torch.Tensor:
            local = {name: values[name] for name in call.inputs}
            local |= dict(zip(maps, pieces, strict=True))
            run_calls(self.model, [call], local)
            return local[call.outputs[0]]

        return run

    def _run(self, call: Call, values: Values, report: Callable[[str], None]) -> None:
        """Run a call on the whole image, and add what it makes."""
        if not call.inputs or getattr(self.model, call.component) is None:
            run_calls(self.model, [call], values)
            return
        report(call.component)
        maps = self._maps(call.inputs, values)
        is_map = len(call.outputs) == 1 and call.outputs[0] in self.wiring.ratios
        if not maps or not is_map:
            run_calls(self.model, [call], values)
            return
        output = call.outputs[0]
        first = values[maps[0]]
        strips = self._strips(call, values, maps, self.cut(self._ratio(maps[0])), output)
        height = round(first.shape[-2] * self._ratio(output) / self._ratio(maps[0]))
        values[output] = joined(strips, height)

    def _restore(self, values: Values) -> torch.Tensor:
        """The clean latent.

        The components of a step run together on each tile of the state. A process that is `by_tile`
        runs whole on each tile, and the clean latents are blended once.
        """
        if not (self.several and getattr(self.model.process, "by_tile", False)):
            return self.model.run_process(values, _InTiles(self, values))
        read = dict.fromkeys([*self.model.process.inputs, *self.wiring.read_by_steps()])
        first, *others = self._maps(tuple(read), values)

        def run(*pieces: torch.Tensor) -> torch.Tensor:
            return self.model.restore(values | dict(zip((first, *others), pieces, strict=True)))

        ratio = self._ratio(first)
        scale = self._ratio(CLEAN_LATENT) / ratio
        beside = self._beside(first, others, values)
        strips = tiled_rows(run, values[first], self.cut(ratio), scale, beside)
        return joined(strips, round(values[first].shape[-2] * scale))

    def predict(
        self, values: Values, state: torch.Tensor, *timesteps: torch.Tensor
    ) -> torch.Tensor:
        """The prediction of one step, tile by tile; arguments are those of `Steps`."""
        ratio = self._ratio(STATE)
        read = self._maps(self.wiring.read_by_steps(), values)

        def run(piece: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
            local = values | dict(zip(read, others, strict=True))
            return self.model.predict(local, piece, *timesteps)

        scale = self._ratio(PREDICTION) / ratio
        strips = tiled_rows(run, state, self.cut(ratio), scale, self._beside(STATE, read, values))
        return joined(strips, round(state.shape[-2] * scale))

    def call(self, component: str, inputs: tuple[Any, ...]) -> Any:
        """What a component makes of other inputs than in the model's run, tile by tile."""
        call = self.wiring.call(component)
        local = call.given(inputs)
        self._run(call, local, report_nothing)
        return call.result(local)


class _InTiles:
    """What a process may call, in tiles.

    Args:
        run: The run.
        values: What there was before the process.
    """

    def __init__(self, run: TiledRun, values: Values):
        self.run = run
        self.values = values
        self.number = 0  # of the next step

    def __call__(
        self, state: torch.Tensor, *timesteps: torch.Tensor, **values: Any
    ) -> torch.Tensor:
        known = self.run.model.replacing(self.values, values)
        with at_step(self.number):
            self.number += 1
            return self.run.predict(known, state, *timesteps)

    def call(self, component: str, *inputs: Any) -> Any:
        return self.run.call(component, inputs)


def report_nothing(_component: str) -> None:
    """What is told of nothing."""
