"""The pass cache: the model after each pass, under a key of everything that it depends on.

Only finished passes are stored, by rename; a failed or killed one leaves nothing. What is read is
checked against the digest it was written with: a damaged entry is told and its passes run again.

    python -m compress.cache list [--check]
    python -m compress.cache prune --max-size 10GB
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import NamedTuple

from compress.core.code_version import code_version
from compress.core.errors import UserError
from compress.core.hub_config import with_local_files
from compress.core.json_files import read_json
from compress.core.tensors import read_tensors
from compress.model.passes import Pass
from compress.model.source import Source
from compress.model.sr_model import SRModel
from compress.recipe import cache_entry, cache_folders
from compress.recipe.checkpoint import convert_all, dump, package_of, save_model
from compress.recipe.plan import label

_LOG = logging.getLogger(__name__)

KEY_DIGITS = 32  # hex digits of an entry's name


class Resumed(NamedTuple):
    """Where a run goes on.

    Attributes:
        model: The model after the first `done` passes, with its values, on the CPU.
        entries: The ledger's entries of those passes.
        done: How many passes need not run.
    """

    model: SRModel
    entries: list[dict]
    done: int


class PassCache:
    """The models of one source and seed after passes.

    Data and weights are identified once, when they are first asked for: what changes while a run is
    on does not pass for what it began with.
    """

    def __init__(self, root: Path, source: Source, seed: int, spare: Path | None = None):
        """Use the cache `root`, which need not exist.

        Args:
            root: The folder of the entries.
            source: The config of the uncompressed model.
            seed: The recipe's.
            spare: Another folder, for what cannot be written in `root`.

        Raises:
            UserError: `root` is no folder.
        """
        if root.exists() and not root.is_dir():
            raise UserError(
                f"pass cache {root}: is no folder; choose another --cache, or give --no-cache"
            )
        self.root = root
        self.source = source
        self.seed = seed
        self.roots = [root] if spare is None or spare == root else [root, spare]
        self._identities: dict[str, str] = {}
        self._swept = False
        self._told: set[str] = set()

    def identity(self, config: Source | Pass) -> str:
        """`data_key` of a source or pass, as it was the first time, and another package's name."""
        name = json.dumps(dump(config), sort_keys=True)
        if name not in self._identities:
            self._identities[name] = with_local_files(config).data_key() + package_of(config)
        return self._identities[name]

    def key(self, passes: list[Pass]) -> str:
        """Identity of the model after `passes`: source, weights, configs, data, seed, code."""
        parts = {
            "source": dump(self.source),
            "weights": self.identity(self.source),
            "seed": self.seed,
            "passes": [[dump(step), self.identity(step)] for step in passes],
            "code": code_version(),
        }
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]

    def resume(self, passes: list[Pass]) -> Resumed:
        """The model to go on from: after as many of `passes` as are stored and sound.

        Where none is, it is the source with its values. Entries that come from here say so under
        "cached".
        """
        self._sweep()
        for done in range(len(passes), 0, -1):
            stored = self.read(passes[:done])
            if stored is None:
                continue
            model, entries = stored
            entries = [{**entry, "cached": True} for entry in entries]
            key = self.key(passes[:done])
            _LOG.info("%d of %d passes from the cache (%s)", done, len(passes), key)
            return Resumed(model, entries, done)
        model = self.source.build()
        with_local_files(self.source).load(model)
        return Resumed(model, [], 0)

    def _sweep(self) -> None:
        if self._swept:
            return
        self._swept = True
        for root in self.roots:
            count = cache_folders.sweep(root)
            if count:
                _LOG.info("pass cache %s: removed %d entries that killed runs left", root, count)

    def _sound(self, passes: list[Pass]) -> Path | None:
        """The folder of the entry of `passes`; None where there is none without damage."""
        name = self.key(passes)
        for root in self.roots:
            folder = root / name
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
        """The model after `passes` and the ledger's entries so far.

        None where none is stored, or it is damaged.
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
                with cache_folders.building(root / name) as partial:
                    self._write(partial, model, passes, entries)
                return True
            except OSError as error:
                self._tell_unwritten(root, self.roots[number:], error)
        return False

    def _write(self, folder: Path, model: SRModel, passes: list[Pass], entries: list[dict]) -> None:
        """The three files of an entry in `folder`."""
        save_model(model, folder / cache_entry.MODEL, self.source, passes)
        (folder / cache_entry.LEDGER).write_text(json.dumps(entries), encoding="utf-8")
        cache_entry.seal(folder, describe(self.source, passes))

    def _tell_unwritten(self, root: Path, others: list[Path], error: OSError) -> None:
        """Say that `root` could not be written, and what that means."""
        if others:
            consequence = f"{others[0]} keeps them for this run alone"
        else:
            consequence = "the run goes on, and would have to begin again if it were killed"
        reason = error.strerror or error
        self._tell(
            f"pass cache {root}: finished passes are not kept here ({reason}); {consequence}"
        )

    def _tell(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            _LOG.warning(line)


def describe(source: Source, passes: list[Pass]) -> str:
    """What an entry holds, for `list`: family and size, then the passes."""
    fields = dump(source)
    names = ", ".join(label(step) for step in passes)
    return f"{fields['family']} {fields.get('size', '')}: {names}"
