"""Steps of a chain that each tile takes as it needs them, by `adaptive` in manifest.json.

The graphs of `each_step` run at a place of the chain. Then the graph of the regressor says what
several metrics rose by since the call before, and `walks.py` which place is next, or that the tile
leaves with its best clean latent. `skips` has the factors of the state on arriving there, by the
places that they depend on.
"""

from collections.abc import Callable

import numpy as np

from .walks import Rules, Walk

CLEAN_BEFORE, CLEAN, LATENT = "clean_before", "clean", "latent"
PREDICTION, STATE, TIMESTEP = "prediction", "state", "timestep"
Values = dict[str, np.ndarray]
# Runs a graph on the values of a tile, and adds what it puts out.
RunGraph = Callable[[str, Values], None]
WeightedSum = Callable[[dict[str, float], Values], np.ndarray]


class Tile:
    """One tile on its way.

    Args:
        host: `host` of the manifest.
        values: What there is before the process.
        run: Runs a graph.
        add: Makes a weighted sum.
    """

    def __init__(self, host: dict, values: Values, run: RunGraph, add: WeightedSum):
        self.table = host["adaptive"]
        self.each = host["each_step"]
        self.values = values
        self.run = run
        self.add = add
        self.state = add(host["start"], values)
        self.known: Values = {}  # states and predictions of the places that were visited
        self.path: list[int] = []

    def walk(self) -> np.ndarray:
        """The clean latent."""
        table = self.table
        rules = Rules(tuple(table["intervals"]), table["tau"], table["first"], bool(table["leave"]))
        walk = Walk(rules, table["places"])
        clean = best = self._call(0)
        following: int | None = walk.first()
        while following is not None:
            self._go(following)
            if following == table["places"]:
                return self.state
            walk.go(following)
            before, clean = clean, self._call(following)
            following = walk.onward(*self._gains(clean, before, following))
            if walk.best_place == walk.place:
                best = clean
        return best

    def _call(self, place: int) -> np.ndarray:
        """Run the graphs of a step at a place; the clean latent that they tell."""
        index = len(self.path)
        self.path.append(place)
        local = {**self.values, STATE: self.state, TIMESTEP: self._timestep(place)}
        for name in self.each:
            self.run(name, local)
        self.known[STATE] = self.known[f"{STATE}_{index}"] = self.state
        self.known[PREDICTION] = self.known[f"{PREDICTION}_{index}"] = local[PREDICTION]
        return self.add(self.table["clean"][place], self.known)

    def _go(self, place: int) -> None:
        """Take the state to a later place."""
        before = self.path if self.table["whole_path"] else self.path[-1:]
        key = ",".join(map(str, [*before, place]))
        self.state = self.add(self.table["skips"][key], {**self.values, **self.known})

    def _gains(self, clean: np.ndarray, before: np.ndarray, place: int) -> tuple[float, float]:
        local = {
            CLEAN: clean,
            CLEAN_BEFORE: before,
            LATENT: self.values[LATENT],
            TIMESTEP: self._timestep(place),
        }
        self.run(self.table["regressor"], local)
        rises = local["rises"].astype(np.float64)
        fr, nr = np.tanh(rises @ np.array(self.table["weights"], np.float64).T)[0].tolist()
        return fr, nr

    def _timestep(self, place: int) -> np.ndarray:
        return np.array([self.table["timesteps"][place]], np.int64)
