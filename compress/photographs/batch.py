"""Many photographs by one program: all names are settled first, then one at a time is done."""

import argparse
import os
import sys
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import further, header, reading, writing
from .problem import CannotWriteError, PhotographError, shown

SCALE = 4
OUTPUTS, WEIGHTS = "outputs", "weights"
KNOBS = (OUTPUTS, "noise", "steps", WEIGHTS)  # of --strength
LONGEST_NAME = 255  # bytes, of the file systems in use
# Pixels, and the photograph's file, by which its further images are found -> the result's pixels.
Upscale = Callable[[np.ndarray, Path], np.ndarray]
_REMEDY = (
    "pass --max-pixels {pixels} to have it computed nevertheless; its result has 16 times as many"
)


@dataclass(frozen=True)
class Job:
    """One photograph and the file that it becomes.

    Attributes:
        source: The photograph.
        target: The file.
        done: Whether it exists already.
    """

    source: Path
    target: Path
    done: bool = False


def add_arguments(parser: argparse.ArgumentParser, convert: bool) -> None:
    """The options about files, the same in every program; `convert` is its default of --convert."""
    parser.add_argument(
        "-o",
        "--out",
        default="upscaled",
        help="folder for the results, NAME_x4.png (default: upscaled)",
    )
    parser.add_argument(
        "--convert",
        action=argparse.BooleanOptionalAction,
        default=convert,
        help=(
            "take grey, palette, CMYK, transparent (laid on white), 16-bit and float files too, "
            "as 8 bits"
        ),
    )
    parser.add_argument(
        "--format",
        choices=list(writing.FORMATS),
        default="png",
        help="of the results (default: png)",
    )
    parser.add_argument(
        "--quality", type=int, metavar="1..100", help="of jpeg (95), webp (95) and avif (90)"
    )
    parser.add_argument(
        "--existing",
        choices=["refuse", "skip"],
        default="refuse",
        help="what to do where a result exists already; it is never overwritten (default: refuse)",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=header.MAX_PIXELS,
        metavar="N",
        help="refuse photographs of more pixels, width times height (default: %(default)s)",
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="0..1",
        help="how much of the model's result there is: 0 is the plain enlargement of the "
        "photograph, 1 the whole result, between them lies a blend (default: 1)",
    )
    parser.add_argument(
        "--knob",
        default=OUTPUTS,
        metavar="outputs|noise|steps",
        help="what --strength turns: a blend of outputs, which every model has, or what the model "
        "has of its own: its noise, or how far its chain of steps goes (default: outputs)",
    )
    further.add_argument(parser)


