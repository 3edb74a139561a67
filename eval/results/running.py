"""Run a measurement: its jobs one after the other, each kept when it is done."""

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from compress.core.errors import UserError, nearest
from compress.core.files import replacing
from compress.core.json_files import check_shape, read_lines
from eval.results import datafile, machine, provenance
from eval.results.datafile import Data, JobRecord, Piece, Session
from eval.results.measurement import Finished, Job, Measurement, Short, written_out
from eval.results.places import NEW, Places, missing

_LOG = logging.getLogger(__name__)

SAMPLE = 2.0  # seconds in which other work on the machine is looked for
LAST = 12  # lines of a failed command that are shown


@dataclass(frozen=True)
class Wish:
    """How measurements are run.

    Attributes:
        places: Where everything lies.
        results: The folder of the files.
        resume: Keep jobs that are done and current.
        busy: Measure times although other work is on the machine.
        short: Less than a measurement asks for.
        gather: Write what is done so far, and run nothing.
        jobs: Keys of the jobs that are run; None for all. What is done of the others stays.
    """

    places: Places
    results: Path
    resume: bool = False
    busy: bool = False
    short: Short = field(default_factory=Short)
    gather: bool = False
    jobs: tuple[str, ...] | None = None


def why_not(measurement: Measurement, wish: Wish) -> str | None:
    """Why a measurement cannot be run here, as a sentence; None where it can."""
    lacking = missing(measurement, wish.places.given)
    if lacking:
        return f"not run: needs {', '.join(lacking)}"
    if measurement.is_timing and not wish.busy:
        others = _other_work_now()
        if others is not None and others > machine.MOST_OTHER_WORK:
            return (
                f"not run: needs a machine without other work, which keeps {others:.2f} cores busy "
                "(--busy measures all the same)"
            )
    return None


def _other_work_now() -> float | None:
    before = machine.Work.so_far(time.monotonic())
    if before is None:
        return None
    time.sleep(SAMPLE)
    after = machine.Work.so_far(time.monotonic())
    return None if after is None else after.others_since(before)


def session_here(root: Path) -> Session:
    """What all jobs of this process have in common."""
    return {
        "commit": provenance.commit(root),
        "code": provenance.code_hash(root),
        "versions": provenance.installed_versions(),
        "machine": machine.describe(),
    }


def run(measurement: Measurement, wish: Wish, session: Session) -> Data | None:
    """Run what is not done yet, and write the file of the measurement.

    Raises:
        UserError: There is no such job. Or jobs failed: their reasons were printed, and the others
            are kept for --resume.
    """
    file = wish.results / f"{measurement.name}.json"
    if file.is_file():
        datafile.read(file)  # refuses to replace what is no result of ours
    partial = wish.places.workdir / f"{measurement.name}.partial.jsonl"
    jobs = _wished_jobs(measurement, wish)
    if not wish.resume and wish.jobs is None:
        partial.unlink(missing_ok=True)
    known = _known(measurement, wish, partial) if wish.resume else {}
    pieces, failed = [], []
    for number, job in enumerate(jobs, start=1):
        head = f"{measurement.name} {number}/{len(jobs)} {job.key}"
        piece = known.get(job.key)
        if piece is not None and _is_current(piece, job, measurement, session, wish):
            _LOG.info("%s: done on %s", head, piece["record"]["date"])
            pieces.append(piece)
            continue
        try:
            piece = run_job(measurement, job, wish.places, session)
        except UserError as error:
            _LOG.warning("%s: %s", head, error)
            failed.append(job.key)
            continue
        _LOG.info("%s: %.0f s", head, piece["record"]["seconds"])
        _append(partial, piece)
        pieces.append(piece)
    if failed:
        raise UserError(
            f"{measurement.name}: failed: {', '.join(failed)}; the other jobs are kept for --resume"
        )
    if wish.jobs is not None:
        return gather(measurement, wish, session)
    data = datafile.assemble(measurement, pieces)
    if wish.short == Short():
        _take_pictures(measurement, wish.places, jobs)
    datafile.write(data, file)
    partial.unlink(missing_ok=True)
    return data


def _wished_jobs(measurement: Measurement, wish: Wish) -> list[Job]:
    """All jobs, or those of --jobs in its order."""
    jobs = measurement.jobs(wish.short)
    if wish.jobs is None:
        return jobs
    by_key = {job.key: job for job in jobs}
    for key in wish.jobs:
        if key not in by_key:
            raise UserError(
                f"--jobs: {measurement.name} has no job '{key}'{nearest(key, by_key)}; there are: "
                f"{', '.join(by_key)}"
            )
    return [by_key[key] for key in wish.jobs]


