"""The pass cache: the model after each pass, under a key of everything that it depends on.

Only finished passes are stored, by rename; a failed or killed one leaves nothing.
"""

import hashlib
import json
import os
import shutil
from functools import cache
from pathlib import Path

from pydantic import BaseModel

from compress.checkpoint import MODEL_FILE, dump, save_model
from compress.errors import UserError
from compress.model import SRModel
from compress.passes.base import Pass
from compress.tensors import read_tensors


def default_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "diffusion-sr-compress"


@cache
def code_version() -> str:
    """Hash of this package's sources: a pass that was changed must not be answered from the cache."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.relative_to(Path(__file__).parent).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class PassCache:
    def __init__(self, root: Path, source: BaseModel, seed: int):
        self.root, self.source, self.seed = root, source, seed

    def key(self, passes: list[Pass]) -> str:
        """Identity of the model after `passes`: source and its weights, configs, data, seed, code."""
        parts = {"source": dump(self.source), "weights": self.source.data_key(), "seed": self.seed,
                 "passes": [[dump(p), p.data_key()] for p in passes], "code": code_version()}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def find(self, passes: list[Pass]) -> tuple[int, Path] | None:
        """The longest prefix of `passes` whose model is stored: (its length, its folder)."""
        for count in range(len(passes), 0, -1):
            folder = self.root / self.key(passes[:count])
            if folder.is_dir():
                return count, folder
        return None

    def read(self, passes: list[Pass], model: SRModel) -> list[dict]:
        """Fill a converted meta `model` with what `passes` left; returns their ledger entries."""
        folder = self.root / self.key(passes)
        if not folder.is_dir():
            raise UserError(f"pass cache {self.root}: the model after {len(passes)} passes is no longer there; run "
                            "again with --no-cache")
        return read_entry(folder, model)

    def store(self, model: SRModel, passes: list[Pass], entries: list[dict]) -> None:
        """Keep `model` as it is after `passes`, with the ledger's `entries` so far."""
        folder = self.root / self.key(passes)
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            save_model(model, partial / MODEL_FILE, self.source, passes)
            (partial / "ledger.json").write_text(json.dumps(entries))
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def read_entry(folder: Path, model: SRModel) -> list[dict]:
    """Fill a converted meta `model` from a cache folder and return its ledger entries."""
    read_tensors(model, folder / MODEL_FILE)
    return json.loads((folder / "ledger.json").read_text())
