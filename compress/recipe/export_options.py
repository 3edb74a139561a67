"""What may be asked of an export: in a recipe, on the command line and in code, all the same."""

import re
from typing import Literal

from pydantic import Field

from compress.core.config import Strict
from compress.core.errors import UserError
from compress.core.files import FileName

VULKAN, GPU = "vulkan", "gpu"  # values of `delegate`
MIXED_PALETTES = "lut"  # a value of `dtype`: palettes of as many bits as each layer needs


class ExportOptions(Strict):
    """One exported form of a model.

    It is an entry of a recipe's `export`. `python -m export.run` has an option for each key but
    `reference`. What a target cannot do is refused before anything is computed.
    """

    target: FileName = Field(
        description="The runtime to export for: onnx, web, qnn, tensorrt, openvino, executorch, "
        "litert, coreml or ncnn."
    )
    dtype: FileName | None = Field(
        None,
        description="The arithmetic, such as fp16 or w8a8. Without it, the target's default, or a "
        "quantised model's own.",
    )
    phone: str | None = Field(
        None,
        description="The phone that this is for, such as Galaxy S25; the manifest says why it "
        "fits. `export.run --for` takes target, dtype, chip and rewrites from it.",
    )
    components: tuple[str, ...] | None = Field(
        None,
        description="The graphs to write, out of model, encoder, denoiser and decoder. Without it, "
        "the three parts, and for onnx the whole model too.",
    )
    chip: str | None = Field(
        None,
        description="qnn: the chip to compile for, by name, part or vNN. Without it, "
        "snapdragon-8-gen-3.",
    )
    delegate: Literal["xnnpack", "vulkan", "gpu"] = Field(
        "xnnpack",
        description="What computes: XNNPACK on the CPU; for executorch also vulkan, on the GPU, "
        "which does not run here; for litert also gpu, with parity measured on this machine's GPU, "
        "a software one as well, and the manifest says what of each graph it takes.",
    )
    budget: str | None = Field(
        None,
        description="coreml, dtype lut: what all graphs' weights may take, as 2.1MB or 850KB.",
    )
    sensitivity: str | None = Field(
        None,
        description="coreml, dtype lut: a table of `compress.sensitivity`, of what fewer bits "
        "of a layer cost. Without it, that is measured on four crops; `export.run` takes "
        "RUN/sensitivity.json where there is one.",
    )
    npu: str | None = Field(
        None,
        description="litert: the chip whose NPU a further file is compiled for, as "
        "mediatek:MT6991; it needs the vendor's SDK.",
    )
    rewrite: str | None = Field(
        None,
        description="The NPU to rewrite the graphs for (qnn, mediatek, coreml, litert), or names "
        "of rewrites with commas between.",
    )
    lr_size: tuple[int, int] = Field(
        (128, 128), description="Height and width of the low-resolution input, in pixels."
    )
    dynamic: bool = Field(
        False,
        description="onnx: take any size in whole multiples of what the network takes, at some "
        "cost in speed.",
    )
    reference: bool = Field(
        True,
        description="onnx: also export the source in float32, to state size and speed as ratios.",
    )
    low_bits: Literal["packed", "int2", "int4"] = Field(
        "packed",
        description="onnx: how weights of one or two bits are written. packed is bytes that a "
        "function in the file unpacks; int2 and int4 are integers of a newer opset.",
    )
    opset: int | None = Field(
        None,
        description="onnx: the opset. Without it 20, or 21 with 16-bit activations or int4, or 25 "
        "with int2.",
    )
    calibration: str = Field(
        "embedded",
        description="Where the ranges of a float model that is quantised here come from: embedded, "
        "or a folder of low-resolution photographs.",
    )
    images: int = Field(16, description="How many crops of these photographs are used.")
    seed: int = Field(
        0, ge=0, le=2**31 - 1, description="Seed of the crops and of the parity check."
    )
    python: str | None = Field(
        None, description="qnn: an interpreter that has onnxruntime-qnn, if this one has not."
    )
    engine_dir: str | None = Field(
        None,
        description="web: the folder that has onnxruntime-web, or a node_modules that has it. "
        "Without it, node_modules here or above, or NODE_PATH.",
    )
    kit: bool = Field(
        False,
        description="onnx, qnn, litert, coreml, ncnn: also write kit/, for an app: run.py's "
        "arithmetic as a C++ header, and a project for Android or iOS.",
    )
    eight_bit_io: bool = Field(
        False,
        description="qnn, w8a8: inputs and outputs in 8 bits as well. They are in 16 by default.",
    )
    threads: int | None = Field(
        None, description="CPU threads of the parity check. Without it, the runtime's choice."
    )
    tolerance: float | None = Field(
        None,
        description="Parity with torch in dB below which the export fails. Without it, a value by "
        "target and dtype.",
    )
    probes: tuple[str, ...] | None = Field(
        None, description="The images to check parity on. Without it, all."
    )

    @property
    def folder(self) -> str:
        """The name of the exported folder in a run, such as `qnn_w8a8`."""
        name = self.target if self.dtype is None else f"{self.target}_{self.dtype}"
        if self.delegate in (VULKAN, GPU):
            name += f"_{self.delegate}"
        return name if self.low_bits == "packed" else f"{name}_{self.low_bits}"


def parse_size(text: str) -> tuple[int, int]:
    """'128x96' (height x width) or '128' -> (height, width).

    Raises:
        UserError: It is no size.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise UserError(f"--lr-size '{text}' is not a size; write height x width like 128x128")
    return int(match[1]), int(match[2] or match[1])


def parse_shape(text: str) -> tuple[int, int]:
    """'1x3x128x96' -> (128, 96).

    Raises:
        UserError: It is not the shape of one image.
    """
    match = re.fullmatch(r"1x3x(\d+)x(\d+)", text)
    if not match:
        raise UserError(
            f"--shape '{text}' is not one image; write 1x3xHEIGHTxWIDTH like 1x3x128x128"
        )
    return int(match[1]), int(match[2])