def gather(measurement: Measurement, wish: Wish, session: Session) -> Data | None:
    """Write the file of a measurement from the jobs that are done and current, and run none.

    Its page names the jobs that are missing. What a killed run left stays for --resume.

    Returns:
        What was written; None where no job is done.
    """
    file = wish.results / f"{measurement.name}.json"
    known = _known(measurement, wish, wish.places.workdir / f"{measurement.name}.partial.jsonl")
    jobs = measurement.jobs(wish.short)
    done = [
        job
        for job in jobs
        if job.key in known and _is_current(known[job.key], job, measurement, session, wish)
    ]
    _LOG.info("%s: %d of %d jobs are done", measurement.name, len(done), len(jobs))
    if not done:
        return None
    data = datafile.assemble(measurement, [known[job.key] for job in done])
    if measurement.pictures and len(done) == len(jobs):
        _take_pictures(measurement, wish.places, jobs)
    datafile.write(data, file)
    return data


def _take_pictures(measurement: Measurement, places: Places, jobs: list[Job]) -> None:
    """Copy the pictures that jobs drew to where pages show them."""
    folders = [places.out(measurement.name, job) for job in jobs]
    for picture in measurement.pictures:
        name = Path(picture).name
        drawn = [folder / name for folder in folders if (folder / name).is_file()]
        if not drawn:
            raise UserError(f"{measurement.name}: no job drew {name}; delete its work, and repeat")
        with replacing(places.root / picture) as partial:
            shutil.copyfile(drawn[0], partial)


def _append(file: Path, piece: Piece) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(datafile.dump(piece) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def _known(measurement: Measurement, wish: Wish, partial: Path) -> dict[str, Piece]:
    """Finished jobs by key, of the file that is there and of a killed run, which is the later."""
    pieces: list[Piece] = []
    file = wish.results / f"{measurement.name}.json"
    if file.is_file():
        pieces += datafile.pieces_of(datafile.read(file))
    for line in read_lines(partial, dict):
        check_shape(line, Piece, str(partial), "delete it, and measure again")
        pieces.append(line)
    return {piece["record"]["key"]: piece for piece in pieces}


def _is_current(
    piece: Piece, job: Job, measurement: Measurement, session: Session, wish: Wish
) -> bool:
    """Whether a finished job would be the same again: edition, commands, files and versions."""
    record = piece["record"]
    return (
        piece["edition"] == measurement.edition
        and record["commands"] == [written_out(words) for words in job.commands]
        and record["inputs"] == provenance.hashes(job.inputs, wish.places.root)
        and piece["session"]["versions"] == session["versions"]
    )


def run_job(measurement: Measurement, job: Job, places: Places, session: Session) -> Piece:
    """Run the commands of a job and read its rows.

    Raises:
        UserError: A command ends with another code than those of the job, or leaves no rows.
    """
    inputs = provenance.hashes(job.inputs, places.root)
    absent = [name for name, digest in inputs.items() if not digest]
    if absent:
        raise UserError(f"{job.key}: {absent[0]} is not there")
    out = places.out(measurement.name, job)
    shutil.rmtree(out / NEW, ignore_errors=True)
    (out / NEW).mkdir(parents=True)
    load, before = machine.load_average(), machine.Work.so_far(time.monotonic())
    seconds = tuple(_run_commands(job, places, out))
    after = machine.Work.so_far(time.monotonic())
    rows = job.read(Finished(out, seconds, lambda word: places.place(word, out)))
    if not rows:
        raise UserError(f"{job.key}: its commands left no rows in {out}")
    record: JobRecord = {
        "key": job.key,
        "commands": [written_out(words) for words in job.commands],
        "inputs": inputs,
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(sum(seconds), 1),
        "load": [load, machine.load_average()],
        "other_work": after.others_since(before) if after and before else None,
        "session": 0,
    }
    tidied = [dict(datafile.tidy(row, f"{measurement.name}, {job.key}")) for row in rows]
    return {"record": record, "session": session, "edition": measurement.edition, "rows": tidied}


def _run_commands(job: Job, places: Places, out: Path) -> Iterator[float]:
    """Run each command with its output in files; yields the seconds that each took."""
    paths = [str(places.root), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    for number, words in enumerate(job.commands):
        said, log = out / f"stdout_{number}.txt", out / f"stderr_{number}.txt"
        began = time.monotonic()
        with said.open("w", encoding="utf-8") as stdout, log.open("w", encoding="utf-8") as stderr:
            done = subprocess.run(
                places.command(words, out),
                cwd=places.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                check=False,
            )
        if done.returncode not in job.codes:
            end = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LAST:]
            _LOG.warning("\n".join(end))
            raise UserError(
                f"{job.key}: `{written_out(words)}` ended with {done.returncode}; all that it "
                f"said is in {log}"
            )
        yield time.monotonic() - began
