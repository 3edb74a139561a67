"""Where the words in braces of a job lead on this machine, and what is missing."""

import hashlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from compress.core.code_version import code_version
from compress.core.extras import EXTRA_OF, install_line
from eval.results.measurement import NEEDS, Job, Measurement, written_out
from eval.results.provenance import hashes
from eval.results.weights import recipe_inputs

WORD = re.compile(r"\{([a-z0-9_]+)(?::([A-Za-z0-9_.-]+))?\}")
NEW = "new"  # the folder of a job that is empty when the job begins
DIGITS = 10  # of a folder's name


@dataclass(frozen=True)
class Places:
    """What the command line gave.

    Attributes:
        root: The clone.
        workdir: For runs and for what jobs write. A folder in it is named by all that its content
            depends on, so that another measurement, or a resumed one, finds what is there and never
            takes what was made with other weights or other code.
        given: Key of NEEDS -> path.
    """

    root: Path
    workdir: Path
    given: Mapping[str, Path]

    def run(self, recipe: str) -> Path:
        """The run directory of a recipe."""
        return self.workdir / "runs" / f"{recipe}-{self._digest(recipe_inputs(recipe), '')}"

    def out(self, measurement: str, job: Job) -> Path:
        """The folder of a job."""
        commands = "\n".join(map(written_out, job.commands))
        name = re.sub(r"[^a-z0-9]+", "_", job.key.lower()).strip("_")
        return self.workdir / measurement / f"{name}-{self._digest(job.inputs, commands)}"

    def _digest(self, inputs: tuple[str, ...], text: str) -> str:
        parts = [text, code_version(), repr(hashes(inputs, self.root))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:DIGITS]

    def place(self, word: str, out: Path) -> Path:
        """The path of a word in braces.

        Args:
            word: Such as `{realsr}` or `{run:passionsr_w8a8}`.
            out: The folder of the job.
        """
        match = WORD.fullmatch(word)
        if match is None:
            raise ValueError(f"{word} is no place")
        kind, name = match.groups()
        if kind == "run":
            return self.run(name)
        if kind == "out":
            return out
        if kind == "new":
            return out / NEW
        if kind == "work":
            return self.workdir
        if kind == "skimage":  # which brings photographs with it
            return Path(str(files("skimage")))
        return self.given[kind]

    def command(self, words: tuple[str, ...], out: Path) -> list[str]:
        """The words of a command as a process takes them."""
        filled = [WORD.sub(lambda found: str(self.place(found[0], out)), word) for word in words]
        return [sys.executable, *filled[1:]] if filled[0] == "python" else filled


def missing(measurement: Measurement, given: Mapping[str, Path]) -> list[str]:
    """What a measurement needs and has not, each with how to give it."""
    lacking = []
    for key in measurement.needs:
        need = NEEDS[key]
        if key not in given:
            lacking.append(f"{need.option} {need.word} ({need.text})")
    for package in measurement.packages:
        if importlib.util.find_spec(package) is None:
            extra = EXTRA_OF.get(package)
            remedy = f" ({install_line(extra)})" if extra else ""
            lacking.append(f"the package {package}{remedy}")
    return lacking
