"""From a model to a verified folder.

A folder is written under a temporary name: the target's files, run.py, manifest.json, and
parity.json once every file has run. It takes its final name only if the runtime agrees with torch;
else it stays as NAME.failed.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.core import folders, marks
from compress.core.files import write_text, writing
from compress.model.sr_model import SRModel
from compress.recipe.export_options import ExportOptions
from export.parity.verify import verify_exported
from export.targets import manifest
from export.targets.contract import Exported
from export.targets.parts import check_host_arithmetic, check_kit, choose_parts
from export.targets.table import check_options, check_packages, choose_target, find_writer
from export.targets.weight_only import float_activations

FAILED_FILE = "FAILED.txt"


def export(
    model: SRModel, out: Path, options: ExportOptions, model_sha256: str | None = None
) -> Exported:
    """Write a model for a target under a temporary name beside `out`, and verify it.

    Args:
        model: In float, or with the codes of a quantize pass.
        out: The folder's final name, which `finish` gives it.
        options: What to export, and how.
        model_sha256: Of the file that the model was read from, for the manifest.

    Returns:
        What was made, with its parity where it can run here.

    Raises:
        UserError: A package is missing, or the target cannot do what is asked.
    """
    check_options(options)
    check_packages(options)
    target = choose_target(options.target)
    parts = choose_parts(model, target, options)
    check_kit(parts)
    check_host_arithmetic(parts)
    partial = folders.begin(out, marks.EXPORT)
    with writing(partial):
        made = find_writer(target)(parts, partial)
        manifest.write(parts, made, partial, model_sha256)
        if made.runs:
            with float_activations(parts):
                made.rows = verify_exported(parts, made, partial, target)
        if made.runner:
            manifest.refresh(made, partial)
    return made


def failed_of(out: Path) -> Path:
    """Where an export stays that the runtime does not agree with."""
    return out.with_name(f"{out.name}.failed")


@contextmanager
def claimed(out: Path, option: str, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Have `out` and NAME.failed for this process alone, before any work.

    Args:
        out: The folder of the export.
        option: What the user calls it, such as ``--out``.
        inputs: Files and folders that the command reads.

    Raises:
        UserError: One of them is no export of ours, a link, an input, a home, …, or another
            process writes it.
    """
    folders.check_place(out, option, inputs)
    folders.check_place(failed_of(out), option, inputs)
    folders.check_ours(failed_of(out), marks.EXPORT, option)
    with folders.claimed(out, marks.EXPORT, option, inputs):
        yield out


def finish(out: Path, problem: str | None, keep: bool = False) -> Path:
    """Give a folder that `export` wrote its final name, or, where it failed, NAME.failed.

    Args:
        out: The final name.
        problem: Why it failed, for FAILED.txt; None where it did not.
        keep: Leave a failed one under its final name, marked by that file alone.

    Returns:
        Where the folder is.

    Raises:
        UserError: Something that is no export of ours has come to stand there. The folder then
            keeps its temporary name.
    """
    partial = folders.partial_of(out)
    failed = failed_of(out)
    folders.check_ours(failed, marks.EXPORT, "--out")
    if problem:
        write_text(partial / FAILED_FILE, problem + "\n")
        marks.mark(partial, marks.EXPORT, marks.files_in(partial))
        if not keep:
            folders.swap_in(partial, failed, marks.EXPORT)
            return failed
    else:
        # manifest.json is the mark of a finished one.
        (partial / marks.MARK_FILE).unlink(missing_ok=True)
    folders.remove(failed, marks.EXPORT)
    folders.swap_in(partial, out, marks.EXPORT)
    return out
