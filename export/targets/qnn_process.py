"""Jobs of qnn_worker.py, each in a process of its own: compile a graph, or run one."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from compress.core.errors import UserError

WORKER = Path(__file__).with_name("qnn_worker.py")
TIMEOUT = 3600  # seconds that one graph may take to compile
MOST_REFUSALS = 8  # that a message names
VERBOSE = 0  # onnxruntime's log severity


class SimulatorCrashError(UserError):
    """A signal ended the QNN process."""


def find_python(python: str | None) -> str | None:
    """The interpreter that has onnxruntime-qnn.

    Args:
        python: The one to take; None for this one.

    Returns:
        Its path; None where this one has not got it.

    Raises:
        UserError: The given one has not got it.
    """
    if python is None:
        return sys.executable if importlib.util.find_spec("onnxruntime_qnn") else None
    probe = subprocess.run(
        [python, "-c", "import onnxruntime_qnn, onnxruntime, onnx, numpy"],
        capture_output=True,
        text=True,
    )
    if probe.returncode:
        raise UserError(
            f"{python} has no onnxruntime-qnn ({probe.stderr.strip().splitlines()[-1]}); run: "
            f"{python} -m pip install onnxruntime-qnn==2.7.0 onnx"
        )
    return python


def command(python: str, job: dict[str, Any]) -> list[str]:
    """The command of a job. With -P Python does not look for packages in the worker's folder."""
    return [python, "-P", str(WORKER), json.dumps(job)]


def command_line(python: str, job: dict[str, Any]) -> str:
    """The command of a job as a shell takes it."""
    return shlex.join(command(python, job))


def _run(python: str, job: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(python, job), capture_output=True, text=True, timeout=TIMEOUT)


def work(python: str, job: dict[str, Any]) -> dict[str, Any]:
    """Do one job.

    Args:
        python: An interpreter that has onnxruntime-qnn.
        job: As qnn_worker.py takes it.

    Returns:
        What it answers.

    Raises:
        SimulatorCrashError: A signal ended it.
        UserError: It failed otherwise.
    """
    done = _run(python, job)
    lines = done.stdout.strip().splitlines()
    try:
        result = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        raise _without_answer(python, job, done) from None
    if "error" in result:
        reason = f"({result['error']})"
        if "CPU EP" in result["error"]:
            refused = refusals(python, job)
            if refused:
                reason = f"because of {', '.join(refused)}"
        raise UserError(
            f"{job['model']}: the HTP cannot {job['do']} it {reason}; see python -m export.lint, "
            "or export another --dtype"
        )
    return result


def _without_answer(
    python: str, job: dict[str, Any], done: subprocess.CompletedProcess[str]
) -> UserError:
    """The error of a process that ended without one."""
    lines = [*done.stdout.strip().splitlines(), *done.stderr.strip().splitlines()]
    # The libraries report their settings on every start.
    messages = [line for line in lines if "LIBNATIVE" not in line]
    was_signal = done.returncode < 0
    kind = SimulatorCrashError if was_signal else UserError
    return kind(
        f"{job['model']}: the QNN process ended with code {done.returncode} and said: "
        f"{messages[-1] if messages else 'nothing'}; run {command_line(python, job)} to see all "
        "of it"
    )


def refusals(python: str, job: dict[str, Any]) -> list[str]:
    """The nodes that the HTP refused, out of the verbose log, as `LayerNormalization node_name`."""
    done = _run(python, {**job, "log": VERBOSE})
    text = done.stdout + done.stderr
    nodes = [_refused_node(block) for block in text.split("Validation FAILED")[1:]]
    return list(dict.fromkeys(nodes))[:MOST_REFUSALS]


def _refused_node(block: str) -> str:
    """The operator, and the name where the log has it, of one refusal."""
    kind = re.search(r"OrtNodeUnit \((\w+)\)", block)
    if kind is None:
        return "a node"
    name = re.search(rf"Operator type: {kind[1]} Node name: (\S+)", block)
    if name is None:
        return kind[1]
    return f"{kind[1]} {name[1]}"
