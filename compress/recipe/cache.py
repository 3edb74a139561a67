"""The pass cache: the model after each pass, under a key of everything that it depends on.

Only finished passes are stored, by rename; a failed or killed one leaves nothing. What is read is
checked against the digest it was written with: a damaged entry is told and its passes run again.

    python -m compress.cache list [--check]
    python -m compress.cache prune --max-size 10GB
"""

import hashlib
import json
from functools import cache
from pathlib import Path

from compress.core.errors import UserError
from compress.core.identity import default_root  # noqa: F401  imported from here as well
from compress.core.json_files import read_json
from compress.core.tensors import read_tensors
from compress.model.passes import Pass
from compress.model.source import Source
from compress.model.sr_model import SRModel
from compress.recipe import cache_entry
from compress.recipe.checkpoint import convert_all, dump, save_model


@cache
def code_version() -> str:
    """Hash of this package's sources: a pass that was changed must not come from the cache."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class PassCache:
    """The models of one source and seed after passes, in `root`; in `spare` where `root` cannot be
    written.

    Data and weights are identified once, when they are first asked for: what changes while a run is
    on does not pass for what it began with.
    """

    def __init__(self, root: Path, source: Source, seed: int, spare: Path | None = None):
        if root.exists() and not root.is_dir():
            raise UserError(
                f"pass cache {root}: is no folder; choose another --cache, or give --no-cache"
            )
        self.root, self.source, self.seed = root, source, seed
        self.roots = [root] if spare is None or spare == root else [root, spare]
        self._identities: dict[str, str] = {}
        self._swept = False
        self._told: set[str] = set()

    def identity(self, config: Source | Pass) -> str:
        """`data_key` of a source or pass, as it was the first time."""
        name = json.dumps(dump(config), sort_keys=True)
        if name not in self._identities:
            self._identities[name] = config.data_key()
        return self._identities[name]

    def key(self, passes: list[Pass]) -> str:
        """Identity of the model after `passes`: source, weights, configs, data, seed, code."""
        parts = {
            "source": dump(self.source),
            "weights": self.identity(self.source),
            "seed": self.seed,
            "passes": [[dump(p), self.identity(p)] for p in passes],
            "code": code_version(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def longest(self, passes: list[Pass]) -> tuple[int, SRModel | None, list[dict]]:
        """The longest prefix of `passes` that is stored and sound: its length, its model, its
        ledger's entries.

        Where there is none: 0, None and no entries.
        """
        self._sweep()
        for count in range(len(passes), 0, -1):
            if found := self.read(passes[:count]):
                return count, *found
        return 0, None, []

    def _sweep(self) -> None:
        if self._swept:
            return
        self._swept = True
        for root in self.roots:
            if count := cache_entry.sweep(root):
                print(f"pass cache {root}: removed {count} unfinished entries of killed runs")

    def _sound(self, passes: list[Pass]) -> Path | None:
        name = self.key(passes)
        for folder in (root / name for root in self.roots):
            if not folder.exists():
                continue
            trouble = cache_entry.problem(folder)
            if trouble is None:
                return folder
            self._tell(
                f"pass cache: {folder} is damaged ({trouble}); pass {len(passes)} is run again"
            )
        return None

    def read(self, passes: list[Pass]) -> tuple[SRModel, list[dict]] | None:
        """The model after `passes` and the ledger's entries so far; None where none is stored, or
        it is damaged.
        """
        folder = self._sound(passes)
        if folder is None:
            return None
        model = convert_all(self.source, passes)
        try:
            read_tensors(model, folder / cache_entry.MODEL)
            entries = read_json(
                folder / cache_entry.LEDGER, "the ledger of a cache entry", list[dict]
            )
        except FileNotFoundError:
            return None  # pruned by another process
        except UserError:
            if folder.is_dir():
                raise
            return None
        cache_entry.touch(folder)
        return model, entries

    def store(self, model: SRModel, passes: list[Pass], entries: list[dict]) -> bool:
        """Keep `model` as it is after `passes`, with the ledger's `entries` so far.

        Returns:
            Whether it was kept. A disk that is full or a cache that cannot be written is told, and
            the run goes on.
        """
        name = self.key(passes)
        for number, root in enumerate(self.roots, 1):
            try:
                with cache_entry.building(root / name) as partial:
                    save_model(model, partial / cache_entry.MODEL, self.source, passes)
                    (partial / cache_entry.LEDGER).write_text(json.dumps(entries), encoding="utf-8")
                    cache_entry.seal(partial, describe(self.source, passes))
                return True
            except OSError as error:
                where = (
                    f"{self.roots[number]} keeps them for this run alone"
                    if number < len(self.roots)
                    else ("the run goes on, and would have to begin again if it were killed")
                )
                self._tell(
                    f"pass cache {root}: finished passes are not kept here "
                    f"({error.strerror or error}); {where}"
                )
        return False

    def _tell(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            print(line)


def describe(source: Source, passes: list[Pass]) -> str:
    """What an entry holds, for `list`: family and size, then the passes."""
    from compress.recipe.plan import label

    fields = dump(source)
    return f"{fields['family']} {fields.get('size', '')}: " + ", ".join(map(label, passes))
