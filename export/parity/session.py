"""onnxruntime sessions on the CPU, with integers that are exact on this processor."""

from pathlib import Path

import onnxruntime as ort

from compress.core.errors import UserError
from export.targets.host.processor import session_entries

ERRORS_ONLY = 3  # onnxruntime's log severity
CPU = ["CPUExecutionProvider"]


def session_options(threads: int | None = None, exact: bool | None = None) -> ort.SessionOptions:
    """Settings of a quiet session.

    Args:
        threads: CPU threads; None for one per core.
        exact: True asks for kernels that cannot overflow, whatever the processor. False leaves
            onnxruntime its fast ones. None asks for exact ones where the processor needs them, so
            that integers are exact everywhere.
    """
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.inter_op_num_threads = 1
    for key, value in session_entries(exact).items():
        options.add_session_config_entry(key, value)
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def session(model: Path | bytes, threads: int | None = None) -> ort.InferenceSession:
    """A session of an ONNX file, or of its bytes, with `session_options(threads)`.

    Raises:
        UserError: There is no such file, or onnxruntime cannot load it.
    """
    options = session_options(threads)
    if isinstance(model, bytes):
        return ort.InferenceSession(model, options, providers=CPU)
    if not Path(model).is_file():
        raise UserError(f"{model}: no such ONNX file; export it first with python -m export.run")
    try:
        return ort.InferenceSession(str(model), options, providers=CPU)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise UserError(
            f"{model}: onnxruntime cannot load this file ({str(error).splitlines()[0]}); "
            "export it again"
        ) from error


def static_size(loaded: ort.InferenceSession) -> tuple[int, int] | None:
    """The low-resolution size that a file was exported for.

    Returns:
        Height and width in pixels; None where the file takes any size.

    Raises:
        UserError: The file is not of this toolkit.
    """
    notes = loaded.get_modelmeta().custom_metadata_map
    if "lr_size" not in notes:
        raise UserError(
            "the ONNX file was not written by this toolkit: it does not say its lr_size"
        )
    if notes["dynamic"] == "true":
        return None
    height, width = map(int, notes["lr_size"].split("x"))
    return height, width
