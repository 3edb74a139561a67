"""Try a folder of hostile and ordinary inputs and print what came of each kind.

python tests/hostile/try_cases.py CASES [--kinds recipes img ...] [--verbose] [-o TABLE.md]

CASES holds one folder a kind: recipes, ckpt, img, onnx, lint, pickles; those that are there are
tried. A case ends well in one of two ways: the command does its work and exits 0, or it says one
sentence and exits 2. All else is a fault: a traceback, another exit code, more time or memory than
the bounds, a case that was changed. Where CASES holds expected.json, as `make_cases.py` writes it,
a result in the place of a sentence is a fault as well, and the other way round.
"""

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

MODEL = ROOT / "compress" / "assets" / "adcsr_nano.safetensors"
SECONDS = 120
GIGABYTES = 8
KINDS = ("recipes", "ckpt", "img", "onnx", "lint", "pickles")


@dataclass(frozen=True)
class Outcome:
    """How one command ended on one case."""

    kind: str
    case: str
    command: str
    ending: str  # "result", "sentence" or the fault
    said: str  # the last line of stderr
    seconds: float

    @property
    def is_fault(self) -> bool:
        """Whether a user would be left without a result and without a sentence."""
        return self.ending not in ("result", "sentence")


def digest_of(folder: Path) -> str:
    """One hash over the names and contents of all files below `folder`."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(folder)).encode("utf-8", "surrogateescape"))
            digest.update(path.read_bytes())
    return digest.hexdigest()


def run_in_child(work: Callable[[], None], folder: Path) -> tuple[int | None, str, float]:
    """Run `work` in a forked process inside `folder`.

    Args:
        work: What to do; it may raise SystemExit.
        folder: The working folder; stdout and stderr go into files there.

    Returns:
        The exit code (None past the time bound, negative for a signal), stderr, and the seconds.
    """
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        for name, number in (("stdout.txt", 1), ("stderr.txt", 2)):
            target = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(target, number)
        bound = GIGABYTES * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
        code = 1
        try:
            work()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    code = wait_for(child, began + SECONDS)
    said = (folder / "stderr.txt").read_bytes().decode("utf-8", "replace")
    return code, said, time.monotonic() - began


def wait_for(child: int, deadline: float) -> int | None:
    """The exit code of `child`, or None where it was killed at `deadline`."""
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def judge(code: int | None, said: str, finds: bool = False) -> str:
    """`result`, `sentence`, or what the fault is.

    Args:
        code: How the command ended; None past the time bound.
        said: Its stderr.
        finds: Whether exit code 1 is a result: export.lint ends so where it found something.
    """
    if code is None:
        return f"no end within {SECONDS} s"
    if "Traceback" in said:
        return "traceback"
    if code == 0 or (finds and code == 1):
        return "result"
    told = [line for line in said.splitlines() if line.startswith("error: ")]
    if code == 2 and told:
        return "sentence"
    return f"exit code {code} without a sentence"


def is_expected(ending: str, wanted: str, command: str) -> bool:
    """Whether a case that must end as `wanted` (result, converted or sentence) may end so."""
    if ending not in ("result", "sentence"):
        return True  # a fault already
    if wanted == "converted":
        wanted = "result" if "--convert" in command else "sentence"
    return ending == wanted


def command_in_module(module: str) -> Callable[[list[str]], None]:
    """The command line `python -m module` as a function of its arguments."""
    return importlib.import_module(module).main


def command_in_script(script: Path) -> Callable[[list[str]], None]:
    """A stand-alone program as a function of its arguments; it replaces the child process."""

    def run(arguments: list[str]) -> None:
        os.execv(sys.executable, [sys.executable, str(script), *arguments])

    return run


def small_photograph(folder: Path) -> Path:
    """A 24x24 photograph-like PNG in `folder`."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    path = folder / "t.png"
    Image.fromarray(pixels).save(path)
    return path