def arguments(parser: argparse.ArgumentParser, argv: list[str]) -> list[str]:
    """`argv`, in which a file whose name begins with a dash is told from an option.

    From here on a name that the terminal's encoding lacks is printed escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    words = []
    for word in argv:
        is_option = word in parser._option_string_actions
        if word.startswith("-") and not is_option and Path(word).is_file():
            words.append(f".{os.sep}{word}")
        else:
            words.append(word)
    return words


def check_options(options: argparse.Namespace) -> None:
    """Raise PhotographError for options about files that do not go together."""
    if options.quality is not None:
        if writing.FORMATS[options.format].quality is None:
            raise PhotographError(
                f"--quality {options.quality}: {options.format} loses nothing; "
                "leave it out, or choose --format jpeg, webp or avif"
            )
        if not 1 <= options.quality <= 100:
            raise PhotographError(f"--quality {options.quality}: must be from 1 to 100")
    if options.max_pixels < 1:
        raise PhotographError(f"--max-pixels {options.max_pixels}: must be at least 1")
    if not 0 <= options.strength <= 1:
        raise PhotographError(
            f"--strength {options.strength:g}: choose a number from 0, the plain enlargement, to 1"
        )
    if options.knob not in KNOBS:
        raise PhotographError(
            f"--knob {options.knob}: is unknown; choose one of {', '.join(KNOBS)}"
        )
    if not str(options.out).strip():
        raise PhotographError("--out is empty; name a folder for the results")


def plan(sources: list[Path], out: Path, kind: str, existing: str) -> list[Job]:
    """Name every result before the first is computed.

    Args:
        sources: The photographs.
        out: The folder of the results.
        kind: One of `writing.FORMATS`.
        existing: "refuse" or "skip": what to do where a result exists already.

    Raises:
        PhotographError: `out` cannot be a folder; two results would have one name, also on a file
            system that ignores case; a result would be one of the photographs; a result exists and
            `existing` is "refuse"; a name is too long.
    """
    _check_folder(out)
    jobs = []
    claimed: dict[tuple[str, str], Path] = {}
    places = {_place(source): source for source in sources}
    for source in sources:
        target = out / f"{source.stem}_x{SCALE}{writing.FORMATS[kind].suffix}"
        place = _place(target)
        if place in claimed:
            raise PhotographError(
                f"{shown(claimed[place])} and {shown(source)} would both become {shown(target)}; "
                "give them in two commands with an --out of its own each"
            )
        claimed[place] = source
        _check_length(source, target)
        owner = places.get(place) or _same_file(target, sources)
        if owner is not None:
            raise PhotographError(
                f"{shown(target)}: the result of {shown(source)} would be the photograph "
                f"{shown(owner)}; choose another --out"
            )
        jobs.append(Job(source, target, os.path.lexists(target)))
    if existing == "refuse":
        _check_none_exists(jobs)
    return jobs


def _check_length(source: Path, target: Path) -> None:
    length = len(os.fsencode(target.name))
    if length > LONGEST_NAME:
        raise PhotographError(
            f"{shown(source)}: its result's name would be {length} bytes long, more than "
            f"{LONGEST_NAME}; rename the photograph"
        )


def _check_none_exists(jobs: list[Job]) -> None:
    targets = [job.target for job in jobs if job.done]
    if targets:
        more = f" and {len(targets) - 1} more" if len(targets) > 1 else ""
        raise PhotographError(
            f"{shown(targets[0])}{more} exists and is not overwritten; choose another --out, or "
            "--existing skip to leave it and go on"
        )


def _check_folder(out: Path) -> None:
    """Raise PhotographError where no folder `out` can be, or none that can be written."""
    for folder in (out, *out.parents):
        if os.path.lexists(folder) and not folder.is_dir():
            raise PhotographError(
                f"--out {shown(out)}: {shown(folder)} is no folder; choose another --out"
            )
    if out.is_dir() and not os.access(out, os.W_OK | os.X_OK):
        raise PhotographError(
            f"--out {shown(out)}: the folder cannot be written; choose another --out"
        )


def _place(path: Path) -> tuple[str, str]:
    """Folder and name of a file, equal for spellings that some file system takes as one."""
    name = unicodedata.normalize("NFC", path.name).casefold()
    return os.path.realpath(path.parent), unicodedata.normalize("NFC", name)


def _same_file(target: Path, sources: list[Path]) -> Path | None:
    if not target.exists():
        return None
    for source in sources:
        if source.exists() and os.path.samefile(target, source):
            return source
    return None


def run(
    sources: list[Path],
    options: argparse.Namespace,
    prepare: Callable[[], Upscale],
    failures: tuple[type[Exception], ...] = (),
) -> int:
    """Upscale the photographs one at a time; a bad one is told at the end, the others are done.

    Args:
        sources: The photographs.
        options: What `add_arguments` added.
        prepare: Loads the model; called once, after every name and header was looked at. It gives
            the function from float32 [1, 3, h, w] in [0, 1] and the photograph's file to
            [1, 3, 4h, 4w] in [0, 1], or to uint8 [4h, 4w, 3].
        failures: What that function may raise about one photograph, besides PhotographError.

    Returns:
        The exit code: 0, or 2 if a photograph failed.

    Raises:
        PhotographError: Before anything is computed: options, names or files that exist.
    """
    check_options(options)
    jobs = plan(sources, Path(options.out), options.format, options.existing)
    waiting, problems = _readable(jobs, options)
    if waiting:
        problems += _upscale_all(waiting, options, prepare(), failures)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 2 if problems else 0


def _readable(jobs: list[Job], options: argparse.Namespace) -> tuple[list[Job], list[str]]:
    """The jobs that are to be done, by the headers of their files; what is wrong with others."""
    waiting = []
    problems = []
    for job in jobs:
        if job.done:
            print(f"{shown(job.target)} exists and is left as it is")
            continue
        try:
            reading.check(job.source, options.convert, options.max_pixels, _REMEDY)
        except PhotographError as error:
            problems.append(str(error))
        else:
            waiting.append(job)
    return waiting, problems


def _upscale_all(
    jobs: list[Job],
    options: argparse.Namespace,
    upscale: Upscale,
    failures: tuple[type[Exception], ...],
) -> list[str]:
    """Do one job after the other. Returns what went wrong, a sentence each."""
    tellable: tuple[type[Exception], ...] = (PhotographError, *failures)
    problems = []
    for number, job in enumerate(jobs, 1):
        name = shown(job.source)
        try:
            print(_upscale_one(job, options, upscale), flush=True)
        except CannotWriteError as error:
            problems.append(str(error))
            rest = ", ".join(shown(other.source) for other in jobs[number:])
            if rest:
                problems.append(f"not done for that reason: {rest}")
            return problems
        except tellable as error:
            reason = str(error)
            problems.append(reason if reason.startswith(name) else f"{name}: {reason}")
        except MemoryError:
            problems.append(
                f"{name}: the memory does not suffice for a result of this size; "
                "give a smaller photograph"
            )
    return problems


def _upscale_one(job: Job, options: argparse.Namespace, upscale: Upscale) -> str:
    """Read, compute and write one photograph. Returns the line that says so."""
    began = time.perf_counter()
    photograph = reading.read(job.source, options.convert, options.max_pixels, remedy=_REMEDY)
    height, width = photograph.pixels.shape[:2]
    writing.check_size((width * SCALE, height * SCALE), options.format, shown(job.source))
    lr = photograph.pixels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    photograph.pixels = np.empty((0, 0, 3), np.uint8)  # the result needs the room
    pixels = writing.to_bytes(upscale(lr, job.source))
    if pixels.shape != (height * SCALE, width * SCALE, 3):
        raise PhotographError(
            f"the model gave {pixels.shape[1]}x{pixels.shape[0]} pixels for {width}x{height}"
        )
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWriteError(
            f"--out {shown(job.target.parent)}: {error.strerror}; choose another --out"
        ) from None
    lost = writing.save(pixels, photograph, job.target, options.format, options.quality)
    for note in [*photograph.notes, *lost]:
        print(f"note: {shown(job.source)}: {note}", file=sys.stderr)
    return (
        f"{shown(job.source)} {width}x{height} -> {shown(job.target)} "
        f"{pixels.shape[1]}x{pixels.shape[0]}  {time.perf_counter() - began:.2f} s"
    )
