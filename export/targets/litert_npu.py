"""A LiteRT file compiled ahead of time for the NPU of one chip, beside the portable file.

LiteRT's compiler brings a plugin for each vendor; the vendor's own SDK is a package that downloads
it. Without one LiteRT compiles nothing. No SDK could be had here, so that the call was made as far
as LiteRT's refusal.
"""

import importlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.core.errors import UserError, nearest

# Vendor -> the package of its SDK. Samsung's asks for registration.
SDKS = {
    "mediatek": "ai_edge_litert_sdk_mediatek",
    "samsung": "ai_edge_litert_sdk_samsung",
    "qualcomm": "ai_edge_litert_sdk_qualcomm",
    "google_tensor": "ai_edge_litert_sdk_google_tensor",
}
LOG = re.compile(r"See (\S+) for details")
EXAMPLES = "mediatek:MT6991, samsung:E9965, qualcomm:SM8750 or google_tensor:Tensor_G5"


@dataclass(frozen=True)
class NPU:
    """A chip's NPU.

    Attributes:
        vendor: A key of SDKS.
        chip: As LiteRT calls it, such as MT6991.
    """

    vendor: str
    chip: str


def read_npu(text: str) -> NPU:
    """'mediatek:MT6991' -> the NPU.

    Raises:
        UserError: It is not of that form, or the vendor is unknown.
    """
    vendor, colon, chip = text.partition(":")
    if vendor not in SDKS:
        raise UserError(
            f"npu '{text}': vendor '{vendor}' is unknown{nearest(vendor, SDKS)}; write {EXAMPLES}"
        )
    if not colon or not chip:
        raise UserError(f"npu '{text}' names no chip; write {EXAMPLES}")
    return NPU(vendor, chip)


def check_npu(text: str) -> None:
    """Raise UserError for an unknown chip, and for an SDK that is not installed."""
    npu = read_npu(text)
    _target(npu)
    if importlib.util.find_spec(SDKS[npu.vendor]) is None:
        package = SDKS[npu.vendor].replace("_", "-")
        raise UserError(
            f"npu {text} needs the vendor's SDK; run pip install {package}, which downloads it, or "
            "leave npu out: the portable file runs on the CPU and the GPU"
        )


def compile_file(file: Path, text: str) -> dict[str, Any]:
    """Compile a .tflite file; the result lies beside it.

    Args:
        file: The portable file.
        text: As `read_npu` takes it, checked.

    Returns:
        What the manifest says of it: file, vendor, chip, and what of the graph the NPU takes.

    Raises:
        UserError: The vendor's compiler refuses the graph.
    """
    from ai_edge_litert.aot.aot_compile import aot_compile

    npu = read_npu(text)
    folder = file.with_name(f"{file.stem}_{npu.vendor}")
    done = aot_compile(str(file), output_dir=str(folder), target=_target(npu), keep_going=True)
    if not done.models_with_backend:
        why = "; ".join(_reason(str(said)) for _, said in done.failed_backends)
        raise UserError(f"{file.stem}: not compiled for {text}: {why}")
    [(_, model)] = done.models_with_backend
    result = file.with_name(f"{file.stem}_{npu.vendor}_{npu.chip}.tflite")
    model.save(str(result), export_only=True)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    return {
        "file": result.name,
        "vendor": npu.vendor,
        "chip": npu.chip,
        "partitions": str(model.partition_stats),
    }


def _reason(said: str) -> str:
    """What LiteRT says of a failure, with the first error of the file that it refers to."""
    found = LOG.search(said)
    if found is None or not Path(found[1]).is_file():
        return said
    lines = Path(found[1]).read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("ERROR")]
    return errors[0].partition("] ")[2] if errors else said


def _target(npu: NPU) -> Any:
    """LiteRT's description of a chip.

    Raises:
        UserError: LiteRT knows no such chip.
    """
    place = f"ai_edge_litert.aot.vendors.{npu.vendor}"
    importlib.import_module(f"{place}.{npu.vendor}_backend")  # registers its compiler
    target = importlib.import_module(f"{place}.target")
    chips = [str(model.value) for model in target.SocModel if model.value != "ALL"]
    if npu.chip not in chips:
        raise UserError(
            f"npu {npu.vendor}:{npu.chip}: LiteRT knows no such chip"
            f"{nearest(npu.chip, chips)}; choose from {', '.join(chips)}"
        )
    return target.Target(target.SocModel(npu.chip))
