"""How an evaluation is run: the options that `evaluate` and `python -m eval.run` share."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from compress.core.errors import UserError
from compress.process.knobs import KNOBS, WEIGHTS
from eval.metric.benchmark import BENCHMARK

# Images scored at once, by kind of device. On a CPU several make no metric faster, and their
# buffers are too large to be kept.
BATCH = {"cpu": 1}
BATCH_ELSEWHERE = 4


@dataclass(frozen=True)
class EvaluateOptions:
    """How a model is measured; the text of each field is what `eval.run --help` says of it."""

    metrics: Iterable[str] = field(
        default=BENCHMARK,
        metadata={
            "help": "comma-separated: those of docs/evaluate.md, or any of pyiqa by its name; "
            "default %(default)s"
        },
    )
    iqa_weights: str | Path | None = field(
        default=None,
        metadata={
            "help": "folder with the metrics' weight files (python -m eval.weights), or its name "
            "on the hub"
        },
    )
    out: str | Path | None = field(
        default=None,
        metadata={"help": "default: RUN/eval/<data name>, or ./eval-<source>-<data name>"},
    )
    limit: int | None = field(default=None, metadata={"help": "only the first N images"})
    save: str | Path | None = field(
        default=None, metadata={"help": "keep the restored images as PNG"}
    )
    convert: bool = field(
        default=False,
        metadata={"help": "convert grayscale, RGBA and 16-bit files while reading"},
    )
    processes: int = field(default=1, metadata={"help": "share the images between N processes"})
    batch: int | None = field(
        default=None,
        metadata={"help": "images of one size scored at once (default: 1 on the CPU, 4 elsewhere)"},
    )
    speedup: float | None = field(
        default=None,
        metadata={"help": "times faster than OSEDiff at 128 -> 512, for ntire-final"},
    )
    cache: str | Path | None = field(
        default=None, metadata={"help": "scores measured before (default: in ~/.cache)"}
    )
    device: str = field(
        default="cpu", metadata={"help": "where models and metrics run, such as cpu or cuda:0"}
    )
    strength: float = field(
        default=1.0,
        metadata={"help": "how much of the result there is, from 0, the plain enlargement, to 1"},
    )
    knob: str = field(
        default="outputs",
        metadata={
            "help": "what strengths below 1 turn: a blend of outputs, which every model has, or "
            "what the model has of its own: noise, steps, or weights with --faithful; "
            "default %(default)s"
        },
    )
    faithful: str | Path | None = field(
        default=None,
        metadata={
            "help": "for --knob weights, the model of the faithful end, of the same structure and "
            "not quantised"
        },
    )
    references: Sequence[str | Path] = field(
        default=(),
        metadata={
            "help": "photographs of like content, for a model that refers to some: the patches "
            "most like each small image are taken; or one folder of folders that are named as the "
            "images; or one .safetensors file of python -m compress.references"
        },
    )
    progress: bool = field(default=True, metadata={"help": "show a bar of progress on stderr"})
    model_key: str | None = field(
        default=None,
        metadata={
            "help": "identity of a model that is given as an object, so that its restored images "
            "are found in the cache, too"
        },
    )

    def check(self) -> None:
        """Raise UserError for a device, number of processes, batch or speed that cannot be."""
        import torch  # takes seconds, which --help need not wait for

        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"device '{self.device}': this machine has no usable GPU; choose cpu")
        if self.knob not in KNOBS:
            raise UserError(f"--knob {self.knob}: is unknown; choose one of {', '.join(KNOBS)}")
        if (self.knob == WEIGHTS) != (self.faithful is not None):
            raise UserError(
                "--knob weights and --faithful MODEL belong together; give both or neither"
            )
        if self.processes < 1 or self.images_at_once < 1:
            raise UserError(
                f"{self.processes} processes and a batch of {self.images_at_once}: "
                "both must be at least 1"
            )
        if self.speedup is not None and self.speedup <= 0:
            raise UserError(
                f"speedup {self.speedup}: must be above 0; "
                "it is OSEDiff's time over the model's at 128 -> 512"
            )

    @property
    def given_references(self) -> tuple[Path, ...]:
        """`references` as paths."""
        return tuple(Path(one) for one in self.references)

    @property
    def images_at_once(self) -> int:
        """`batch`, or what suits the device."""
        if self.batch is not None:
            return self.batch
        return BATCH.get(self.device.partition(":")[0], BATCH_ELSEWHERE)


def add_option(parser: argparse.ArgumentParser, name: str, *flags: str, **argument: Any) -> None:
    """Give a command line the option of one field, with the field's text and default.

    Args:
        parser: The command line.
        name: A field of EvaluateOptions.
        flags: Spellings of the option; by default --NAME with hyphens.
        argument: What else `add_argument` takes, such as `type` and `metavar`.
    """
    text = {entry.name: entry.metadata["help"] for entry in fields(EvaluateOptions)}
    argument.setdefault("default", getattr(EvaluateOptions, name))
    parser.add_argument(*(flags or (f"--{name.replace('_', '-')}",)), help=text[name], **argument)