def commands_for(
    kind: str, case: Path, exported: Path | None
) -> Iterator[tuple[str, Callable, list[str]]]:
    """What a user would type with `case`: (label, command, arguments)."""
    if kind == "recipes":
        yield "compress.run FILE --plan", command_in_module("compress.run"), [str(case), "--plan"]
    elif kind == "ckpt":
        upscale = command_in_module("compress.upscale")
        yield "compress.upscale FILE t.png", upscale, [str(case), "t.png", "-o", "o"]
        recipe = str(ROOT / "recipes" / "minmax_w8a8.yaml")
        overrides = [
            "export=[]",
            "eval.limit=1",
            "eval.metrics=[psnr]",
            "name=t",
            f"source.weights={case}",
        ]
        run = command_in_module("compress.run")
        yield "compress.run source.weights=FILE", run, [recipe, *overrides, "--cache", "cache"]
    elif kind == "img":
        upscale = command_in_module("compress.upscale")
        given = ["--", str(case)]
        yield "compress.upscale", upscale, [str(MODEL), "-o", "o", *given]
        yield "compress.upscale --convert", upscale, [str(MODEL), "--convert", "-o", "o", *given]
        if exported is not None:
            yield (
                "run.py --convert",
                command_in_script(exported / "run.py"),
                ["--convert", "-o", "o", *given],
            )
    elif kind in ("onnx", "lint"):
        lint = command_in_module("export.lint")
        yield "export.lint --target qnn", lint, [str(case), "--target", "qnn"]
        if kind == "lint":
            yield "export.lint --target tensorrt", lint, [str(case), "--target", "tensorrt"]
    elif kind == "pickles":
        recipe = str(ROOT / "recipes" / "passionsr_w8a8.yaml")
        overrides = [
            "source.size=sd21",
            "source.base=base",
            f"source.lora={case}",
            "export=[]",
            "name=t",
        ]
        yield (
            "compress.run source.lora=FILE",
            command_in_module("compress.run"),
            [recipe, *overrides],
        )


def try_case(kind: str, case: Path, exported: Path | None) -> list[Outcome]:
    """Every command on one case, each in an empty folder of its own."""
    outcomes = []
    for label, command, arguments in commands_for(kind, case, exported):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            small_photograph(folder)
            (folder / "base").mkdir()  # without it nothing reads a LoRA file
            code, said, seconds = run_in_child(lambda: command(arguments), folder)  # noqa: B023
        lines = [line for line in said.splitlines() if line.strip()]
        last = lines[-1] if lines else ""
        ending = judge(code, said, finds=label.startswith("export.lint"))
        outcomes.append(Outcome(kind, case.name, label, ending, last, seconds))
    return outcomes


def as_expected(outcome: Outcome, wanted: str | None) -> Outcome:
    """`outcome`, as a fault where it is not what its case must come to."""
    if wanted is None or is_expected(outcome.ending, wanted, outcome.command):
        return outcome
    return replace(outcome, ending=f"a {outcome.ending}, where a case of kind '{wanted}' stands")


def export_for_images(folder: Path) -> Path:
    """The embedded AdcSR nano as an exported ONNX folder."""
    target = folder / "exported"
    arguments = ["--target", "onnx", "--lr-size", "64x64", "-o", str(target)]
    command = [sys.executable, "-m", "export.run", str(MODEL), *arguments]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return target


def table_of(outcomes: list[Outcome]) -> str:
    """Counts by kind and command, as a Markdown table."""
    counts: dict[tuple[str, str], Counter] = {}
    for outcome in outcomes:
        ending = "fault" if outcome.is_fault else outcome.ending
        counts.setdefault((outcome.kind, outcome.command), Counter())[ending] += 1
    lines = [
        "| kind | command | cases | result | one sentence | fault |",
        "|---|---|---|---|---|---|",
    ]
    for (kind, command), found in counts.items():
        numbers = [found.total(), found["result"], found["sentence"], found["fault"]]
        lines.append(f"| {kind} | `{command}` | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(lines)


def main() -> int:
    """Try the cases; exit code 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path, help="a folder with one folder for each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, help="default: all that CASES has")
    parser.add_argument("--verbose", action="store_true", help="print every case and what was said")
    parser.add_argument("-o", "--out", type=Path, help="write the table there as well")
    options = parser.parse_args()
    cases = options.cases.resolve()
    kinds = options.kinds or [kind for kind in KINDS if (cases / kind).is_dir()]
    if missing := [kind for kind in kinds if not (cases / kind).is_dir()]:
        parser.error(f"{cases} has no folder {missing[0]}")
    if not kinds:
        parser.error(f"{cases} has none of the folders {', '.join(KINDS)}")
    before = digest_of(cases)
    listed = cases / "expected.json"
    expected = json.loads(listed.read_text(encoding="utf-8")) if listed.is_file() else {}
    outcomes = []
    with tempfile.TemporaryDirectory() as name:
        exported = export_for_images(Path(name)) if "img" in kinds else None
        for kind in kinds:
            for case in sorted(p for p in (cases / kind).iterdir() if p.is_file()):
                found = [
                    as_expected(outcome, expected.get(f"{kind}/{case.name}"))
                    for outcome in try_case(kind, case, exported)
                ]
                outcomes += found
                for outcome in found:
                    if options.verbose or outcome.is_fault:
                        print(
                            f"{outcome.kind}/{outcome.case!a} {outcome.command}: {outcome.ending} "
                            f"({outcome.seconds:.1f} s) {outcome.said[:300]!a}",
                            flush=True,
                        )
    table = table_of(outcomes)
    print(table)
    if options.out:
        options.out.write_text(table + "\n", encoding="utf-8")
    if digest_of(cases) != before:
        print("fault: a file among the cases was changed")
        return 1
    return int(any(outcome.is_fault for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
